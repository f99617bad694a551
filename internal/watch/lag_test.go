package watch_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"kiln/entry"
	"kiln/internal/watch"
)

// lags are what a node of a CDN that is behind answers: something is not there as
// yet, or the checkpoint is an older one.
var lags = map[string]struct {
	path string // that it has not
	old  bool   // it has the checkpoint of before
	grow int    // by which that one is smaller
}{
	"no hash tile of the right edge": {path: "tile/0/002.p/88"},
	"no hash tile of a higher level": {path: "tile/1/000.p/2"},
	"no data partial":                {path: "tile/data/002.p/88"},
	"no issuer":                      {path: anIssuer()},
	"no checkpoint":                  {path: "checkpoint"},
	"older checkpoint":               {old: true},
	"checkpoint of a smaller tree":   {old: true, grow: 40},
}

// lagging is a world of 600 entries, polled so often that the next poll reads all
// of the right edge, and what makes its readers see a node that lags.
func lagging(t *testing.T, name string, own bool) (w *world, lag func(http.ResponseWriter, *http.Request) bool) {
	t.Helper()
	c := lags[name]
	w = newWorld(t, 600-c.grow)
	old, _ := w.store.get("checkpoint")
	w.clock.add(time.Second)
	if w.sign(); c.grow > 0 {
		w.grow(c.grow)
	}
	if own {
		w.conf.Storage = w.store
	}
	w.watch()
	w.poll(wholeEvery)
	w.fine()
	return w, func(rw http.ResponseWriter, r *http.Request) bool {
		switch path := strings.TrimPrefix(r.URL.Path, "/log/"); {
		case path == c.path:
			http.NotFound(rw, r)
		case path == "checkpoint" && c.old:
			rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = rw.Write(old)
		default:
			return false
		}
		return true
	}
}

// unaccused checks that a poll could not tell, and that this is not held against
// anybody.
func (w *world) unaccused() {
	w.t.Helper()
	s := w.w.Status()
	if s.Unknown == nil || s.Fault != "" || w.w.Health() != nil || len(w.halted) > 0 {
		w.t.Fatalf("status is %+v, health %v, halted %v, want that it is unknown", s, w.w.Health(), w.halted)
	}
	for _, kind := range []string{"fault", "cdn", "unsettled"} {
		if e := w.last(kind); e != nil {
			w.t.Fatalf("%s was told: %+v", kind, e)
		}
	}
	for _, kind := range []string{"fault", "cdn"} {
		if w.metric("kiln_watch_alarm", "kind="+kind) != 0 {
			w.t.Fatalf("the alarm %s is on", kind)
		}
	}
}

// A node that lags for a poll or two is unknown, be it of an own log or a
// stranger's; what lags for three is told, and stops no log whose storage is right.
func TestLag(t *testing.T) {
	t.Parallel()
	for name, c := range lags {
		for _, own := range []bool{true, false} {
			t.Run(name+map[bool]string{true: ", own log", false: ", a stranger's"}[own], func(t *testing.T) {
				t.Parallel()
				w, lag := lagging(t, name, own)
				for _, polls := range []int{1, 2, 1, 2} { // each time it begins to count anew
					w.before(lag)
					for range polls {
						w.poll(1)
						w.unaccused()
						if c.path != "checkpoint" && !watch.MayLag(w.w.Status().Unknown) {
							t.Errorf("it is not said that it may lag: %v", w.w.Status().Unknown)
						}
					}
					w.before(nil)
					w.sign()
					w.poll(wholeEvery - polls)
					w.fine()
				}
				if c.path == "checkpoint" {
					return // without one there is nothing that could be held against the log
				}
				if got := w.metric("kiln_watch_unknown_total", "reason=lag"); got != 6 {
					t.Errorf("%v polls are counted as lag, want 6", got)
				}
				w.before(lag)
				w.poll(2)
				w.unaccused()
				w.poll(1)
				kind, stops := "cdn", 0
				if !own {
					kind, stops = "fault", 1 // of what the URL serves: there is nothing else to ask
				}
				if w.last(kind) == nil || w.w.Health() == nil || len(w.halted) != stops {
					t.Errorf("after three polls: health %v, halted %v, events %+v", w.w.Health(), w.halted, w.events)
				}
			})
		}
	}
}

// One node of two that lags for good, so that every other poll sees it, accuses
// nobody.
func TestEveryOtherPollLags(t *testing.T) {
	t.Parallel()
	for name := range lags {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, lag := lagging(t, name, false)
			for range 4 * wholeEvery {
				w.before(lag)
				w.poll(1)
				if w.w.Status().Unknown != nil { // else it was not asked for what is not there
					w.unaccused()
				}
				w.before(nil)
				w.sign()
				w.poll(1)
				w.fine()
			}
			if w.metric("kiln_watch_unknown_total", "reason=lag")+w.metric("kiln_watch_unknown_total", "reason=missing") < 4 {
				t.Error("it was hardly ever seen to lag")
			}
		})
	}
}

// SCTs that were answered before a restart are held against the log after it: one
// that the tree does not keep is found when its turn comes.
func TestSampleOutlivesARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 600)
	w.conf.Storage = w.store
	watcher := w.watch()
	w.poll(1)
	w.fine()
	at := time.Date(2026, 10, 3, 12, 0, 1, 0, time.UTC).UnixMilli()
	for i, index := range []int64{3, 100, 300, 301, 599} {
		sct := entry.SCT{Placement: entry.Placement{Index: index, TimestampMillis: at}}
		if i == 2 {
			sct.TimestampMillis--
		}
		watcher.Offer(w.sent[index], sct)
	}
	watcher.Close() // before any poll could look for them

	w.watch()
	f := planted{path: "tile/data/001", says: []string{"answered an SCT for index 300", "of an entry with timestamp"}}
	f.check(t, w, 5*wholeEvery)
}
