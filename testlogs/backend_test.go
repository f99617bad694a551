package testlogs_test

import (
	"testing"

	"kiln/testlogs"
)

// TestBackends has a whole log on each backend, in one line, and reads back what
// it submitted, over a restart.
func TestBackends(t *testing.T) {
	t.Parallel()
	for _, b := range testlogs.Backends() {
		t.Run(b.String(), func(t *testing.T) {
			t.Parallel()
			l := testlogs.Start(t, testlogs.Options{Backend: b})
			for range 2 {
				for range 3 {
					chain, err := l.CA.Precert(testlogs.LeafOptions{})
					if err != nil {
						t.Fatal(err)
					}
					sct, err := l.Client().Submit(t.Context(), chain)
					if err != nil {
						t.Fatal(err)
					}
					l.Auditor().Remember(sct)
				}
				if _, err := l.Auditor().Audit(t.Context()); err != nil {
					t.Error(err)
				}
				l.Restart()
			}
		})
	}
}
