package daemon

import (
	"fmt"
	"time"

	"kiln/internal/config"
	"kiln/internal/logkey"
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
	Storage       string    `json:"storage"` // directory
	Lock          string    `json:"lock"`    // SQLite file
}

// Metadata describes the configured logs, in the order of the configuration.
// It reads the key files and touches nothing else.
func Metadata(cfg *config.Config) ([]LogInfo, error) {
	infos := make([]LogInfo, 0, len(cfg.Logs))
	for _, l := range cfg.Logs {
		key, err := logkey.Load(l.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("log %s: %w", l.Name, err)
		}
		id := key.LogID()
		infos = append(infos, LogInfo{
			Name: l.Name, Origin: l.Origin, LogID: id[:], Key: key.SPKI(),
			SubmissionURL: l.SubmissionURL, MonitoringURL: l.MonitoringURL,
			NotAfterStart: l.NotAfterStart.UTC(), NotAfterLimit: l.NotAfterLimit.UTC(),
			RootsFile: l.RootsFile, Storage: l.Storage, Lock: l.Lock,
		})
	}
	return infos, nil
}
