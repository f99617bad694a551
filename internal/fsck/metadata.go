package fsck

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// metadata are the members of log.v3.json that are used here (MON-25).
type metadata struct {
	Description   string `json:"description"`
	LogID         []byte `json:"log_id"`
	Key           []byte `json:"key"`
	SubmissionURL string `json:"submission_url"`
	MMD           int64  `json:"mmd"` // seconds
}

// identify completes the origin and the key from what the log says about itself.
func (c *checker) identify(ctx context.Context) error {
	if len(c.opts.SPKI) > 0 && c.opts.Origin != "" {
		return nil
	}
	const remedy = "give the log's key with --public-key and its origin with --origin"
	raw, err := c.small(ctx, "log.v3.json", maxSmall)
	if absent(err) {
		return &UnknownError{Path: "log.v3.json", Err: fmt.Errorf("it is not there to say key and origin: see whether the URL is the monitoring URL of a log; if it is, %s", remedy)}
	}
	if err != nil {
		return err
	}
	m, err := parseMetadata(raw)
	if err != nil {
		return &UnknownError{Path: "log.v3.json", Err: fmt.Errorf("%w; %s", err, remedy)}
	}
	if m.MMD > 0 && m.MMD <= int64(day/time.Second) {
		c.mmd = time.Duration(m.MMD) * time.Second
	}
	if got := sha256.Sum256(m.Key); len(m.LogID) > 0 && !bytes.Equal(got[:], m.LogID) {
		return mismatch("log.v3.json", -1, fmt.Sprintf("%x", m.LogID), hexOf(got), "log_id is not the SHA-256 of key")
	}
	if len(c.opts.SPKI) == 0 {
		c.opts.SPKI = m.Key
		c.counts.note("log.v3.json", "the key was taken from the log itself: give --public-key to know that it is the log you mean")
	} else if !bytes.Equal(c.opts.SPKI, m.Key) {
		return mismatch("log.v3.json", -1, hexOf(sha256.Sum256(m.Key)), hexOf(sha256.Sum256(c.opts.SPKI)), "log ID is not that of the key given")
	}
	if c.opts.Origin == "" {
		c.opts.Origin = m.origin()
	}
	return nil
}

func parseMetadata(raw []byte) (metadata, error) {
	var m metadata
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("it is not understood: %w", err)
	}
	if _, err := x509.ParsePKIXPublicKey(m.Key); err != nil {
		return m, fmt.Errorf("its key is not understood: %w", err)
	}
	if m.origin() == "" {
		return m, errors.New("it has no submission_url")
	}
	return m, nil
}

// origin is the submission prefix without scheme and trailing slashes (CKP-02).
func (m metadata) origin() string {
	_, rest, ok := strings.Cut(m.SubmissionURL, "://")
	if !ok {
		return ""
	}
	return strings.TrimRight(rest, "/")
}

// ParsePublicKey reads a log's public key as it is passed around: PEM, or the DER
// of a SubjectPublicKeyInfo as it is or in base64. It returns the DER.
func ParsePublicKey(data []byte) ([]byte, error) {
	der := data
	if block, _ := pem.Decode(data); block != nil {
		if block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("parse public key: PEM block is %s, want PUBLIC KEY", shown(block.Type))
		}
		der = block.Bytes
	} else if b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(data))); err == nil {
		der = b
	}
	if _, err := x509.ParsePKIXPublicKey(der); err != nil {
		return nil, fmt.Errorf("parse public key: want PEM, or DER or base64 of a SubjectPublicKeyInfo: %w", err)
	}
	return der, nil
}
