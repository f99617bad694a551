package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// oneWish is how far apart two signals may be and still be one: timeout(1) and
// some supervisors send theirs to the process and then to its group.
const oneWish = 200 * time.Millisecond

// interrupts follows SIGINT and SIGTERM: the first asks for an orderly end, the
// second for one at once.
type interrupts struct {
	ctx   context.Context // canceled by the first signal
	close func()          // ends the following; joins it

	once chan struct{} // closed by the first signal
	// twice is closed by the second signal, after last was set to it.
	twice chan struct{}
	last  os.Signal
}

func followInterrupts(ctx context.Context) *interrupts {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithCancel(ctx)
	i := &interrupts{ctx: ctx, once: make(chan struct{}), twice: make(chan struct{})}
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-signals:
			close(i.once)
			cancel()
		case <-end:
			return
		}
		for first := time.Now(); ; {
			select {
			case i.last = <-signals:
			case <-end:
				return
			}
			if time.Since(first) > oneWish {
				close(i.twice)
				return
			}
		}
	})
	i.close = func() {
		signal.Stop(signals)
		close(end)
		wg.Wait()
		cancel()
	}
	return i
}

// asked reports whether the first signal has come.
func (i *interrupts) asked() bool {
	select {
	case <-i.once:
		return true
	default:
		return false
	}
}

// run calls f, and returns without it when the second signal comes: the program
// is about to exit then.
func (i *interrupts) run(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-i.twice:
		return fmt.Errorf("%v: stopped before everything was drained", i.last)
	}
}

// followHangups calls reload at each SIGHUP until the returned function is
// called, which waits for the last call.
func followHangups(reload func()) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-signals:
				reload()
			case <-end:
				return
			}
		}
	})
	return func() {
		signal.Stop(signals)
		close(end)
		wg.Wait()
	}
}
