package shards

import (
	"encoding/json"
	"fmt"
	"time"

	"kiln/internal/config"
	"kiln/internal/logkey"
)

// declaredMMD is the maximum merge delay that a log declares, in seconds; the
// real one is zero (OPS-02).
const declaredMMD = 60

// Request is what a programme wants to know of a log that applies for inclusion
// (OPS-05), in the form of Chrome's inclusion_request_schema.json.
type Request struct {
	LogID         []byte   `json:"log_id"` // SHA-256 of Key
	Key           []byte   `json:"key"`    // DER SubjectPublicKeyInfo
	MMD           int64    `json:"mmd"`    // in seconds
	Interval      Interval `json:"temporal_interval"`
	SubmissionURL string   `json:"submission_url"` // both with a slash at the end
	MonitoringURL string   `json:"monitoring_url"`
}

// Interval is a window of NotAfter, in whole seconds of UTC.
type Interval struct {
	Start time.Time `json:"start_inclusive"`
	End   time.Time `json:"end_exclusive"`
}

// MakeRequest returns the request for a log.
func MakeRequest(conf config.Log, key *logkey.Key) Request {
	id := key.LogID()
	return Request{
		LogID: id[:], Key: key.SPKI(), MMD: declaredMMD,
		Interval:      Interval{conf.NotAfterStart.UTC(), conf.NotAfterLimit.UTC()},
		SubmissionURL: conf.SubmissionURL, MonitoringURL: conf.MonitoringURL,
	}
}

// JSON returns the request as it is handed in, indented, with a line feed.
func (r Request) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode inclusion request: %w", err)
	}
	return append(b, '\n'), nil
}
