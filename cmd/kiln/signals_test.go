package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"kiln/internal/config"
	"kiln/internal/daemon"
)

// TestInterrupts sends signals to the test itself, so it runs alone.
func TestInterrupts(t *testing.T) {
	i := followInterrupts(t.Context())
	defer i.close()
	want := errors.New("a result")
	if err := i.run(func() error { return want }); err != want {
		t.Errorf("without a signal, run returned %v", err)
	}
	if i.asked() || i.ctx.Err() != nil {
		t.Fatal("interrupted without a signal")
	}
	raise := func() {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}
	raise()
	<-i.ctx.Done()
	if !i.asked() {
		t.Error("the context ended, but nobody asked")
	}

	// Sent again and again, the signal ends what would never end.
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-again.C:
				raise()
			case <-stop:
				return
			}
		}
	}()
	hang := make(chan struct{})
	defer close(hang)
	err := i.run(func() error { <-hang; return nil })
	close(stop)
	<-stopped
	if err == nil || !strings.Contains(err.Error(), "stopped before everything was drained") {
		t.Errorf("after the second signal, run returned %v", err)
	}
}

// TestServeInterruptedAtWork has the signal come while kiln dev submits its
// samples: that it cannot go on is no failure.
func TestServeInterruptedAtWork(t *testing.T) {
	e, _ := testEnv()
	dir := t.TempDir()
	if err := initLog(t.Context(), e, dir, testArgs()); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(dir+"/"+configName, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listen, cfg.Admin = "127.0.0.1:0", "127.0.0.1:0"
	e.now = time.Now // the log's clock must not stand still
	err = serve(t.Context(), e, cfg, func(ctx context.Context, _ *env, _ *config.Config, _ *daemon.Daemon) error {
		if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	if err != nil {
		t.Errorf("serve returned %v", err)
	}

	broken := errors.New("broken")
	err = serve(t.Context(), e, cfg, func(context.Context, *env, *config.Config, *daemon.Daemon) error { return broken })
	if !errors.Is(err, broken) {
		t.Errorf("serve returned %v, want what it was told", err)
	}
}
