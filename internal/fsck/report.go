package fsck

import (
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
)

// Ground says what a fault rests on.
type Ground int

// The grounds of faults.
const (
	// GroundObject is an object that is not what a signed tree demands.
	GroundObject Ground = iota
	// GroundSigned is what the log has signed twice and differently; it does not
	// matter who serves it.
	GroundSigned
	// GroundAbsent is an object that is not there, and a checkpoint that is older
	// than another or that no key verifies. A cache that lags behind looks so.
	GroundAbsent
)

// Fault is something wrong with a log, proved by what the log itself serves.
type Fault struct {
	Path   string // of the object at fault; "checkpoint" for the tree head
	Index  int64  // of the entry, or of the first entry under the hash; -1 if it concerns none
	Ground Ground
	// Got is what the object says, Want what it has to say; empty if the fault
	// has no such pair. Hashes are lower-case hex.
	Got, Want string
	Detail    string // a sentence without the path
}

// on sets the ground of a fault.
func (f *Fault) on(g Ground) *Fault {
	f.Ground = g
	return f
}

// Error implements error.
func (f *Fault) Error() string { return fmt.Sprintf("%s: %s", f.Path, f.Detail) }

// faultf makes a fault without an index or a pair.
func faultf(path, format string, args ...any) *Fault {
	return &Fault{Path: path, Index: -1, Detail: fmt.Sprintf(format, args...)}
}

// mismatch makes a fault of two values, which it adds to its sentence.
func mismatch(path string, index int64, got, want, format string, args ...any) *Fault {
	detail := fmt.Sprintf(format, args...)
	if got != "" || want != "" {
		detail = fmt.Sprintf("%s: got %s, want %s", detail, got, want)
	}
	return &Fault{Path: path, Index: index, Got: got, Want: want, Detail: detail}
}

// UnknownError says that an object could not be checked, which proves nothing
// about the log.
type UnknownError struct {
	Path string
	Err  error
}

// Error implements error.
func (e *UnknownError) Error() string {
	return fmt.Sprintf("could not be checked: %s: %v", e.Path, e.Err)
}

// Unwrap returns the cause.
func (e *UnknownError) Unwrap() error { return e.Err }

// Note is something that is no fault but that an operator may want to mend.
type Note struct {
	What  string `json:"what"`
	Count int64  `json:"count"` // how often it was seen
	First string `json:"first"` // path where it was seen first, perhaps with an entry
}

// maxNotes bounds the kinds of notes in a report; their texts are from a closed
// set but for what servers say in headers.
const maxNotes = 100

// Report says what was checked.
type Report struct {
	Source    string    `json:"source"`
	Origin    string    `json:"origin"`
	LogID     []byte    `json:"log_id"` // 32 bytes, base64 in JSON
	TreeSize  int64     `json:"tree_size"`
	RootHash  string    `json:"root_hash"` // lower-case hex
	Timestamp time.Time `json:"timestamp"` // of the checkpoint

	ResumedAt   int64 `json:"resumed_at"` // entries below were checked by the run that this one continues
	Entries     int64 `json:"entries"`    // hashed by this run
	DataTiles   int64 `json:"data_tiles"`
	HashTiles   int64 `json:"hash_tiles"`
	NamesTiles  int64 `json:"names_tiles"`
	Issuers     int64 `json:"issuers"`    // fetched and hashed; again if there are very many
	Partials    int64 `json:"partials"`   // partial tiles compared with wider ones
	SinceSize   int64 `json:"since_size"` // of the remembered checkpoint that this one extends; 0 if none
	BytesLoaded int64 `json:"bytes_loaded"`

	Notes []Note `json:"notes"`
}

// tally counts while a run goes on. It is safe for concurrent use.
type tally struct {
	entries, dataTiles, hashTiles, namesTiles, issuers, partials, bytes atomic.Int64

	mu    sync.Mutex
	notes []Note // guarded by mu
}

func (t *tally) note(path, format string, args ...any) {
	t.add(Note{What: fmt.Sprintf(format, args...), Count: 1, First: path})
}

func (t *tally) add(n Note) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.notes {
		if t.notes[i].What == n.What {
			t.notes[i].Count += n.Count
			return
		}
	}
	if len(t.notes) < maxNotes {
		t.notes = append(t.notes, n)
	}
}

// fill puts the counts into a report.
func (t *tally) fill(r *Report) {
	r.Entries, r.DataTiles, r.HashTiles = t.entries.Load(), t.dataTiles.Load(), t.hashTiles.Load()
	r.NamesTiles, r.Issuers, r.Partials = t.namesTiles.Load(), t.issuers.Load(), t.partials.Load()
	r.BytesLoaded = t.bytes.Load()
	t.mu.Lock()
	defer t.mu.Unlock()
	r.Notes = append([]Note{}, t.notes...)
}

func hexOf[T ~[32]byte](h T) string { return hex.EncodeToString(h[:]) }

// Shown makes text of a stranger fit to be printed.
func Shown(s string) string { return shown(s) }

func shown(s string) string {
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
}
