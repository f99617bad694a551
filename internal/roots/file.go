package roots

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/chain"
)

// maxFile bounds the files of roots, in bytes.
const maxFile = 32 << 20

// Names beside the roots file.
const (
	// LastGoodSuffix ends the name of the copy of what the roots file held
	// before its last change.
	LastGoodSuffix = ".last-good"

	lockSuffix  = ".lock" // locked while the file is changed
	unfinished  = ".new-" // begins the names of files that are being written
	CacheSuffix = ".reports"
)

// Lines of a roots file that say where a root comes from.
const (
	lineSubject  = "# subject: "
	lineSHA256   = "# sha256: "
	lineNotAfter = "# not after: "
	lineSource   = "# source: "
	lineFormerly = "# formerly: "
)

const (
	fileMark   = "# Accepted roots. This file is written by kiln:"
	fileHeader = fileMark + ` it adds to it and keeps what is
# there. Certificates may be added by hand, but comments do not stay. To take a
# root out, put its SHA-256 into the file of refused roots.
`
)

// Render returns the content of a roots file. It is PEM with comments, which
// every reader of PEM takes, and the same bytes for the same set.
func (s *Set) Render() []byte {
	var b bytes.Buffer
	b.WriteString(fileHeader)
	for _, r := range s.roots {
		fmt.Fprintf(&b, "\n%s%s\n%s%s\n%s%s\n", lineSubject, r.Subject, lineSHA256, r.Fingerprint, lineNotAfter, r.NotAfter.Format(time.DateOnly))
		for _, source := range r.Sources {
			fmt.Fprintf(&b, "%s%s\n", lineSource, source)
		}
		for _, source := range r.Formerly {
			fmt.Fprintf(&b, "%s%s\n", lineFormerly, source)
		}
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.DER}))
	}
	return b.Bytes()
}

// plain returns the certificates alone, for a file that is the operator's.
func (s *Set) plain() []byte {
	var b bytes.Buffer
	for _, r := range s.roots {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.DER}))
	}
	return b.Bytes()
}

// rendered returns the content of a roots file, having read it again as a log
// does: what is written must be what was meant.
func (s *Set) rendered() ([]byte, error) {
	data := s.Render()
	if len(data) > maxFile {
		return nil, fmt.Errorf("the roots file would have %d bytes, at most %d are taken", len(data), maxFile)
	}
	again, err := ParseFile(data)
	if err != nil {
		return nil, fmt.Errorf("the roots file would not be readable: %w", err)
	}
	if !again.same(s) {
		return nil, fmt.Errorf("the roots file would hold %d roots instead of %d", again.Len(), s.Len())
	}
	return data, nil
}

// ParseFile reads a roots file, written by Render or by hand. A root without a
// source stands there by hand. It is an error if Render has written a root that
// is not there any more: certificates that were damaged may still look like one.
func ParseFile(data []byte) (*Set, error) {
	found, err := parsePEM(data, "")
	if err != nil {
		return nil, err
	}
	sources, formerly := provenance(data)
	for i, r := range found {
		r = r.from(sources[r.Fingerprint], formerly[r.Fingerprint])
		if len(r.Sources)+len(r.Formerly) == 0 {
			r = r.from([]string{SourceHand}, nil)
		}
		found[i] = r
	}
	set := NewSet(found...)
	if !bytes.HasPrefix(data, []byte(fileMark)) {
		return set, nil
	}
	for f := range sources {
		if _, ok := set.Get(f); !ok {
			return nil, fmt.Errorf("the certificate of %s is damaged or missing", f)
		}
	}
	return set, nil
}

// provenance reads the sources in the comments. They name the root they speak of,
// so nothing depends on which block is next to them.
func provenance(data []byte) (sources, formerly map[Fingerprint][]string) {
	sources, formerly = make(map[Fingerprint][]string), make(map[Fingerprint][]string)
	var of Fingerprint
	known := false
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\r\n")
		if text, ok := strings.CutPrefix(line, lineSHA256); ok {
			f, err := ParseFingerprint(text)
			of, known = f, err == nil
			if _, ok := sources[of]; known && !ok {
				sources[of] = nil // it is written here, wherever it comes from
			}
		}
		if !strings.HasPrefix(line, "#") {
			known = false
		}
		if text, ok := strings.CutPrefix(line, lineSource); ok && known && isSource(text) {
			sources[of] = append(sources[of], text)
		}
		if text, ok := strings.CutPrefix(line, lineFormerly); ok && known && isSource(text) {
			formerly[of] = append(formerly[of], text)
		}
	}
	return sources, formerly
}

// isSource reports whether a text is the name of a source.
func isSource(s string) bool {
	return s == SourceHand || s == SourceExtra || s == SourceBuiltIn ||
		s != "" && len(s) <= maxReportName && strings.IndexFunc(s, func(r rune) bool { return !inReportName(r) }) < 0
}

// readFile reads a regular file of bounded size. What is not there is
// fs.ErrNotExist.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	data, err := readAll(f, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}

// readAll reads to the end, which must come within limit bytes.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("it is larger than %d bytes", limit)
	}
	return data, nil
}

// replace durably puts content into a file, whole or not at all.
func replace(path string, data []byte) (err error) {
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(path), unfinished+"*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("sync folder of %s: %w", path, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync folder of %s: %w", path, err)
	}
	return nil
}

// ErrChanged says that the roots file is not what it was when the plan was made.
var ErrChanged = errors.New("the roots file has changed meanwhile: look again, and apply what is then to be done")

// swap puts next into the roots file if it holds basis (nil: if there is none),
// and keeps basis beside it. A crash leaves the one or the other in place, never
// less.
func swap(path string, basis, next []byte) error {
	// A link that names the file stays a link.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	lock, err := os.OpenFile(path+lockSuffix, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("open lock file: %w", err)
	}
	defer lock.Close() // which drops the lock
	// Who holds it writes two files, and is done.
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	now, err := readFile(path, maxFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		now = nil
	case err != nil:
		return fmt.Errorf("read roots file: %w", err)
	case bytes.Equal(now, next):
		return nil
	}
	if (now == nil) != (basis == nil) || !bytes.Equal(now, basis) {
		return fmt.Errorf("%s: %w", path, ErrChanged)
	}
	if now != nil {
		if err := replace(path+LastGoodSuffix, now); err != nil {
			return fmt.Errorf("keep the last roots file as %s: %w", path+LastGoodSuffix, err)
		}
	}
	if err := replace(path, next); err != nil {
		return fmt.Errorf("write roots file %s: %w", path, err)
	}
	return nil
}

// builtIn returns what every log that follows the programmes accepts.
func builtIn() (Listing, error) {
	ders, err := chain.ParseRoots(monitorPEM)
	if err != nil {
		return Listing{}, fmt.Errorf("built-in roots: %w", err)
	}
	root, err := NewRoot(ders[0])
	if err != nil {
		return Listing{}, fmt.Errorf("built-in roots: %w", err)
	}
	return Listing{Source: SourceBuiltIn, Roots: []Root{root}}, nil
}
