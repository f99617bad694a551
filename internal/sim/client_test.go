package sim

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"time"

	"kiln/internal/sim/auditor"
)

// submission is a chain that a client wants an SCT for.
type submission struct {
	id    int
	chain int // of base.chains

	state    state
	at       time.Duration // not before
	attempts int
	life     *life // that is asked
	cancel   context.CancelFunc
	answer   []byte // the SCT
}

type state int

const (
	waiting state = iota // to be sent
	running
	served  // it has its SCT
	refused // the log is frozen
)

// reply is what came back.
type reply struct {
	s       *submission
	attempt int
	life    *life
	code    int
	body    []byte
}

// send starts a submission at a node.
func (w *world) send(s *submission, n *node) {
	s.state, s.life, s.attempts = running, n.life, s.attempts+1
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.Background())
	chain, attempt, l := w.base.chains[s.chain], s.attempts, n.life
	req := httptest.NewRequestWithContext(ctx, http.MethodPost, "/ct/v1/"+chain.Endpoint(), bytes.NewReader(w.base.bodies[s.chain]))
	cancel := s.cancel
	w.told(w.audit.Submitted(auditor.Submission{Chain: chain.Submitted(), Precert: chain.Precert}))
	w.strays.Go(func() {
		defer cancel()
		rec := httptest.NewRecorder()
		l.log.Submission().ServeHTTP(rec, req)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.replies = append(w.replies, reply{s, attempt, l, rec.Code, rec.Body.Bytes()})
	})
}

// orphan tells the clients of a process that died.
func (w *world) orphan(l *life) {
	for _, s := range w.submissions {
		if s.state == running && s.life == l {
			w.postpone(s)
		}
	}
}

// postpone has a client come back later.
func (w *world) postpone(s *submission) {
	s.state, s.life = waiting, nil
	s.at = w.now() + time.Duration(w.rand.IntN(1500)+100)*time.Millisecond
}

// hear takes the answers that have come, in canonical order.
func (w *world) hear() {
	w.mu.Lock()
	replies := w.replies
	w.replies = nil
	w.mu.Unlock()
	slices.SortFunc(replies, func(a, b reply) int {
		if a.s.id != b.s.id {
			return a.s.id - b.s.id
		}
		return a.attempt - b.attempt
	})
	for _, r := range replies {
		if r.life.dead {
			continue // nothing leaves a dead process
		}
		w.heard(r)
	}
}

func (w *world) heard(r reply) {
	s := r.s
	current := s.state == running && s.attempts == r.attempt
	w.note(r.life.name(), "answers", "submission "+strconv.Itoa(s.id), strconv.Itoa(r.code))
	w.mark("answer " + strconv.Itoa(r.code))
	switch {
	case r.code == http.StatusOK:
		// Also when the client has gone away: the bytes were on their way.
		chain := w.base.chains[s.chain]
		w.told(w.audit.Returned(auditor.Submission{Chain: chain.Certificates, Precert: chain.Precert}, r.body))
		if s.answer != nil && !bytes.Equal(s.answer, r.body) {
			w.mark("second-sct")
		}
		s.answer = r.body
		if current || s.state == waiting {
			s.state = served
		}
	case r.code == http.StatusGone && w.frozen && current:
		s.state = refused
	case r.code >= 400 && r.code < 500 && r.code != http.StatusRequestTimeout, r.code == http.StatusInternalServerError:
		w.told(errors.New("submission " + strconv.Itoa(s.id) + " was answered " + strconv.Itoa(r.code) + ": " + string(r.body)))
	case current:
		w.postpone(s)
	}
}
