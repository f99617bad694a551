package fsck_test

import (
	"fmt"
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
			tiles := (l.tree.N + 255) / 256
			if r.Entries != l.tree.N || r.DataTiles != tiles || r.HashTiles < tiles || r.Issuers != 3 || r.Partials == 0 || r.TreeSize != l.tree.N {
				t.Errorf("report is %+v", r)
			}
			unreadable := name == "big"
			if unreadable != (len(r.Notes) == 1) || unreadable && r.Notes[0].Count != l.tree.N {
				t.Errorf("notes are %+v", r.Notes)
			}
		})
	}
}

// Where tiles are just full, or not at all.
func TestSizes(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{1, 2, 255, 256, 257, 511, 512, 513} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			l := small()
			l = l.forge(l.leaves()[:size], size)
			for _, parallel := range []int{1, 7} {
				opts := l.options()
				opts.Parallel = parallel
				if r, err := check(t, l.objects, opts); err != nil || r.Entries != size {
					t.Errorf("%+v, %v", r, err)
				}
			}
		})
	}
	t.Run("65536", func(t *testing.T) {
		t.Parallel()
		l := big()
		l = l.forge(l.leaves()[:1<<16], 1<<16)
		if r, err := check(t, l.objects, l.options()); err != nil || r.Entries != 1<<16 {
			t.Errorf("%+v, %v", r, err)
		}
	})
}
