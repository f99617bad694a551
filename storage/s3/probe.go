package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"kiln/internal/s3client"
	"kiln/storage"
)

const (
	probeRounds = 3
	probeRacers = 8
	cleanupTime = 10 * time.Second
)

// Capabilities is what a server was seen to do.
type Capabilities struct {
	// CreateOnly says that If-None-Match: * is honoured, CompareAndSwap that
	// If-Match is as well, both in a race too.
	CreateOnly, CompareAndSwap bool
	// Problems says, in sentences for the operator, what does not work and what
	// that means for a log. Empty is best.
	Problems []string
}

// Lacks returns what is to be done without.
func (c Capabilities) Lacks() Lacks {
	return Lacks{CreateOnly: !c.CreateOnly, CompareAndSwap: !c.CompareAndSwap}
}

// Probe finds out by trying what a server does: it writes, races against itself
// for, lists and deletes objects with random names below PREFIX/probe. An error
// means that this could not be found out, such as without access. It takes about
// a hundred small requests.
func Probe(ctx context.Context, conf Config) (Capabilities, error) {
	b, err := open(conf)
	if err != nil {
		return Capabilities{}, fmt.Errorf("probe s3://%s/%s: %w", conf.Bucket, conf.Prefix, err)
	}
	p := &prober{Bucket: b}
	defer p.cleanUp(ctx)
	for _, step := range []func(context.Context) error{p.access, p.headers, p.createOnly, p.swap} {
		if err := step(ctx); err != nil {
			return Capabilities{}, fmt.Errorf("probe s3://%s/%s: %w", conf.Bucket, conf.Prefix, err)
		}
	}
	return p.found, nil
}

// prober is one probe. It is for one goroutine.
type prober struct {
	*Bucket
	keys  []string // to be deleted
	found Capabilities
}

func (p *prober) problem(format string, args ...any) {
	p.found.Problems = append(p.found.Problems, fmt.Sprintf(format, args...))
}

// unused returns a new key that nothing is to be written to as yet.
func (p *prober) unused() string { return p.prefix + "probe/" + rand.Text() }

// key returns a new one, which is cleaned up in the end.
func (p *prober) key() string {
	key := p.unused()
	p.keys = append(p.keys, key)
	return key
}

// body returns a new one.
func body() s3client.Content {
	return s3client.Content{
		Body: []byte("kiln probe " + rand.Text() + "\n"), Tag: rand.Text(),
		ContentType: "text/plain; charset=utf-8", ContentEncoding: "identity", CacheControl: "no-store",
	}
}

// cleanUp deletes what was written, as far as that is possible.
func (p *prober) cleanUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	for _, key := range p.keys {
		if err := p.persist(ctx, "delete", func() error { return p.client.Delete(ctx, p.bucket, key) }); err != nil {
			p.logger.WarnContext(ctx, "an object of a probe was not removed", "path", key, "err", err)
		}
	}
}

// access tries all that a log needs to be allowed to do.
func (p *prober) access(ctx context.Context) error {
	key, want := p.unused(), body()
	_, err := p.get(ctx, key)
	if !errors.Is(err, s3client.ErrNotFound) {
		return fmt.Errorf("read an object that is not there: %w", orOther(err, "it is"))
	}
	p.keys = append(p.keys, key)
	if err := p.persist(ctx, "create", func() error { _, err := p.client.Put(ctx, p.bucket, key, want); return err }); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	got, err := p.get(ctx, key)
	if err != nil {
		return fmt.Errorf("read what was written: %w", err)
	}
	if !bytes.Equal(got.Body, want.Body) {
		return fmt.Errorf("read what was written: %d other bytes", len(got.Body))
	}
	listed := false
	err = p.list(ctx, "probe/", func(i storage.Info) error {
		listed = listed || p.prefix+i.Path == key
		return nil
	})
	switch {
	case err != nil:
		p.problem("objects cannot be listed, which gc, fsck and restore need: %v", err)
	case !listed:
		p.problem("a listing does not show an object that was just written: gc, fsck and restore may miss objects")
	}
	if err := p.persist(ctx, "delete", func() error { return p.client.Delete(ctx, p.bucket, key) }); err != nil {
		p.problem("objects cannot be deleted, so that staging bundles pile up: %v", err)
		return nil
	}
	if _, err := p.get(ctx, key); !errors.Is(err, s3client.ErrNotFound) {
		p.problem("an object can be read after it was deleted: %v", orOther(err, "it is there"))
	}
	return nil
}

func (p *prober) get(ctx context.Context, key string) (o *s3client.Object, err error) {
	err = p.persist(ctx, "get", func() error { o, err = p.client.Get(ctx, p.bucket, key); return err })
	return o, err
}

// orOther returns an error, or makes one.
func orOther(err error, text string) error {
	if err == nil {
		return errors.New(text)
	}
	return err
}

// headers finds out whether what readers need is kept.
func (p *prober) headers(ctx context.Context) error {
	key, want := p.key(), body()
	if err := p.persist(ctx, "create", func() error { _, err := p.client.Put(ctx, p.bucket, key, want); return err }); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	var got *s3client.Object
	err := p.persist(ctx, "get", func() (err error) { got, err = p.client.Head(ctx, p.bucket, key); return err })
	if err != nil {
		return fmt.Errorf("read headers: %w", err)
	}
	for _, h := range []struct{ name, got, want string }{
		{"Content-Type", got.ContentType, want.ContentType},
		{"Content-Encoding", got.ContentEncoding, want.ContentEncoding},
		{"Cache-Control", got.CacheControl, want.CacheControl},
	} {
		if h.got != h.want {
			p.problem("the header %s is not kept (%q came back as %q): serve the log through kiln's reader or a proxy that sets it", h.name, h.want, h.got)
		}
	}
	return nil
}

// createOnly tries to write where an object is, one after another and in races.
func (p *prober) createOnly(ctx context.Context) error {
	var fault string
	for range probeRounds {
		key := p.key()
		won, err := p.race(ctx, key, func(c s3client.Content) error {
			_, err := p.client.PutIfAbsent(ctx, p.bucket, key, c)
			return err
		})
		if err != nil {
			return fmt.Errorf("create an object once: %w", err)
		}
		if won != "" {
			fault = won
			break
		}
	}
	if p.found.CreateOnly = fault == ""; !p.found.CreateOnly {
		p.problem("writes with If-None-Match: * are not refused when an object is there (%s): "+
			"a second process that writes to this prefix by mistake can replace tiles, and would not be stopped by the storage", fault)
	}
	return nil
}

// swap tries If-Match with right, wrong and outdated ETags, and in races.
func (p *prober) swap(ctx context.Context) error {
	var fault string
	for range probeRounds {
		var err error
		if fault, err = p.swapOnce(ctx); err != nil {
			return fmt.Errorf("replace an object: %w", err)
		}
		if fault != "" {
			break
		}
	}
	// Without create-only writes an object could not be swapped in at first.
	if p.found.CompareAndSwap = fault == "" && p.found.CreateOnly; fault != "" {
		p.problem("writes with If-Match are not held to the ETag (%s): a second or a slow writer can put an older "+
			"checkpoint over a newer one, until the next round; the lock must not be on this server", fault)
	}
	return nil
}

// swapOnce returns what is wrong, in words.
func (p *prober) swapOnce(ctx context.Context) (fault string, err error) {
	key := p.key()
	match := func(etag string, c s3client.Content) error {
		_, err := p.client.PutIfMatch(ctx, p.bucket, key, etag, c)
		return err
	}
	var first string
	if err := p.persist(ctx, "create", func() (err error) { first, err = p.client.Put(ctx, p.bucket, key, body()); return err }); err != nil {
		return "", err
	}
	if err := match(`"00000000000000000000000000000000"`, body()); err == nil {
		return "a wrong ETag was taken", nil
	}
	won, err := p.race(ctx, key, func(c s3client.Content) error { return match(first, c) })
	if err != nil || won != "" {
		return won, err
	}
	if _, err := p.client.PutIfMatch(ctx, p.bucket, p.key(), first, body()); err == nil {
		return "an ETag was matched with a missing object", nil
	}
	return "", nil
}

// race makes writes of different bodies at the same time, of which one is to
// win, and another one when they are done, which is not. It returns what was
// wrong with that, in words. An unknown outcome counts for what is found then.
func (p *prober) race(ctx context.Context, key string, write func(s3client.Content) error) (fault string, err error) {
	bodies, errs := make([]s3client.Content, probeRacers), make([]error, probeRacers)
	var wg sync.WaitGroup
	for i := range bodies {
		bodies[i] = body()
		wg.Go(func() { errs[i] = write(bodies[i]) })
	}
	wg.Wait()
	there, err := p.get(ctx, key)
	if err != nil && !errors.Is(err, s3client.ErrNotFound) {
		return "", err
	}
	winner := -1
	if there != nil {
		winner = slices.IndexFunc(bodies, func(c s3client.Content) bool { return bytes.Equal(c.Body, there.Body) })
	}
	for i, err := range errs {
		switch {
		case winner < 0 && s3client.OutcomeUnknown(err):
			return "", err // it may have been the one
		case err == nil && i != winner:
			return fmt.Sprintf("of %d writers at a time one was told that it was the only one, and another's object is there", probeRacers), nil
		}
	}
	if winner < 0 {
		return fmt.Sprintf("a write that had to be accepted was not: %v", errs[0]), nil
	}
	if err := write(body()); err == nil {
		return "a write after another one was accepted", nil
	}
	if there, err = p.get(ctx, key); err == nil && !bytes.Equal(there.Body, bodies[winner].Body) {
		return "a write that was refused took place", nil
	}
	return "", err
}
