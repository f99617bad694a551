package reader

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"kiln/checkpoint"
	"kiln/storage"
)

// Software is the name in log.v3.json and on the home page.
const Software = "kiln"

// maxMergeDelay is declared by every log; the real one is zero (OPS-02).
const maxMergeDelay = 60 * time.Second

// settleTime is how long after the end of submissions the last of them may still
// be on their way into the tree.
const settleTime = 5 * time.Minute

// Info is what a log says about itself. SPKI, Origin, both URLs and the window
// are required.
type Info struct {
	Name         string // short name; empty is the origin
	Origin       string // as in checkpoints: the submission URL without scheme and trailing slash
	FriendlyName string // for people; empty is Name

	SPKI  []byte   // public key as DER SubjectPublicKeyInfo
	LogID [32]byte // SHA-256 of SPKI; may be left zero

	SubmissionURL string // with trailing slash
	MonitoringURL string // with trailing slash

	NotAfterStart, NotAfterLimit time.Time // [start, limit)

	MMD         time.Duration // maximum merge delay; 0 is 60 s, which programmes ask for
	TLSOnly     bool          // leaves without serverAuth are refused (SUB-25)
	IntendedUse string        // "production" or "test"; empty is "production"

	// ActiveSince is when the log began to take submissions; zero is the time at
	// which the Reader was made.
	ActiveSince time.Time
	// ReadOnlyAfter is when it stops, as in the frontend's Config; zero is never.
	ReadOnlyAfter time.Time

	Version string // of the software; may be empty
}

// complete fills in what may be left out and checks the rest.
func (i Info) complete(now time.Time) (Info, error) {
	logID := sha256.Sum256(i.SPKI)
	if i.LogID == [32]byte{} {
		i.LogID = logID
	}
	if i.MMD == 0 {
		i.MMD = maxMergeDelay
	}
	if i.Name == "" {
		i.Name = i.Origin
	}
	if i.FriendlyName == "" {
		i.FriendlyName = i.Name
	}
	if i.IntendedUse == "" {
		i.IntendedUse = "production"
	}
	if i.ActiveSince.IsZero() {
		i.ActiveSince = now
	}
	switch {
	case i.Origin == "":
		return Info{}, errors.New("log has no origin")
	case i.LogID != logID:
		return Info{}, fmt.Errorf("log ID %x is not the SHA-256 of the key, %x", i.LogID, logID)
	case i.MMD < time.Second || i.MMD%time.Second != 0:
		return Info{}, fmt.Errorf("maximum merge delay %v is not in whole seconds, at least 1", i.MMD)
	case i.IntendedUse != "production" && i.IntendedUse != "test":
		return Info{}, fmt.Errorf("intended use %q is not production or test", i.IntendedUse)
	case !i.NotAfterStart.Before(i.NotAfterLimit):
		return Info{}, fmt.Errorf("window [%s, %s) is empty", stamp(i.NotAfterStart), stamp(i.NotAfterLimit))
	}
	for _, s := range []string{i.SubmissionURL, i.MonitoringURL} {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || !strings.HasSuffix(u.Path, "/") {
			return Info{}, fmt.Errorf("URL %q is not http or https with a trailing slash", s)
		}
	}
	return i, nil
}

// stamp writes a time as RFC 3339 in UTC, in whole seconds.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Life is what was decided of a log while it runs. The zero value is a log that
// may grow.
type Life struct {
	// FrozenAt is when the log was frozen; zero is not at all.
	FrozenAt time.Time
	// Final is the checkpoint of its final tree; nil until there is one.
	Final *checkpoint.Checkpoint
}

// status returns the operator's view of the log, and since when it holds.
func (i *Info) status(now time.Time, life Life) (status string, since time.Time) {
	if !life.FrozenAt.IsZero() && (i.ReadOnlyAfter.IsZero() || life.FrozenAt.Before(i.ReadOnlyAfter)) {
		return "readonly", life.FrozenAt
	}
	if !i.ReadOnlyAfter.IsZero() && now.After(i.ReadOnlyAfter) {
		return "readonly", i.ReadOnlyAfter
	}
	return "active", i.ActiveSince
}

// infoJSON is log.v3.json (MON-25): the members of a tiled log in the log list
// schema v3, and those that CT programmes and operators added for a file by the
// operator, as Sunlight's logs publish it too.
type infoJSON struct {
	Description   string `json:"description"`
	FriendlyName  string `json:"friendly_name"`
	LogID         []byte `json:"log_id"`
	Key           []byte `json:"key"`
	SubmissionURL string `json:"submission_url"`
	MonitoringURL string `json:"monitoring_url"`
	MMD           int64  `json:"mmd"`
	Interval      struct {
		Start string `json:"start_inclusive"`
		End   string `json:"end_exclusive"`
	} `json:"temporal_interval"`

	Spec            string          `json:"log_spec"`
	MMDSeconds      int64           `json:"mmd_seconds"`
	TLSOnly         bool            `json:"tls_only"`
	IntendedUse     string          `json:"intended_use"`
	Status          string          `json:"status"`
	StatusTimestamp string          `json:"status_timestamp"`
	PlannedChanges  []plannedChange `json:"planned_changes"`
	FinalTreeHead   *treeHead       `json:"final_tree_head,omitempty"`
	Submission      endpointJSON    `json:"submission_endpoint"`
	Monitoring      endpointJSON    `json:"monitoring_endpoint"`
	Software        softwareJSON    `json:"log_software"`
}

type plannedChange struct {
	NewStatus     string `json:"new_status"`
	EffectiveDate string `json:"effective_date"`
	Comment       string `json:"comment"`
}

type treeHead struct {
	RootHash  []byte `json:"sha256_root_hash"`
	TreeSize  int64  `json:"tree_size"`
	Timestamp int64  `json:"timestamp"`
}

type endpointJSON struct {
	URL string `json:"url"`
}

type softwareJSON struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
}

// infoPage answers with log.v3.json. It is made anew each time, as it depends on
// the clock, and at the end of the log's life on the tree.
func (rd *Reader) infoPage(ctx context.Context) answer {
	i, now := &rd.cfg.Info, rd.cfg.Now()
	life := rd.life()
	if status, _ := i.status(now, life); status == "readonly" && life.FrozenAt.IsZero() && now.After(i.ReadOnlyAfter.Add(settleTime)) {
		// Without a readable checkpoint the rest is still worth saying.
		if _, cp, err := rd.readCheckpoint(ctx); err == nil {
			life.Final = &cp
		}
	}
	body, err := i.document(now, life)
	if err != nil {
		rd.log.ErrorContext(ctx, "log.v3.json cannot be made", "err", err)
		a := text(http.StatusInternalServerError, sentenceInternal)
		a.err = err
		return a
	}
	return answer{code: http.StatusOK, contentType: typeJSON, body: body, cacheControl: infoCacheControl}
}

func (rd *Reader) life() Life {
	if rd.cfg.Life == nil {
		return Life{}
	}
	return rd.cfg.Life()
}

// infoCacheControl keeps log.v3.json for a while, as its readers may (B2).
const infoCacheControl = "public, max-age=300"

// InfoObject returns log.v3.json as an object, for storage that is served
// without a Reader.
func InfoObject(i Info, now time.Time, life Life) (storage.Object, error) {
	i, err := i.complete(now)
	if err != nil {
		return storage.Object{}, fmt.Errorf("make log.v3.json: %w", err)
	}
	body, err := i.document(now, life)
	if err != nil {
		return storage.Object{}, fmt.Errorf("make log.v3.json: %w", err)
	}
	return storage.Object{Path: InfoPath, Body: body, ContentType: typeJSON, CacheControl: infoCacheControl}, nil
}

// InfoPath is where a log describes itself (MON-25).
const InfoPath = "log.v3.json"

// document renders log.v3.json.
func (i *Info) document(now time.Time, life Life) ([]byte, error) {
	status, since := i.status(now, life)
	j := infoJSON{
		Description: i.Origin, FriendlyName: i.FriendlyName, LogID: i.LogID[:], Key: i.SPKI,
		SubmissionURL: i.SubmissionURL, MonitoringURL: i.MonitoringURL,
		MMD: int64(i.MMD / time.Second), Spec: "static-ct-api", MMDSeconds: int64(i.MMD / time.Second),
		TLSOnly: i.TLSOnly, IntendedUse: i.IntendedUse, Status: status, StatusTimestamp: stamp(since),
		PlannedChanges: []plannedChange{},
		Submission:     endpointJSON{i.SubmissionURL}, Monitoring: endpointJSON{i.MonitoringURL},
		Software: softwareJSON{Software, i.Version},
	}
	j.Interval.Start, j.Interval.End = stamp(i.NotAfterStart), stamp(i.NotAfterLimit)
	if status == "active" && !i.ReadOnlyAfter.IsZero() {
		j.PlannedChanges = append(j.PlannedChanges, plannedChange{
			"readonly", stamp(i.ReadOnlyAfter), "after the end of the NotAfter window no more submissions are taken",
		})
	}
	if status == "readonly" && life.Final != nil {
		j.FinalTreeHead = &treeHead{life.Final.Tree.Hash[:], life.Final.Tree.N, life.Final.TimestampMillis}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(j); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
