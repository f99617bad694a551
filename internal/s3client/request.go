package s3client

import (
	"context"
	"time"
)

// Operations, as errors name and metrics label them.
const (
	opGet         = "get"
	opHead        = "head"
	opPut         = "put"
	opPutIfAbsent = "put_if_absent"
	opPutIfMatch  = "put_if_match"
	opDelete      = "delete"
	opList        = "list"
)

// attempt is the context of one request, which ends by a time-out that can be
// put off.
type attempt struct {
	context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

func newAttempt(ctx context.Context, timeout time.Duration) *attempt {
	a := new(attempt)
	a.Context, a.cancel = context.WithCancelCause(ctx)
	a.timer = time.AfterFunc(timeout, func() { a.cancel(errTimeout) })
	return a
}

// extend gives the attempt that much time from now on.
func (a *attempt) extend(timeout time.Duration) {
	if a.timer.Stop() {
		a.timer.Reset(timeout)
	}
}

func (a *attempt) end() {
	a.timer.Stop()
	a.cancel(nil)
}

// transfer returns how long a body may take.
func transfer(size int64) time.Duration {
	return time.Duration(float64(size) / minRate * float64(time.Second))
}

// do makes one request within the client's bounds. size is of the body that is
// sent.
func (c *Client) do(ctx context.Context, op, bucket, key string, size int, call func(*attempt) error) error {
	if err := c.limit.acquire(ctx); err != nil {
		return classify(ctx, ctx, op, bucket, key, err)
	}
	a := newAttempt(ctx, c.timeout+transfer(int64(size)))
	start := time.Now()
	err := call(a)
	elapsed := time.Since(start)
	if err != nil {
		err = classify(ctx, a, op, bucket, key, err)
	}
	a.end()
	c.limit.release(err)
	c.metrics.observe(op, err, elapsed)
	if err != nil {
		c.logger.DebugContext(ctx, "S3 request", "endpoint", op, "path", key, "elapsed", elapsed, "err", err)
	}
	return err
}
