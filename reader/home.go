package reader

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"time"
)

//go:embed home.html
var homeHTML string

//go:embed home.css
var homeCSS string

// staleAge is the age of a checkpoint from which the home page calls the log
// late: an idle log signs anew every few seconds (CKP-08).
const staleAge = 60 * time.Second

// homePage is the template of the home page, and the policy that lets browsers
// load nothing but its own style.
type homePage struct {
	template *template.Template
	policy   string
}

func newHomePage() (*homePage, error) {
	t, err := template.New("home").Parse(homeHTML)
	if err != nil {
		return nil, fmt.Errorf("parse home page: %w", err)
	}
	sum := sha256.Sum256([]byte(homeCSS))
	return &homePage{template: t, policy: "default-src 'none'; style-src 'sha256-" +
		base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}, nil
}

// homeData is what the template shows.
type homeData struct {
	Info
	Style      template.CSS
	Status     string
	StatusText string // one word of a closed set, which is also a class of the style
	Start, End string
	PEM        string
	KeyBase64  string
	LogIDHex   string
	LogID64    string
	MMDText    string

	Readable  bool // the rest is known
	Size      string
	Root      string
	SignedAt  string
	Age       string
	TLSOnlyIs string
}

// homePage answers with a page for people: what the log is, how large, how
// fresh, and where its parts are.
func (rd *Reader) homePage(ctx context.Context) answer {
	i, now := &rd.cfg.Info, rd.cfg.Now()
	d := homeData{
		Info: *i, Style: template.CSS(homeCSS),
		Start: stamp(i.NotAfterStart), End: stamp(i.NotAfterLimit),
		PEM:       string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: i.SPKI})),
		KeyBase64: base64.StdEncoding.EncodeToString(i.SPKI),
		LogIDHex:  hex.EncodeToString(i.LogID[:]), LogID64: base64.StdEncoding.EncodeToString(i.LogID[:]),
		MMDText:   fmt.Sprintf("%d seconds declared; an SCT is answered when its entry can be read", i.MMD/time.Second),
		TLSOnlyIs: "certificates with or without the extended key usage serverAuth",
	}
	if i.TLSOnly {
		d.TLSOnlyIs = "certificates with the extended key usage serverAuth only"
	}
	d.Status, _ = i.status(now, rd.life())
	d.StatusText = d.Status
	_, cp, err := rd.readCheckpoint(ctx)
	if err != nil {
		d.StatusText = "unreadable"
	} else {
		signed := time.UnixMilli(cp.TimestampMillis).UTC()
		age := max(0, now.Sub(signed))
		d.Readable, d.Size, d.Root = true, thousands(cp.Tree.N), cp.Tree.Hash.String()
		d.SignedAt, d.Age = signed.Format("2006-01-02 15:04:05 UTC"), ago(age)
		if age > staleAge {
			d.StatusText = "late"
		}
	}
	var b bytes.Buffer
	if err := rd.home.template.Execute(&b, d); err != nil {
		rd.log.ErrorContext(ctx, "home page cannot be made", "err", err)
		a := text(http.StatusInternalServerError, sentenceInternal)
		a.err = err
		return a
	}
	return answer{
		code: http.StatusOK, contentType: typeHTML, body: b.Bytes(), cacheControl: "no-store", policy: rd.home.policy,
	}
}

// thousands writes a number in groups of three.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// ago writes an age in its largest fitting unit.
func ago(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s ago", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s ago", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", d/time.Hour)
	default:
		return fmt.Sprintf("%d days ago", d/(24*time.Hour))
	}
}
