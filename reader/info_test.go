package reader

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/certificate-transparency-go/loglist3"
)

// rule says what the schemas ask of one member. Members named "a.b" are inside
// an object.
type rule struct {
	member string
	check  func(any) error
}

func isString(v any) error {
	if s, ok := v.(string); !ok || s == "" {
		return fmt.Errorf("%v is no string with content", v)
	}
	return nil
}

func isBase64(n int) func(any) error {
	return func(v any) error {
		s, _ := v.(string)
		b, err := base64.StdEncoding.Strict().DecodeString(s)
		if err != nil || n > 0 && len(b) != n || len(b) == 0 {
			return fmt.Errorf("%v is not the base64 of %d bytes (%v)", v, n, err)
		}
		return nil
	}
}

func isURL(v any) error {
	s, _ := v.(string)
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || !strings.HasSuffix(s, "/") {
		return fmt.Errorf("%v is no https URL with a trailing slash", v)
	}
	return nil
}

func isTime(v any) error {
	s, _ := v.(string)
	if at, err := time.Parse(time.RFC3339, s); err != nil || at.Location() != time.UTC || at.Year() < 2000 {
		return fmt.Errorf("%v is no RFC 3339 time in UTC (%v)", v, err)
	}
	return nil
}

func isNumber(least float64) func(any) error {
	return func(v any) error {
		if n, ok := v.(float64); !ok || n < least || n != math.Trunc(n) {
			return fmt.Errorf("%v is no integer from %v", v, least)
		}
		return nil
	}
}

func isBool(v any) error {
	if _, ok := v.(bool); !ok {
		return fmt.Errorf("%v is no boolean", v)
	}
	return nil
}

func isArray(v any) error {
	if _, ok := v.([]any); !ok {
		return fmt.Errorf("%v is no array", v)
	}
	return nil
}

func isOneOf(words ...string) func(any) error {
	return func(v any) error {
		if s, ok := v.(string); !ok || !slices.Contains(words, s) {
			return fmt.Errorf("%v is not one of %v", v, words)
		}
		return nil
	}
}

// schema has the required members of a tiled log in the log list schema v3, of
// Chrome's schema of inclusion requests, and of the operator's file.
var schema = []rule{
	{"description", isString},
	{"friendly_name", isString},
	{"log_id", isBase64(32)},
	{"key", isBase64(0)},
	{"submission_url", isURL},
	{"monitoring_url", isURL},
	{"mmd", isNumber(1)},
	{"mmd_seconds", isNumber(1)},
	{"temporal_interval.start_inclusive", isTime},
	{"temporal_interval.end_exclusive", isTime},
	{"log_spec", isOneOf("static-ct-api")},
	{"tls_only", isBool},
	{"intended_use", isOneOf("production", "test")},
	{"status", isOneOf("active", "readonly")},
	{"status_timestamp", isTime},
	{"planned_changes", isArray},
	{"submission_endpoint.url", isURL},
	{"monitoring_endpoint.url", isURL},
	{"log_software.name", isString},
}

// info asks for log.v3.json, checks it against the schema and returns it.
func (r *rig) info() (map[string]any, []byte) {
	r.t.Helper()
	w := r.do("GET", "/log.v3.json")
	var j map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &j); err != nil || w.Code != 200 {
		r.t.Fatalf("got %d %s, %v", w.Code, w.Body, err)
	}
	for _, rule := range schema {
		var v any = j
		for name := range strings.SplitSeq(rule.member, ".") {
			o, _ := v.(map[string]any)
			v = o[name]
		}
		if err := rule.check(v); err != nil {
			r.t.Errorf("%s: %v", rule.member, err)
		}
	}
	return j, w.Body.Bytes()
}

func TestInfo(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	j, raw := r.info()
	if j["description"] != r.v.Log.Origin || j["friendly_name"] != "example2026h2" || j["mmd"] != 60.0 || j["mmd_seconds"] != 60.0 ||
		j["status"] != "active" || j["intended_use"] != "production" || j["tls_only"] != false {
		t.Errorf("log.v3.json is %s", raw)
	}
	if _, ok := j["final_tree_head"]; ok {
		t.Error("an active log has a final tree head")
	}

	// As loglist3 reads it, in its place in a log list.
	list := fmt.Appendf(nil, `{"version":"1","operators":[{"name":"x","email":[],"logs":[],"tiled_logs":[%s]}]}`, raw)
	ll, err := loglist3.NewFromJSON(list)
	if err != nil {
		t.Fatal(err)
	}
	got := ll.Operators[0].TiledLogs[0]
	id := sha256.Sum256(got.Key)
	if !bytes.Equal(got.LogID, id[:]) || !bytes.Equal(got.LogID, r.v.Log.LogID) || got.MMD != 60 || got.Description != r.v.Log.Origin ||
		got.SubmissionURL != r.v.Log.Prefix || got.MonitoringURL != "https://mon.example.net/2026h2/" ||
		!got.TemporalInterval.StartInclusive.Equal(r.cfg.Info.NotAfterStart) || !got.TemporalInterval.EndExclusive.Equal(r.cfg.Info.NotAfterLimit) {
		t.Errorf("loglist3 reads %+v", got)
	}
}

// TestInfoReadOnly follows the end of a log's life (SUB-39, OPS-21).
func TestInfoReadOnly(t *testing.T) {
	t.Parallel()
	end := time.Date(2027, 1, 8, 0, 0, 0, 0, time.UTC)
	now := end
	r := newRig(t, func(c *Config) {
		c.Now = func() time.Time { return now }
		c.Info.ReadOnlyAfter, c.Info.TLSOnly, c.Info.IntendedUse = end, true, "test"
		c.Info.FriendlyName, c.Info.ActiveSince = `"Example" <2026>`, time.Date(2026, 5, 1, 12, 0, 0, 999, time.FixedZone("", 3600))
	})
	j, _ := r.info()
	changes := j["planned_changes"].([]any)
	if j["status"] != "active" || j["status_timestamp"] != "2026-05-01T11:00:00Z" || j["friendly_name"] != `"Example" <2026>` ||
		j["tls_only"] != true || j["intended_use"] != "test" || len(changes) != 1 {
		t.Errorf("before the end: %v", j)
	} else if change := changes[0].(map[string]any); change["new_status"] != "readonly" || change["effective_date"] != "2027-01-08T00:00:00Z" {
		t.Errorf("planned change is %v", change)
	}

	now = end.Add(time.Minute) // the last submissions may still be on their way
	if j, _ := r.info(); j["status"] != "readonly" || j["status_timestamp"] != "2027-01-08T00:00:00Z" || j["final_tree_head"] != nil {
		t.Errorf("at the end: %v", j)
	}
	now = end.Add(time.Hour)
	j, _ = r.info()
	head, _ := j["final_tree_head"].(map[string]any)
	if err := isBase64(32)(head["sha256_root_hash"]); err != nil || head["tree_size"] != 3.0 ||
		head["timestamp"] != float64(r.v.Checkpoints.Size3.TimestampMillis) || len(j["planned_changes"].([]any)) != 0 {
		t.Errorf("after the end: %v (%v)", j, err)
	}
	r.publish([]byte("broken"))
	if j, _ := r.info(); j["status"] != "readonly" {
		t.Errorf("without a checkpoint: %v", j)
	}
}
