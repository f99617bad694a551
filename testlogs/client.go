package testlogs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxResponse bounds what is read of any answer: a full data tile of large
// chains stays below it.
const maxResponse = 64 << 20

// Client submits chains to one log. It is safe for concurrent use.
type Client struct {
	url  string
	key  *ecdsa.PublicKey
	id   [32]byte
	http *http.Client
}

// NewClient makes a client for the log at a submission prefix, with or without
// a slash at its end, that has an ECDSA key of this DER SubjectPublicKeyInfo.
// hc may be nil.
func NewClient(prefix string, spki []byte, hc *http.Client) (*Client, error) {
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("parse key of %s: %w", prefix, err)
	}
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("parse key of %s: it is a %T, want ECDSA", prefix, pub)
	}
	if hc == nil {
		hc = &http.Client{Timeout: time.Minute}
	}
	return &Client{url: strings.TrimRight(prefix, "/"), key: key, id: sha256.Sum256(spki), http: hc}, nil
}

// SCT is a checked answer to a submission.
type SCT struct {
	Index           int64
	TimestampMillis int64
	Extensions      []byte
	Signature       []byte   // TLS DigitallySigned
	LeafHash        [32]byte // of the leaf that the SCT promises, computed from the chain
	Body            []byte   // the response as it came
}

// StatusError is an answer other than 200.
type StatusError struct {
	URL        string
	Code       int
	Text       string        // the body, trimmed
	RetryAfter time.Duration // zero if there was none
}

// Error implements error.
func (e *StatusError) Error() string {
	return fmt.Sprintf("%s: status %d: %s", e.URL, e.Code, e.Text)
}

// Submit posts a chain and returns the SCT, after it was checked: version, log
// ID, timestamp not in the future, exactly one leaf_index extension, and the
// signature over the entry as this package computes it. An answer other than
// 200 is a *StatusError.
func (c *Client) Submit(ctx context.Context, chain Chain) (*SCT, error) {
	body, err := json.Marshal(map[string][][]byte{"chain": chain.Submitted()})
	if err != nil {
		return nil, fmt.Errorf("encode chain: %w", err)
	}
	answer, err := c.Post(ctx, chain.Endpoint(), body)
	if err != nil {
		return nil, err
	}
	sct, err := c.Check(chain, answer)
	if err != nil {
		return nil, fmt.Errorf("%s answer %q: %w", chain.Endpoint(), answer, err)
	}
	return sct, nil
}

// Post sends a body to an endpoint such as "add-chain" and returns the body of
// a 200 answer, or a *StatusError.
func (c *Client) Post(ctx context.Context, endpoint string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/ct/v1/"+endpoint, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	return fetch(c.http, req, "application/json")
}

// Roots returns the certificates of get-roots, DER.
func (c *Client) Roots(ctx context.Context) ([][]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/ct/v1/get-roots", nil)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	body, err := fetch(c.http, req, "application/json")
	if err != nil {
		return nil, err
	}
	var roots struct{ Certificates [][]byte }
	if err := json.Unmarshal(body, &roots); err != nil {
		return nil, fmt.Errorf("get-roots answer: %w", err)
	}
	return roots.Certificates, nil
}

// fetch runs a request and returns the body of a 200 answer of the wanted type.
func fetch(hc *http.Client, req *http.Request, contentType string) ([]byte, error) {
	resp, err := hc.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	if err != nil {
		return nil, fmt.Errorf("%s: read answer: %w", req.URL, err)
	}
	if resp.StatusCode != http.StatusOK {
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return nil, &StatusError{
			URL: req.URL.String(), Code: resp.StatusCode,
			Text: strings.TrimSpace(string(body)), RetryAfter: time.Duration(seconds) * time.Second,
		}
	}
	if len(body) > maxResponse {
		return nil, fmt.Errorf("%s: answer is longer than %d bytes", req.URL, maxResponse)
	}
	if got := resp.Header.Get("Content-Type"); got != contentType {
		return nil, fmt.Errorf("%s: Content-Type is %q, want %q", req.URL, got, contentType)
	}
	return body, nil
}

// Check checks the JSON answer to the submission of a chain as [Client.Submit]
// does.
func (c *Client) Check(chain Chain, answer []byte) (*SCT, error) {
	var a struct {
		Version    *int   `json:"sct_version"`
		ID         string `json:"id"`
		Timestamp  *int64 `json:"timestamp"`
		Extensions string `json:"extensions"`
		Signature  string `json:"signature"`
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	if a.Version == nil || *a.Version != 0 || a.Timestamp == nil {
		return nil, fmt.Errorf("sct_version and timestamp must be there, and sct_version 0")
	}
	if want := base64.StdEncoding.EncodeToString(c.id[:]); a.ID != want {
		return nil, fmt.Errorf("log ID is %s, want %s", a.ID, want)
	}
	sct := &SCT{TimestampMillis: *a.Timestamp, Body: answer}
	var err error
	if sct.Extensions, err = base64.StdEncoding.Strict().DecodeString(a.Extensions); err != nil {
		return nil, fmt.Errorf("extensions: %w", err)
	}
	if sct.Signature, err = base64.StdEncoding.Strict().DecodeString(a.Signature); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	// One second of grace: the log may run on another clock.
	if ahead := time.Until(time.UnixMilli(sct.TimestampMillis)); sct.TimestampMillis <= 0 || ahead > time.Second {
		return nil, fmt.Errorf("timestamp %d is %v in the future", sct.TimestampMillis, ahead)
	}
	if len(sct.Extensions) != 8 || !bytes.HasPrefix(sct.Extensions, []byte{0, 0, 5}) {
		return nil, fmt.Errorf("extensions are %x, want one leaf_index", sct.Extensions)
	}
	sct.Index = int64(sct.Extensions[3])<<32 | int64(binary.BigEndian.Uint32(sct.Extensions[4:]))
	return sct, c.checkSignature(chain, sct)
}

func (c *Client) checkSignature(chain Chain, sct *SCT) error {
	entry, err := newSignedEntry(chain.Certificates, chain.Precert)
	if err != nil {
		return err
	}
	leaf := entry.merkleTreeLeaf(sct.TimestampMillis, sct.Extensions)
	sct.LeafHash = sha256.Sum256(append([]byte{0}, leaf...))
	sig := sct.Signature
	if len(sig) < 4 || sig[0] != 4 || sig[1] != 3 || int(binary.BigEndian.Uint16(sig[2:])) != len(sig)-4 {
		return fmt.Errorf("signature %x is no DigitallySigned of ECDSA over SHA-256", sig)
	}
	digest := sha256.Sum256(leaf)
	if !ecdsa.VerifyASN1(c.key, digest[:], sig[4:]) {
		return fmt.Errorf("signature of SCT %d does not verify", sct.Index)
	}
	return nil
}
