package attacks_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"

	"github.com/klauspost/compress/gzip"

	"kiln/entry"
	"kiln/internal/chain"
	"kiln/internal/ring"
)

// limit is the most that a body may have.
const limit = 512 << 10

// endless is a body without end.
type endless struct{ ctx context.Context }

func (e endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), e.ctx.Err()
}

func hugeBodies(ctx context.Context, a *arena) {
	spaces := bytes.Repeat([]byte(" "), limit)
	over := append(bytes.Clone(spaces), ' ')
	workers(ctx, 24, func(ctx context.Context, i int) {
		switch i % 4 {
		case 0: // the largest that is read, and is nothing
			a.post(ctx, i, "add-pre-chain", spaces)
		case 1: // one byte over
			a.post(ctx, i, "add-pre-chain", over)
		case 2: // chunked, without end
			a.request(ctx, i, http.MethodPost, a.url+"ct/v1/add-chain", io.MultiReader(strings.NewReader(`{"chain":["`), endless{ctx}))
		case 3: // announces gigabytes, or less than it sends
			length := []string{"9000000000", "5", "-1", "0x10", "99999999999999999999999"}[i/4%5]
			if c := a.connect(ctx, i); c != nil {
				_, _ = io.WriteString(c, a.head("POST", "ct/v1/add-chain", "Content-Length", length))
				_, _ = c.Write(spaces)
				a.answer(c)
				c.Close()
			}
		}
	})
}

func gzipBodies(ctx context.Context, a *arena) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = io.CopyN(w, zeros{}, 256<<20)
	_ = w.Close()
	b := zipped.Bytes()[:min(zipped.Len(), limit)]
	workers(ctx, 16, func(ctx context.Context, i int) {
		a.post(ctx, i, "add-chain", b, "Content-Encoding", []string{"gzip", "x-gzip", "deflate", "br"}[i%4])
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func jsonBombs(ctx context.Context, a *arena) {
	leaf := a.evil.leaf(a.evil.inter, leafOptions{})
	good := string(body(chainOf(leaf, a.evil.inter, a.evil.root)))
	good = strings.TrimPrefix(good, "{")
	fill := func(s string) string { return strings.Repeat(s, (limit-len(good)-200)/len(s)) }
	numbered := new(strings.Builder)
	for i := 0; numbered.Len() < limit-len(good)-200; i++ {
		fmt.Fprintf(numbered, `"%x":%d,`, i, i)
	}
	bombs := []string{
		`{"a":` + fill("[") + "," + good,
		`{"a":` + fill(`{"a":`) + "," + good,
		`{` + numbered.String() + good,
		`{"a":"` + fill(`\u0041`) + `",` + good,
		`{"a":` + fill("9") + "," + good,
		`{"chain":[` + strings.TrimSuffix(fill(`"AA==",`), ",") + `]}`,
		`{"chain":[` + strings.TrimSuffix(fill(`"",`), ",") + `]}`,
		`{"chain":"` + fill("A") + `"}`,
		`{"chain":["` + fill("A") + `"]}`,
		`{"chain":["` + fill(`\u0041`) + `"]}`,
		`{"chain":` + fill("[") + "}",
		fill("{"), fill("\n"), fill("\x00"), fill("\xff"), `{"chain"` + fill(" ") + ":",
	}
	workers(ctx, 16, func(ctx context.Context, i int) { a.post(ctx, i, "add-pre-chain", []byte(bombs[i%len(bombs)])) })
}

func resubmissions(ctx context.Context, a *arena) {
	one := a.evil.fresh(leafOptions{})
	workers(ctx, 64, func(ctx context.Context, i int) { a.post(ctx, i, "add-pre-chain", one) })
}

func duplicates(ctx context.Context, a *arena) {
	many := stock(500, func(int) []byte { return a.evil.fresh(leafOptions{}) })
	workers(ctx, 64, func(ctx context.Context, i int) { a.post(ctx, i, "add-pre-chain", many[rand.IntN(len(many))]) })
}

func oldCertificates(ctx context.Context, a *arena) {
	sct := extension(oidSCTs, []byte{4, 2, 0, 0})
	workers(ctx, 256, func(ctx context.Context, i int) {
		o := leafOptions{final: true, age: 300 * 24 * 60 * 60 * 1e9}
		if i%2 == 0 {
			o.extra = append(o.extra, sct)
		}
		a.post(ctx, i, "add-chain", a.evil.fresh(o))
	})
}

func freshFromOne(ctx context.Context, a *arena) {
	workers(ctx, 2000, func(ctx context.Context, _ int) { a.post(ctx, 0, "add-pre-chain", a.evil.fresh(leafOptions{})) })
}

func freshFromMany(ctx context.Context, a *arena) {
	workers(ctx, 3000, func(ctx context.Context, i int) { a.post(ctx, i, "add-pre-chain", a.evil.fresh(leafOptions{})) })
}

// oneBatcher submits what only one of the log's batchers gets.
func oneBatcher(ctx context.Context, a *arena) {
	v, err := chain.New(chain.Config{})
	if err == nil {
		err = v.SetRoots([][]byte{a.evil.root.cert.Raw})
	}
	if err != nil {
		a.t.Error(err)
		return
	}
	var names []string
	for i := range a.log.Conf.Batchers {
		names = append(names, fmt.Sprintf("batcher %d", i))
	}
	owners, err := ring.New(names)
	if err != nil {
		a.t.Error(err)
		return
	}
	workers(ctx, 256, func(ctx context.Context, i int) {
		for ctx.Err() == nil {
			c := chainOf(a.evil.leaf(a.evil.inter, leafOptions{}), a.evil.inter, a.evil.root)
			candidate, err := v.Prepare(c, entry.Precert)
			if err != nil {
				a.t.Error(err)
				return
			}
			if owners.Owner(candidate.Pending().Key()) == 0 {
				a.post(ctx, i, "add-pre-chain", body(c))
				return
			}
		}
	})
}

// cancelled closes each connection as soon as the submission is out.
func cancelled(o leafOptions, n int) func(context.Context, *arena) {
	return func(ctx context.Context, a *arena) {
		workers(ctx, n, func(ctx context.Context, i int) {
			b := a.evil.fresh(o)
			c := a.connect(ctx, i)
			if c == nil {
				return
			}
			defer c.Close()
			_, _ = io.WriteString(c, a.head("POST", "ct/v1/add-pre-chain", "Content-Length", fmt.Sprint(len(b))))
			if _, err := c.Write(b); err == nil {
				a.note("sent")
			}
			pause(ctx, rand.N(20*ms))
		})
	}
}

func invalidSignatures(ctx context.Context, a *arena) {
	bad := stock(200, func(int) []byte { return a.evil.fresh(leafOptions{forged: true}) })
	workers(ctx, 64, func(ctx context.Context, i int) { a.post(ctx, i, "add-pre-chain", bad[i%len(bad)]) })
}

// strangePaths asks for what is not there, by every name and with every header.
func strangePaths(ctx context.Context, a *arena) {
	methods := []string{"GET", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "FOO", strings.Repeat("X", 3000)}
	roots := []string{"debug/pprof/", "metrics", "livez", "readyz", "../../etc/passwd", "%2e%2e/", "staging/", ".serve.lock", "roots/", "tile/0/../x", ""}
	base := strings.TrimSuffix(a.url, a.log.Conf.Name+"/")
	workers(ctx, 32, func(ctx context.Context, i int) {
		path := fmt.Sprintf("%s/%d/%s", roots[i%len(roots)], i, strings.Repeat("x", i%2000))
		prefix := a.url
		if i%2 == 0 {
			prefix, path = base, roots[i/2%len(roots)]
		}
		code := a.request(ctx, i, methods[i%len(methods)], prefix+path, nil,
			"User-Agent", fmt.Sprintf("agent %d", i), "X-Forwarded-For", fmt.Sprintf("10.0.0.%d", i), "X-Request-Id", fmt.Sprint(i))
		if code == http.StatusOK && prefix == base && roots[i/2%len(roots)] != "" {
			a.t.Errorf("%s is served to the public", path)
		}
	})
}
