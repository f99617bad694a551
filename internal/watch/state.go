package watch

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"kiln/internal/fsck"
)

const (
	stateVersion = 1
	maxState     = 8 << 20 // bytes of a state file
	maxAside     = 4       // damaged state files that are kept
)

// state is what outlives a restart: the newest verified checkpoint with what is
// needed to go on from it, the sample, and a proven fault.
type state struct {
	Version int        `json:"kiln_watch"` // stateVersion
	Origin  string     `json:"origin"`
	Key     []byte     `json:"key"`              // SubjectPublicKeyInfo
	Memory  []byte     `json:"memory,omitempty"` // of a fsck.Follower
	Swept   int64      `json:"swept"`            // the next older tile to look at
	Recent  []Receipt  `json:"recent,omitempty"`
	Old     []Receipt  `json:"old,omitempty"`
	Fault   *faultNote `json:"fault,omitempty"`
	MAC     []byte     `json:"mac,omitempty"` // HMAC-SHA256 of all the above
}

// faultNote is a proven fault as it is kept: how it was found, to look again, and
// what differed.
type faultNote struct {
	Check  checkNote `json:"check"`
	Path   string    `json:"path"`
	Index  int64     `json:"leaf_index"`
	Ground int       `json:"ground"`
	Got    string    `json:"got,omitempty"`
	Want   string    `json:"want,omitempty"`
	Detail string    `json:"detail"`
	At     string    `json:"at"` // RFC 3339
}

func (n *faultNote) fault() *fsck.Fault {
	return &fsck.Fault{Path: n.Path, Index: n.Index, Ground: fsck.Ground(n.Ground), Got: n.Got, Want: n.Want, Detail: n.Detail}
}

// checkNote is a check as it is kept.
type checkNote struct {
	Kind    checkKind `json:"kind"`
	Tile    int64     `json:"tile,omitempty"`
	Receipt *Receipt  `json:"receipt,omitempty"`
}

func (s state) mac(secret []byte) []byte {
	s.MAC = nil
	data, err := json.Marshal(s)
	if err != nil {
		return nil // cannot be, of these types
	}
	h := hmac.New(sha256.New, secret)
	h.Write(data)
	return h.Sum(nil)
}

func (s state) encode(secret []byte) ([]byte, error) {
	s.Version = stateVersion
	s.MAC = s.mac(secret)
	return json.Marshal(s)
}

// parseState reads a state file, whose MAC shows that it is whole, and of this
// log if the secret is.
func parseState(data, secret []byte) (*state, error) {
	if len(data) > maxState {
		return nil, fmt.Errorf("it has more than %d bytes", maxState)
	}
	s := new(state)
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(s); err != nil {
		return nil, fmt.Errorf("it is no state file of a watcher: %w", err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("it has version %d, want %d", s.Version, stateVersion)
	}
	if got := s.MAC; !hmac.Equal(got, s.mac(secret)) {
		return nil, errors.New("its MAC is wrong: it is damaged, or of another log")
	}
	for _, list := range [][]Receipt{s.Recent, s.Old} {
		for i := range list {
			if !list[i].valid() {
				return nil, errors.New("it has a receipt that cannot be")
			}
		}
	}
	if len(s.Recent) > maxRecent || len(s.Old) > maxOld || s.Swept < 0 {
		return nil, errors.New("it has more than a watcher keeps")
	}
	if s.Fault != nil && !s.Fault.Check.valid() {
		return nil, errors.New("its fault was found by no check that is known")
	}
	return s, nil
}

func (c checkNote) valid() bool {
	switch c.Kind {
	case checkPass, checkEdge:
		return true
	case checkTile:
		return c.Tile >= 0
	case checkReceipt:
		return c.Receipt != nil && c.Receipt.valid()
	}
	return false
}

// sealingKey returns what the state file of a log is sealed with. Without a secret
// of the log's the seal only shows that the file is whole.
func sealingKey(secret []byte) []byte {
	h := sha256.Sum256(append([]byte("kiln watch state\n"), secret...))
	return h[:]
}

// readState reads the state file. One that is damaged or of another log is moved
// aside, and bad says why; an error says that the file could not be read.
func readState(path string, secret []byte) (s *state, aside string, bad, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, "", nil, nil
	}
	if err != nil {
		return nil, "", nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, "", nil, err
	}
	var data []byte
	if bad = fmt.Errorf("it is no file of at most %d bytes", maxState); info.Mode().IsRegular() && info.Size() <= maxState {
		if data, err = os.ReadFile(path); err != nil {
			return nil, "", nil, err
		}
		if s, bad = parseState(data, secret); bad == nil {
			return s, "", nil, nil
		}
	}
	aside, err = setAside(path)
	return nil, aside, bad, err
}

// setAside moves a file to the first free name.bad-N, the last if none is free.
func setAside(path string) (to string, err error) {
	for n := 1; n <= maxAside; n++ {
		to = fmt.Sprintf("%s.bad-%d", path, n)
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return to, os.Rename(path, to)
}

func writeState(path string, s state, secret []byte) error {
	data, err := s.encode(secret)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return fsck.ReplaceFile(path, data)
}
