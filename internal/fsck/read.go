package fsck

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"kiln/storage"
	"kiln/tiles"
)

// Limits of what is read. A checkpoint of 16 witnesses with post-quantum
// signatures has some 60 kB.
const (
	maxSmall  = 1 << 20   // checkpoint, log.v3.json
	maxIssuer = 1<<24 - 1 // as the length of a certificate in a TileLeaf
	// maxTile bounds what a data or names tile decodes to. It is streamed, so
	// the bound is for time and not for memory.
	maxTile = 512 << 20
)

// Retries of one object. Who says that he is busy is asked for longer; the limit
// for standing still ends it all the same.
const (
	tries     = 5
	busyTries = 30
	firstWait = 200 * time.Millisecond
	mostWait  = 10 * time.Second
	// mostPatience is the longest Retry-After that is followed to its end.
	mostPatience = 2 * time.Minute
)

// errStalled ends a run in which nothing gets done.
var errStalled = errors.New("stalled")

// access reads from a source: with time-outs, retries and one pause for all
// when the source is busy. It is safe for concurrent use.
type access struct {
	source  Source
	timeout time.Duration // for opening, and then for each reading of the body
	hasty   bool          // asks once more at most
	counts  *tally
	beat    atomic.Int64 // objects that were read, for the watch

	mu    sync.Mutex
	until time.Time // guarded by mu; nobody asks before
}

// read opens the object at a path and lets use have its decoded bytes, at most
// limit of them. use may be called again after a transfer that broke off, and
// returns a *Fault for what is wrong with the bytes. The error is a *Fault, one
// that [absent] knows, an *UnknownError, or that of the context.
func (a *access) read(ctx context.Context, path string, limit int64, use func(r *bufio.Reader) error) error {
	for n, busy, confirmed := 1, 0, false; ; {
		if err := a.wait(ctx); err != nil {
			return err
		}
		err := a.once(ctx, path, limit, use)
		var unknown *UnknownError
		switch {
		case err == nil:
			a.beat.Add(1)
			return nil
		case found(err) && !confirmed:
			confirmed = true // by a second look: a fault is not reported for a bad transfer
			continue
		case found(err), absent(err):
			a.beat.Add(1)
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &unknown):
			return err
		}
		wait := rand.N(firstWait << min(n, 6))
		if a.hasty {
			wait /= 8
		}
		var later *BusyError
		if errors.As(err, &later) {
			busy++
			a.pause(max(later.After, wait))
		} else {
			n++
		}
		if n > tries || busy > busyTries || a.hasty && n+busy > 2 || later != nil && later.After > mostPatience {
			return &UnknownError{Path: path, Err: err}
		}
		if later == nil {
			a.sleep(ctx, min(wait, mostWait))
		}
	}
}

// found reports whether an error says that something is wrong with the log.
func found(err error) bool {
	var fault *Fault
	var x *clash
	return errors.As(err, &fault) || errors.As(err, &x)
}

// pause keeps everybody from asking for a while.
func (a *access) pause(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if until := time.Now().Add(min(d, mostPatience)); until.After(a.until) {
		a.until = until
	}
}

// wait waits for the end of the pause.
func (a *access) wait(ctx context.Context) error {
	a.mu.Lock()
	d := time.Until(a.until)
	a.mu.Unlock()
	a.sleep(ctx, d)
	return ctx.Err()
}

func (a *access) sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// once is one attempt of read.
func (a *access) once(ctx context.Context, path string, limit int64, use func(r *bufio.Reader) error) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(a.timeout, func() { cancel(lateError{a.timeout}) })
	defer timer.Stop()
	defer func() {
		if err != nil && errors.Is(err, context.Canceled) && context.Cause(ctx) != context.Canceled {
			err = context.Cause(ctx) // says more than "canceled"
		}
	}()
	o, err := a.source.Open(ctx, path)
	timer.Stop()
	if err != nil {
		return err
	}
	defer o.Body.Close()
	for _, n := range o.Notes {
		a.counts.note(path, "%s", n)
	}
	body := &timed{r: o.Body, timer: timer, timeout: a.timeout, counts: a.counts}
	data, err := decode(path, body, o.Encoding, limit)
	if err == nil {
		err = use(data.buf)
	}
	switch {
	case body.err != nil: // whatever use has made of the broken end
		return body.err
	case data != nil && data.over():
		return &UnknownError{Path: path, Err: fmt.Errorf("it decodes to more than %d bytes", limit)}
	case data != nil && data.broken() != nil:
		return &Fault{Path: path, Index: placeOf(path), Detail: fmt.Sprintf("gzip does not decode: %v", data.broken())}
	}
	return err
}

// lateError says that an answer, or a piece of it, did not come in time. It has
// the Timeout method of package net's errors.
type lateError struct{ limit time.Duration }

// Error implements error.
func (e lateError) Error() string { return fmt.Sprintf("no answer within %v", e.limit) }

// Timeout reports true.
func (e lateError) Timeout() bool { return true }

// timed reads a body, with a time-out for each piece, and keeps the error of a
// transfer apart from those of decoders.
type timed struct {
	r       io.Reader
	timer   *time.Timer
	timeout time.Duration
	counts  *tally
	err     error // of the transfer
}

// Read implements [io.Reader].
func (t *timed) Read(p []byte) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	t.timer.Reset(t.timeout)
	n, err := t.r.Read(p)
	t.timer.Stop()
	t.counts.bytes.Add(int64(n))
	if err != nil && err != io.EOF {
		t.err = fmt.Errorf("transfer broke off: %w", err)
		return n, t.err
	}
	return n, err
}

// decoded is a bounded stream of decoded bytes.
type decoded struct {
	buf   *bufio.Reader
	limit *io.LimitedReader
	zip   *kept // nil if it is not compressed
}

// kept remembers the error of a decoder.
type kept struct {
	r   io.Reader
	err error
}

// Read implements [io.Reader].
func (k *kept) Read(p []byte) (int, error) {
	n, err := k.r.Read(p)
	if err != nil && err != io.EOF {
		k.err = err
	}
	return n, err
}

// decode begins to decode a body. A gzip header that is none is a *Fault.
func decode(path string, body io.Reader, e Encoding, limit int64) (*decoded, error) {
	raw := bufio.NewReader(body)
	if e == EncodingUnknown {
		e = EncodingPlain
		if magic, _ := raw.Peek(2); string(magic) == "\x1f\x8b" {
			e = EncodingGzip
		}
	}
	d := &decoded{limit: &io.LimitedReader{R: raw, N: limit + 1}}
	if e == EncodingGzip {
		z, err := gzip.NewReader(raw)
		if err != nil {
			return nil, &Fault{Path: path, Index: placeOf(path), Detail: fmt.Sprintf("is said to be gzip, but does not begin so: %v", err)}
		}
		d.zip = &kept{r: z}
		d.limit.R = d.zip
	}
	d.buf = bufio.NewReaderSize(d.limit, 32<<10)
	return d, nil
}

// placeOf returns the index of the first entry of a tile, -1 for other objects.
func placeOf(path string) int64 {
	t, err := tiles.ParsePath(path)
	if err != nil {
		return -1
	}
	return firstEntry(t, 0)
}

func (d *decoded) over() bool { return d.limit.N <= 0 }

func (d *decoded) broken() error {
	if d.zip == nil {
		return nil
	}
	return d.zip.err
}

// small reads a whole object of at most limit bytes.
func (a *access) small(ctx context.Context, path string, limit int64) (body []byte, err error) {
	err = a.read(ctx, path, limit, func(r *bufio.Reader) (err error) {
		body, err = io.ReadAll(r)
		return err
	})
	return body, err
}

// missing turns the absence of an object that must be there into a *Fault, or
// an *UnknownError if the source would not tell.
func missing(path string, index int64, err error) error {
	switch {
	case !absent(err):
		return err
	case errors.Is(err, storage.ErrNotFound):
		return (&Fault{Path: path, Index: index, Detail: "is missing"}).on(GroundAbsent)
	}
	return &UnknownError{Path: path, Err: err}
}

// watch cancels a context when no object was read for as long as limit. The
// caller calls stop, which joins it.
func (a *access) watch(ctx context.Context, limit time.Duration) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(max(limit/10, time.Millisecond))
		defer ticker.Stop()
		last, since := a.beat.Load(), time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-ticker.C:
				if beat := a.beat.Load(); beat != last {
					last, since = beat, now
				} else if now.Sub(since) >= limit {
					cancel(fmt.Errorf("%w: not one object was read within %v", errStalled, limit))
					return
				}
			}
		}
	})
	return ctx, func() {
		cancel(nil)
		wg.Wait()
	}
}
