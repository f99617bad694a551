package watch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"syscall"
	"time"

	"kiln/checkpoint"
	"kiln/internal/fsck"
	"kiln/storage"
)

// Event is something that a watcher says.
type Event struct {
	Time  time.Time `json:"time"`
	Event string    `json:"event"` // begun, grown, unknown, stale, fresh, cdn, unsettled, fault, fine

	TreeSize    int64     `json:"tree_size"`
	OldTreeSize int64     `json:"old_tree_size"`
	RootHash    string    `json:"root_hash,omitempty"`  // lower-case hex
	Timestamp   time.Time `json:"timestamp,omitzero"`   // of the checkpoint
	Path        string    `json:"path,omitempty"`       // of the object
	LeafIndex   int64     `json:"leaf_index,omitempty"` // -1 if it concerns none
	Got         string    `json:"got,omitempty"`
	Want        string    `json:"want,omitempty"`
	Detail      string    `json:"detail,omitempty"`
}

// Kinds of alarms, as the metric has them.
const (
	alarmFault   = "fault" // of the log itself
	alarmCDN     = "cdn"   // of what stands before it, or of one of the two
	alarmStale   = "stale"
	alarmUnknown = "unknown" // for so long that somebody should look
)

var alarms = []string{alarmFault, alarmCDN, alarmStale, alarmUnknown}

// reasons are why a poll could not tell.
var reasons = []string{"dns", "timeout", "connect", "tls", "status", "missing", "lag", "answer", "other"}

// teller remembers what was said, so that nothing is said at every poll.
type teller struct {
	w        *Watcher
	log      *slog.Logger // of what is told as an event
	unknowns int          // polls in a row
	toldAt   time.Time    // when unknown was said last
	loud     bool         // it was said as an ERROR
	fault    string       // that was said last
	faultAt  time.Time
	stale    bool
}

func (t *teller) set(kind string, on bool) {
	v := 0.0
	if on {
		v = 1
	}
	t.w.metrics.alarm.WithLabelValues(kind).Set(v)
}

func (w *Watcher) event(name string) Event {
	c := w.Status().Checkpoint
	e := Event{Time: w.cfg.Now().UTC(), Event: name, TreeSize: c.Tree.N, OldTreeSize: c.Tree.N, LeafIndex: -1}
	if c.TimestampMillis > 0 {
		e.RootHash, e.Timestamp = fmt.Sprintf("%x", c.Tree.Hash[:]), time.UnixMilli(c.TimestampMillis).UTC()
	}
	return e
}

// verified says that the log has grown.
func (t *teller) verified(old, c checkpoint.Checkpoint) {
	w := t.w
	switch {
	case !w.begun:
		t.log.Info("watching the log", "tree_size", c.Tree.N, "timestamp", c.TimestampMillis)
		w.cfg.Events(w.event("begun"))
	case old.Tree.N != c.Tree.N:
		t.log.Debug("verified", "old_tree_size", old.Tree.N, "tree_size", c.Tree.N, "timestamp", c.TimestampMillis)
		e := w.event("grown")
		e.OldTreeSize = old.Tree.N
		w.cfg.Events(e)
	}
}

// tellFine notes a poll at which all was well, but perhaps for the checkpoint's
// age.
func (w *Watcher) tellFine() {
	t := &w.teller
	now := w.cfg.Now()
	w.metrics.polls.WithLabelValues("fine").Inc()
	was := w.Status()
	w.open = nil
	if w.note == nil {
		w.update(func(s *Status) { s.FineAt, s.Unknown, s.Since, s.Fault, s.Where = now, nil, time.Time{}, "", "" })
		t.set(alarmCDN, false)
		t.fault = ""
	} else { // of the log: that it is not seen any more takes nothing back
		w.update(func(s *Status) { s.Unknown, s.Since = nil, time.Time{} })
	}
	if t.unknowns > 0 || was.Fault != "" && w.note == nil {
		t.log.Info("the log can be watched again, and is well", "tree_size", was.Checkpoint.Tree.N)
		w.cfg.Events(w.event("fine"))
	}
	t.unknowns, t.loud = 0, false
	t.set(alarmUnknown, false)
	w.tellAge(now)
}

// tellAge says whether the newest checkpoint is stale, which proves nothing.
func (w *Watcher) tellAge(now time.Time) {
	t := &w.teller
	limit := w.cfg.MaxAge
	if limit == 0 {
		limit = w.follower.MergeDelay() + time.Minute
	}
	newest := w.Status().Checkpoint
	if newest.TimestampMillis == 0 {
		return
	}
	at := time.UnixMilli(newest.TimestampMillis)
	stale := now.Sub(at) > limit || at.Sub(now) > maxFuture
	t.set(alarmStale, stale && w.note == nil)
	w.update(func(s *Status) {
		if s.StaleFor = 0; stale {
			s.StaleFor = max(now.Sub(at)-limit, 1)
		}
	})
	if stale == t.stale || w.note != nil {
		return
	}
	t.stale = stale
	if !stale {
		t.log.Info("the checkpoint is fresh again", "timestamp", at.UnixMilli())
		w.cfg.Events(w.event("fresh"))
		return
	}
	detail := fmt.Sprintf("the newest checkpoint is of %s, which is %v ago, want at most %v", at.UTC().Format(time.RFC3339), now.Sub(at).Round(time.Second), limit)
	if at.After(now) {
		detail = fmt.Sprintf("the newest checkpoint is of %s, which is in %v: one of the clocks is wrong", at.UTC().Format(time.RFC3339), at.Sub(now).Round(time.Second))
	}
	t.log.Warn("stale: "+staleHint, "path", "checkpoint", "timestamp", at.UnixMilli(), "err", errors.New(detail))
	e := w.event("stale")
	e.Path, e.Detail = "checkpoint", detail
	w.cfg.Events(e)
}

const staleHint = "the log has stopped signing, or a cache keeps its checkpoint for too long"

// tellUnknown notes a poll that could not tell.
func (w *Watcher) tellUnknown(err error) {
	t := &w.teller
	now := w.cfg.Now()
	w.metrics.polls.WithLabelValues("unknown").Inc()
	w.metrics.unknown.WithLabelValues(reasonOf(err)).Inc()
	t.unknowns++
	s := w.update(func(s *Status) {
		s.Unknown = err
		if s.Since.IsZero() {
			s.Since = now
		}
	})
	w.tellAge(now)
	tooLong := now.Sub(s.Since) >= unknownTooFar
	t.set(alarmUnknown, tooLong)
	if t.unknowns > 1 && now.Sub(t.toldAt) < tellAgain && (!tooLong || t.loud) {
		return
	}
	t.toldAt = now
	if tooLong {
		t.loud = true
		t.log.Error("the log could not be watched for a long time: nobody would know of a fault", "elapsed", now.Sub(s.Since).Round(time.Second), "err", err)
	} else {
		t.log.Warn("the log cannot be watched at the moment, which says nothing about it; trying again", "err", err)
	}
	e := w.event("unknown")
	e.Detail = err.Error()
	var u *fsck.UnknownError
	if errors.As(err, &u) {
		e.Path = u.Path
	}
	w.cfg.Events(e)
}

// tellFault notes a confirmed fault; one of the log itself for good.
func (w *Watcher) tellFault(f *finding) {
	t := &w.teller
	now := w.cfg.Now()
	w.metrics.polls.WithLabelValues("fault").Inc()
	w.metrics.faults.WithLabelValues(string(f.where), string(f.check.Kind)).Inc()
	t.unknowns = 0
	if w.open = nil; f.where != inLog {
		w.open = f
	}
	first := w.note == nil && f.where == inLog
	if first {
		w.note = &faultNote{
			Check: f.check, Path: f.fault.Path, Index: f.fault.Index, Ground: int(f.fault.Ground),
			Got: f.fault.Got, Want: f.fault.Want, Detail: f.fault.Detail, At: now.UTC().Format(time.RFC3339),
		}
		w.saveIfDue(true)
	}
	if w.note == nil || first {
		w.update(func(s *Status) { s.Unknown, s.Since, s.Fault, s.Where = nil, time.Time{}, f.String(), string(f.where) })
	}
	t.set(alarmFault, w.note != nil)
	t.set(alarmCDN, f.where != inLog)
	if said := string(f.where) + f.fault.Path; said != t.fault || now.Sub(t.faultAt) >= tellAgain {
		t.fault, t.faultAt = said, now
		t.log.Error(advice[f.where], "path", f.fault.Path, "leaf_index", f.fault.Index, "err", errors.New(f.String()))
		e := w.event(map[where]string{inLog: "fault", inCDN: "cdn", inUnsettled: "unsettled"}[f.where])
		e.Path, e.LeafIndex, e.Got, e.Want, e.Detail = f.fault.Path, f.fault.Index, f.fault.Got, f.fault.Want, f.fault.Detail+" ("+f.how+")"
		w.cfg.Events(e)
	}
	if first {
		w.cfg.Halt(fmt.Errorf("a fault was proved by the log's public objects: %s", f))
	}
}

var advice = map[where]string{
	inLog:       "proven fault of the log: keep everything as it is, and compare with copies",
	inCDN:       "what stands before the log serves what the log does not: purge its cache, or repair it",
	inUnsettled: "readers get what is not the log's, and its own storage cannot be read to tell whose fault it is",
}

// reasonOf sorts an error into reasons.
func reasonOf(err error) string {
	var dns *net.DNSError
	var timeout interface{ Timeout() bool }
	var status *statusError
	var notLog *notLogError
	var lag *lagError
	switch {
	case errors.As(err, &lag):
		return "lag"
	case errors.As(err, &dns):
		return "dns"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case isTLS(err):
		return "tls"
	case errors.Is(err, storage.ErrNotFound):
		return "missing"
	case errors.As(err, &status):
		return "status"
	case errors.As(err, &notLog):
		return "answer"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "connect"
	}
	return "other"
}

func isTLS(err error) bool {
	var record tls.RecordHeaderError
	var verify *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &record) || errors.As(err, &verify) || errors.As(err, &unknown) || errors.As(err, &host) || errors.As(err, &invalid)
}
