package fsck_test

import (
	"testing"
)

func TestSoundLogs(t *testing.T) {
	t.Parallel()
	for name, l := range map[string]*log{"small": small(), "big": big()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts := l.options()
			opts.Signatures = true
			r, err := check(t, l.objects, opts)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", r)
		})
	}
}
