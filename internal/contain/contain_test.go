package contain

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	t.Parallel()
	var none []int
	tests := map[string]struct {
		f      func() error
		panics bool
		is     error
		says   string
	}{
		"returns":             {f: func() error { return nil }},
		"fails":               {f: func() error { return io.EOF }, is: io.EOF, says: "EOF"},
		"panics":              {f: func() error { panic("what it says") }, panics: true, says: "what it says"},
		"panics of the run":   {f: func() error { return fmt.Errorf("%d", none[len(none)]) }, panics: true, says: "out of range"},
		"panics by an error":  {f: func() error { panic(errors.New("an error")) }, panics: true, says: "an error"},
		"panics with nothing": {f: func() error { panic(nil) }, panics: true, says: "nil"}, //nolint:govet // what a bug may do
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := Run(test.f)
			if Is(err) != test.panics || test.is != nil && !errors.Is(err, test.is) || (err == nil) != (test.says == "") {
				t.Fatalf("got %v", err)
			}
			if err == nil {
				return
			}
			if !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "contain_test.go") != test.panics {
				t.Errorf("it says %v", err)
			}
			if again := fmt.Errorf("wrapped: %w", err); Is(again) != test.panics {
				t.Error("a wrapped one is not told")
			}
		})
	}
}

func TestDo(t *testing.T) {
	t.Parallel()
	if err := Do(func() {}); err != nil {
		t.Error(err)
	}
	if err := Do(func() { panic(1) }); !Is(err) {
		t.Errorf("got %v", err)
	}
}
