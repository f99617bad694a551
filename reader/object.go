package reader

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"kiln/storage"
	"kiln/tiles"
)

// object answers with a tile or an issuer.
func (rd *Reader) object(ctx context.Context, r *http.Request, to target, held *hold) answer {
	if rd.limit != nil {
		if wait, ok := rd.limit.take(held.client, rd.cfg.Now()); !ok {
			a := text(http.StatusTooManyRequests, "too many requests from this address; please go on after the time in Retry-After")
			a.retryAfter = wholeSeconds(wait)
			return a
		}
	}
	a := rd.load(ctx, r, to, held)
	if rd.limit != nil && a.code >= 500 {
		rd.limit.giveBack(held.client) // a fault of ours is not charged
	}
	return a
}

// load reads an object from storage into an answer. The slot is held while it
// takes processor time, not while the client reads: then slow clients would keep
// the others out. Its memory is held until it is sent.
func (rd *Reader) load(ctx context.Context, r *http.Request, to target, held *hold) answer {
	select {
	case rd.slots <- struct{}{}:
	default:
		return overloaded()
	}
	rd.metrics.inFlight.Inc()
	defer func() {
		rd.metrics.inFlight.Dec()
		<-rd.slots
	}()

	body, err := rd.cfg.Bucket.Get(storage.WithSize(ctx, held.resize), to.path)
	if errors.Is(err, errMemory) {
		return overloaded()
	}
	if errors.Is(err, storage.ErrNotFound) {
		return text(http.StatusNotFound, "the log has no such object, or not yet")
	}
	if err != nil {
		return rd.unreadable(ctx, r, to, err)
	}
	a := answer{code: http.StatusOK, body: body, cacheControl: tiles.CacheImmutable}
	if to.endpoint == epIssuer {
		a.contentType = typeIssuer
		return a
	}
	a.contentType, a.encoding = tiles.Headers(to.tile)
	if a.encoding == "gzip" {
		a.vary = true
		if !takesGzip(r) {
			a.encoding = ""
			size := int64(len(body))
			if err := held.resize(size + tiles.DecodedSize(body)); err != nil {
				return overloaded()
			}
			if a.body, err = tiles.GunzipTile(to.tile, body); err != nil {
				return rd.unreadable(ctx, r, to, err)
			}
			_ = held.resize(int64(len(a.body))) // less than before
		}
	}
	return a
}

// overloaded is the answer when a bound is reached.
func overloaded() answer {
	a := text(http.StatusServiceUnavailable, "the log is at its limit; please try again after the time in Retry-After")
	a.retryAfter = 1
	return a
}

// unreadable is the answer when storage fails.
func (rd *Reader) unreadable(ctx context.Context, r *http.Request, to target, err error) answer {
	if r.Context().Err() == nil {
		rd.log.ErrorContext(ctx, "object cannot be read", "path", to.path, "err", err)
	}
	a := text(http.StatusServiceUnavailable, "the log cannot read this object at the moment; please try again")
	a.retryAfter = 5
	a.canceled = r.Context().Err() != nil
	a.err = err
	return a
}

// takesGzip reports whether a request may be answered with gzip. Without an
// Accept-Encoding line it may: clients of the Static CT API must cope with gzip
// that was not negotiated (MON-16), and to decode for each of them would cost
// more than all other work here. Clients that send one are taken at their word
// (RFC 9110, section 12.5.3), for the sake of tools that forget to decode.
func takesGzip(r *http.Request) bool {
	lines := r.Header.Values("Accept-Encoding")
	if len(lines) == 0 {
		return true
	}
	others := false
	for _, line := range lines {
		for one := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(one, ";")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "gzip", "x-gzip":
				return weighs(params)
			case "*":
				others = weighs(params)
			}
		}
	}
	return others
}

// weighs reports whether the parameters of a coding give it a weight over 0.
func weighs(params string) bool {
	for one := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(one, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "q") {
			continue
		}
		weight, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		return err == nil && weight > 0
	}
	return true
}
