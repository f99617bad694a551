package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"kiln/internal/cell"
	"kiln/internal/s3client"
	"kiln/lock"
)

// ErrUnsafe says that the server does not keep the conditions of conditional
// writes, so that two sequencers could fork a log.
var ErrUnsafe = errors.New("this S3 server cannot keep the lock")

const (
	racers = 16
	races  = 4
	// proofTimeout bounds the proof; on an ordinary server it takes well under
	// two seconds.
	proofTimeout = 30 * time.Second
	proofTries   = 4 // of one request whose outcome is unknown
)

// proof is one run of writers against each other.
type proof struct {
	r       *register
	key     string
	timeout time.Duration   // of one request
	etags   map[string]bool // of all contents seen
	old     cell.Value      // before now
	now     cell.Value
}

// prove finds out by trying whether the server keeps conditions.
func prove(ctx context.Context, r *register, conf Config) error {
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	// No cell has an upper case letter in its key.
	p := &proof{r: r, key: r.prefix + "PROOF-" + rand.Text() + suffix, timeout: conf.Timeout, etags: make(map[string]bool)}
	defer p.clean(ctx, conf.Logger)
	err := p.race(ctx, "", "If-None-Match")
	if err == nil {
		err = p.replace(ctx)
	}
	if err == nil {
		err = p.refuse(ctx)
	}
	for i := 0; i < races && err == nil; i++ {
		err = p.race(ctx, p.now.Place, "If-Match")
	}
	if err != nil {
		return fmt.Errorf("prove that conditional writes work: %w", err)
	}
	return nil
}

func unsafe(format string, args ...any) error {
	return fmt.Errorf("%w: %s; keep the lock in etcd or, on one machine, in SQLite", ErrUnsafe, fmt.Sprintf(format, args...))
}

func body() []byte { return []byte("kiln tries whether conditions are kept: " + rand.Text() + "\n") }

// write sends one conditional write.
func (p *proof) write(ctx context.Context, key, etag string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	_, err := p.r.put(ctx, key, etag, data)
	if e, ok := errors.AsType[*s3client.Error](err); ok && e.Status == 501 {
		return fmt.Errorf("%w: %w", cell.ErrRejected, unsafe("it does not know conditional writes (%v)", err))
	}
	return err
}

// read reads what is there; a Value without a place is nothing.
func (p *proof) read(ctx context.Context, key string) (cell.Value, error) {
	var b s3client.Backoff
	for {
		v, err := p.readOnce(ctx, key)
		switch {
		case errors.Is(err, lock.ErrNotFound):
			return cell.Value{}, nil
		case err == nil || errors.Is(err, cell.ErrRejected):
			return v, err
		}
		if err := b.Wait(ctx, err); err != nil {
			return v, err
		}
	}
}

func (p *proof) readOnce(ctx context.Context, key string) (cell.Value, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	return p.r.get(ctx, key)
}

// became notes a content that was not there before.
func (p *proof) became(v cell.Value) error {
	if p.etags[v.Place] {
		return unsafe("two different contents have the same ETag, %s", v.Place)
	}
	p.etags[v.Place] = true
	p.old, p.now = p.now, v
	return nil
}

func same(a, b cell.Value) bool { return a.Place == b.Place && bytes.Equal(a.Data, b.Data) }

// race lets all racers write under one condition, of which one must win. Those
// whose outcome is unknown may be the one, also by a request of an earlier try.
func (p *proof) race(ctx context.Context, etag, condition string) error {
	var bodies [racers][]byte
	for i := range bodies {
		bodies[i] = body()
	}
	var b s3client.Backoff
	for try := 0; ; try++ {
		errs := p.run(ctx, etag, bodies)
		v, err := p.read(ctx, p.key)
		if err != nil {
			return err
		}
		wins, shown, last := 0, -1, error(nil)
		for i, err := range errs {
			switch {
			case errors.Is(err, cell.ErrRejected):
				return err
			case err == nil:
				wins++
			case !errors.Is(err, cell.ErrCondition):
				last = err
			}
			if bytes.Equal(v.Data, bodies[i]) {
				shown = i
			}
		}
		switch {
		case wins > 1:
			return unsafe("of %d writers with the same %s %d succeeded, where one may", racers, condition, wins)
		case wins == 1 && (shown < 0 || errs[shown] != nil):
			return unsafe("what a write with %s wrote, and nobody may have replaced, cannot be read", condition)
		case shown >= 0:
			return p.became(v)
		case !same(v, p.now):
			return unsafe("writes with %s left what nobody wrote", condition)
		case last == nil:
			return unsafe("of %d writers with %s, which all might have succeeded, none did", racers, condition)
		case try == proofTries:
			return fmt.Errorf("nobody won a race of writers: %w", last)
		}
		if err := b.Wait(ctx, last); err != nil {
			return err
		}
	}
}

// run sends the writes of a race at once.
func (p *proof) run(ctx context.Context, etag string, bodies [racers][]byte) (errs [racers]error) {
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() { errs[i] = p.write(ctx, p.key, etag, bodies[i]) })
	}
	wg.Wait()
	return errs
}

// replace writes with the right ETag and nobody else around: that has to work,
// and shows in which form the server wants ETags, before a wrong one is tried.
func (p *proof) replace(ctx context.Context) error {
	data := body()
	var b s3client.Backoff
	for try := 0; ; try++ {
		err := p.write(ctx, p.key, p.now.Place, data)
		if errors.Is(err, cell.ErrRejected) {
			return err
		}
		v, readErr := p.read(ctx, p.key)
		switch {
		case readErr != nil:
			return readErr
		case bytes.Equal(v.Data, data):
			return p.became(v)
		case err == nil:
			return unsafe("what a write with If-Match wrote cannot be read")
		case errors.Is(err, cell.ErrCondition):
			return unsafe("it refuses a write with If-Match of the ETag that it gave, %s (%v)", p.now.Place, err)
		case try == proofTries:
			return err
		}
		if err := b.Wait(ctx, err); err != nil {
			return err
		}
	}
}

// refuse writes under conditions that do not hold, one after the other.
func (p *proof) refuse(ctx context.Context) error {
	const never = `"d41d8cd98f00b204e9800998ecf8427e"` // the MD5 sum of nothing
	for _, c := range []struct {
		what, key, etag string
		there           cell.Value
	}{
		{"If-Match of an old ETag", p.key, p.old.Place, p.now},
		{"If-Match of an ETag that never was", p.key, never, p.now},
		{"If-None-Match, to an object that is there,", p.key, "", p.now},
		{"If-Match, to an object that is not there,", p.missing(), never, cell.Value{}},
	} {
		if err := p.refused(ctx, c.what, c.key, c.etag); err != nil {
			return err
		}
		v, err := p.read(ctx, c.key)
		switch {
		case err != nil:
			return err
		case !same(v, c.there):
			return unsafe("a write with %s was refused and took effect", c.what)
		}
	}
	return nil
}

// answered reports whether it was the server that failed a write, and not what is
// on the way to it: some say 500 or 409 to who has lost, always.
func answered(err error) bool {
	e, ok := errors.AsType[*s3client.Error](err)
	return ok && (e.Status == 500 || e.Status == 409)
}

// refused writes until the server says that it refuses.
func (p *proof) refused(ctx context.Context, what, key, etag string) error {
	var b s3client.Backoff
	for try := 0; ; try++ {
		switch err := p.write(ctx, key, etag, body()); {
		case err == nil:
			return unsafe("a write with %s succeeded", what)
		case errors.Is(err, cell.ErrCondition), try == proofTries && answered(err):
			return nil
		case errors.Is(err, cell.ErrRejected), try == proofTries:
			return err
		default:
			if err := b.Wait(ctx, err); err != nil {
				return err
			}
		}
	}
}

// missing returns the key of an object that is not there.
func (p *proof) missing() string { return p.key + "-NONE" }

// clean removes what the proof has made, and would not have made on a server
// that keeps conditions.
func (p *proof) clean(ctx context.Context, logger *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout)
	defer cancel()
	for _, key := range []string{p.key, p.missing()} {
		if err := p.r.client.Delete(ctx, p.r.bucket, key); err != nil {
			logger.Warn("object of a trial was not removed; delete it by hand", "path", key, "err", err)
		}
	}
}
