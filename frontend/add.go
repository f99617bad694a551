package frontend

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"kiln/entry"
)

// errSlots says that MaxInFlight submissions are being worked on, or twice as
// many being read, or half of either from this client.
var errSlots = &entry.OverloadedError{What: "submission queue", RetryAfter: time.Second}

// errLarge says that large bodies have all the memory that is for them.
var errLarge = &entry.OverloadedError{What: "memory for large submissions", RetryAfter: time.Second}

// intake is one submission and what it holds of the frontend's bounds.
type intake struct {
	*Frontend
	client string
	large  int64 // held of Frontend.large
}

// add takes a submission from the connection to its SCT. unread says that the
// body was not read to its end.
func (f *Frontend) add(w http.ResponseWriter, r *http.Request, typ entry.Type) (sct entry.SCT, unread bool, err error) {
	in := &intake{Frontend: f, client: clientOf(r.RemoteAddr)}
	if f.readOnly() {
		return entry.SCT{}, true, entry.ErrReadOnly
	}
	if !f.working.fits(in.client, 1) {
		return entry.SCT{}, true, errSlots // at once, while it is so
	}
	f.metrics.inFlight.Inc()
	defer f.metrics.inFlight.Dec()
	defer func() {
		if in.large > 0 {
			f.large.give(in.client, in.large)
		}
	}()
	certificates, unread, err := in.readChain(w, r)
	if err != nil {
		return entry.SCT{}, unread, err
	}
	// Not before: a body may take its time, and these places are for work.
	if !f.working.take(in.client, 1) {
		return entry.SCT{}, false, errSlots
	}
	defer f.working.give(in.client, 1)
	parent := r.Context()
	if in.large > 0 {
		// The entry stays in memory until it is logged, whether its client stays
		// or not: so does what it holds.
		parent = context.WithoutCancel(parent)
	}
	ctx, cancel := context.WithTimeout(parent, f.cfg.Timeout)
	defer cancel()
	sct, err = f.submit(ctx, certificates, typ)
	return sct, false, err
}

// submit takes a chain to its SCT. The order matters: a duplicate is answered
// before the leaf's signature is verified, which costs most, and the chain is
// stored before the batcher has the entry (SUB-37).
func (f *Frontend) submit(ctx context.Context, certificates [][]byte, typ entry.Type) (entry.SCT, error) {
	candidate, err := f.cfg.Validator.Prepare(certificates, typ)
	if err != nil {
		return entry.SCT{}, err
	}
	p := candidate.Pending()
	if sct, ok := f.cfg.Batcher.Lookup(ctx, p.Key(), p.Digest()); ok {
		return sct, nil
	}
	if err := candidate.VerifyLeaf(); err != nil {
		return entry.SCT{}, err
	}
	if err := f.storeIssuers(ctx, candidate.Issuers()); err != nil {
		return entry.SCT{}, err
	}
	return f.cfg.Batcher.Add(ctx, p)
}

// readChain reads and parses the body.
func (in *intake) readChain(w http.ResponseWriter, r *http.Request) (certificates [][]byte, unread bool, err error) {
	if !in.reading.take(in.client, 1) {
		return nil, true, errSlots
	}
	defer in.reading.give(in.client, 1)
	buf, ok := in.bodies.Get().(*bytes.Buffer)
	if !ok {
		buf = new(bytes.Buffer)
	}
	defer func() {
		if buf.Cap() <= 2*smallBody { // a large one is too much to keep
			buf.Reset()
			in.bodies.Put(buf)
		}
	}()
	if unread, err := in.readBody(w, r, buf); err != nil {
		return nil, unread, err
	}
	in.metrics.bodyBytes.Observe(float64(buf.Len()))
	certificates, err = parseBody(buf.Bytes(), maxChain)
	return certificates, false, err
}

// readBody reads the body into buf within MaxBody, BodyTimeout and what large
// bodies may take.
func (in *intake) readBody(w http.ResponseWriter, r *http.Request, buf *bytes.Buffer) (unread bool, err error) {
	most := in.cfg.MaxBody
	tooLarge := &requestError{http.StatusRequestEntityTooLarge, reasonTooLarge, fmt.Sprintf(
		"body is too large; this log takes at most %d bytes", most)}
	if r.ContentLength > most {
		return true, tooLarge
	}
	// A recorder in a test has no deadlines, which is all that can fail here.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(in.cfg.BodyTimeout))
	if r.ContentLength > 0 {
		buf.Grow(int(min(r.ContentLength, smallBody)) + 1 + bytes.MinRead)
	}
	_, err = buf.ReadFrom(io.LimitReader(r.Body, min(most, smallBody)+1))
	if err == nil && buf.Len() > smallBody && int64(buf.Len()) <= most {
		size := r.ContentLength
		if size < 0 {
			size = most
		}
		if !in.holdLarge(size) {
			return true, errLarge
		}
		buf.Grow(int(size) + 1 + bytes.MinRead - buf.Len()) // at once: to grow is to copy
		_, err = buf.ReadFrom(io.LimitReader(r.Body, most+1-int64(buf.Len())))
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		// The deadline stays, so that nothing waits for the rest.
		return false, &requestError{http.StatusRequestTimeout, reasonSlow, fmt.Sprintf(
			"body did not arrive in time; want all of it within %v", in.cfg.BodyTimeout)}
	case err != nil && r.Context().Err() != nil:
		return false, context.Cause(r.Context())
	case err != nil:
		return false, &requestError{http.StatusBadRequest, reasonBroken, "body ends early; want as many bytes as the header announces"}
	case int64(buf.Len()) > most:
		return true, tooLarge
	}
	_ = control.SetReadDeadline(time.Time{})
	return false, nil
}

// holdLarge takes n bytes of what large bodies share, until the submission is
// answered.
func (in *intake) holdLarge(n int64) bool {
	if !in.Frontend.large.take(in.client, n) {
		return false
	}
	in.large = n
	return true
}

// storeIssuers makes sure that the certificates of a chain are stored, all at
// once. What is stored already costs next to nothing: that is for Issuers to
// know.
func (f *Frontend) storeIssuers(ctx context.Context, ders [][]byte) error {
	var group errgroup.Group
	for _, der := range ders {
		group.Go(func() (err error) {
			// This goroutine is not the handler's, so nothing else catches it.
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("store issuer: %w", f.panicked(ctx, p))
				}
			}()
			err = f.cfg.Issuers.PutIssuer(ctx, der)
			if err == nil {
				return nil
			}
			if ctx.Err() == nil {
				f.log.WarnContext(ctx, "issuer was not stored", "err", err)
			}
			return fmt.Errorf("store issuer: %w: %w", entry.ErrUnavailable, err)
		})
	}
	return group.Wait()
}

// sctAnswer is the 200 to a submission (SUB-07). The members are in the order
// of RFC 6962 section 4.1, without space between.
func (f *Frontend) sctAnswer(r *http.Request, endpoint string, sct entry.SCT) answer {
	extensions, err := entry.Extensions(sct.Index)
	if err != nil {
		return f.failure(r, endpoint, err)
	}
	b := make([]byte, 0, 320)
	b = append(b, `{"sct_version":0,"id":"`...)
	b = append(b, f.id...)
	b = append(b, `","timestamp":`...)
	b = strconv.AppendInt(b, sct.TimestampMillis, 10)
	b = append(b, `,"extensions":"`...)
	b = base64.StdEncoding.AppendEncode(b, extensions)
	b = append(b, `","signature":"`...)
	b = base64.StdEncoding.AppendEncode(b, sct.Signature)
	b = append(b, `"}`...)
	return answer{code: http.StatusOK, contentType: typeJSON, body: b, cacheControl: "no-store"}
}
