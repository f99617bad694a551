package daemon

import (
	"fmt"
	"time"

	"kiln/internal/config"
)

// LogInfo is what `kiln logs --json` says of a log.
type LogInfo struct {
	Name          string    `json:"name"`
	Origin        string    `json:"origin"`
	LogID         []byte    `json:"log_id"` // 32 bytes, base64 in JSON
	Key           []byte    `json:"key"`    // DER SubjectPublicKeyInfo, base64 in JSON
	SubmissionURL string    `json:"submission_url"`
	MonitoringURL string    `json:"monitoring_url"`
	NotAfterStart time.Time `json:"not_after_start"` // inclusive
	NotAfterLimit time.Time `json:"not_after_limit"` // exclusive
	RootsFile     string    `json:"roots_file"`
	Storage       string    `json:"storage"` // directory, or s3://BUCKET/PREFIX
	Lock          string    `json:"lock"`    // SQLite file, s3://BUCKET/PREFIX or etcd:PREFIX
}

// Metadata describes the configured logs, in the order of the configuration. It
// reads the key files and touches nothing else. A shard whose key was not made
// yet is left out.
func Metadata(cfg *config.Config) ([]LogInfo, error) {
	infos := make([]LogInfo, 0, len(cfg.Logs))
	for _, l := range cfg.Logs {
		if l.FromSeries && l.KeyFile != "" && !present(l.KeyFile) {
			continue
		}
		key, err := LoadKey(l)
		if err != nil {
			return nil, fmt.Errorf("log %s: %w", l.Name, err)
		}
		infos = append(infos, (&Parts{Conf: l, Key: key}).info())
	}
	return infos, nil
}

func (p *Parts) info() LogInfo {
	l, id := p.Conf, p.Key.LogID()
	return LogInfo{
		Name: l.Name, Origin: l.Origin, LogID: id[:], Key: p.Key.SPKI(),
		SubmissionURL: l.SubmissionURL, MonitoringURL: l.MonitoringURL,
		NotAfterStart: l.NotAfterStart.UTC(), NotAfterLimit: l.NotAfterLimit.UTC(),
		RootsFile: l.RootsFile, Storage: l.Storage, Lock: l.Lock,
	}
}
