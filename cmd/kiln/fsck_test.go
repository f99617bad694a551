package main

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kiln/testlogs"
)

// fsckOutput runs kiln fsck in this process.
func fsckOutput(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), &env{stdout: &out, stderr: &errs, now: time.Now}, append([]string{"fsck"}, args...))
	return status, out.String(), errs.String()
}

// A log in the bucket of a real S3 server, read straight from there.
func TestFsckOnS3(t *testing.T) {
	l := testlogs.Start(t, testlogs.Options{Name: "s3log", Backend: testlogs.S3})
	for range 5 {
		c, err := l.CA.Precert(testlogs.LeafOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Client().Submit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	l.Stop()
	t.Setenv("AWS_ACCESS_KEY_ID", l.S3.AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", l.S3.SecretAccessKey)
	key := filepath.Join(t.TempDir(), "log.pub")
	if err := os.WriteFile(key, []byte(base64.StdEncoding.EncodeToString(l.SPKI)), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{l.Conf.Storage, "--endpoint", l.S3.Endpoint, "--region", "us-east-1", "--public-key", key, "--origin", l.Conf.Origin, "--signatures"}
	status, out, errs := fsckOutput(t, args...)
	if status != 0 || !strings.Contains(out, "no faults in 5 entries, ") || strings.Contains(out, " 0 older partial tiles") || errs != "" {
		t.Errorf("status %d\n%s\n%s", status, out, errs)
	}
	status, _, errs = fsckOutput(t, append(args, "--public-key", "", "--origin", "other")...)
	if status != 1 || !strings.Contains(errs, "kiln fsck: fault: ") {
		t.Errorf("with another origin: status %d\n%s", status, errs)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	status, _, errs = fsckOutput(t, args...)
	if status != 1 || !strings.Contains(errs, "could not be checked: checkpoint: ") || strings.Contains(errs, "fault: ") {
		t.Errorf("without a right to read: status %d\n%s", status, errs)
	}
}
