package fsck

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/checkpoint"
	"kiln/tiles"
)

// maxConflicts bounds the checkpoints that are kept as evidence.
const maxConflicts = 16

const maxState = 4 << 20

// state is what a run leaves for the next: the newest checkpoint that was found
// consistent with all before, and how far the entries were checked. The hashes of
// what was checked go into the root that the next run computes, so that a log
// which changed meanwhile cannot pass.
type state struct {
	Version    int       `json:"kiln_fsck"` // 1
	Origin     string    `json:"origin"`
	Key        []byte    `json:"key"`        // SubjectPublicKeyInfo
	Checkpoint string    `json:"checkpoint"` // the signed note; empty if none was seen
	Conflicts  []string  `json:"conflicts,omitempty"`
	Source     string    `json:"source"` // that Pass was read from
	Pass       passState `json:"pass"`
	Saved      time.Time `json:"saved"`
	Sum        string    `json:"sum,omitempty"` // SHA-256 of all the above, against rot
}

// passState is how far a pass over the entries has come.
type passState struct {
	Entries int64    `json:"entries"` // a multiple of 256
	Levels  [][]byte `json:"levels"`  // hashes at each tile level that are not in a full tile yet
	Done    bool     `json:"done"`    // to the end of Checkpoint, and all was well
}

// readState reads a state file; it is nil if there is none.
func readState(path string) (*state, error) {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read state: %w", err)
	case len(data) > maxState:
		return nil, fmt.Errorf("read state %s: it has more than %d bytes", path, maxState)
	}
	s, err := parseState(data)
	if err != nil {
		return nil, fmt.Errorf("read state %s: %w; remove the file to begin anew, or bring back a copy", path, err)
	}
	return s, nil
}

func parseState(data []byte) (*state, error) {
	s := new(state)
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(s); err != nil {
		return nil, fmt.Errorf("it is no state file of kiln fsck: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows it in the file")
	}
	if s.Version != 1 {
		return nil, fmt.Errorf("it has version %d, want 1", s.Version)
	}
	sum := s.Sum
	if want, err := s.sum(); err != nil || sum != want {
		return nil, errors.New("its checksum is wrong")
	}
	if _, err := s.Pass.spine(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s state) sum() (string, error) {
	s.Sum = ""
	data, err := json.Marshal(s)
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), err
}

// write makes the file appear whole or not at all.
func (s state) write(path string) error {
	data, err := s.encode()
	if err == nil {
		err = ReplaceFile(path, data)
	}
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

func (s state) encode() (data []byte, err error) {
	if s.Sum, err = s.sum(); err != nil {
		return nil, err
	}
	data, err = json.MarshalIndent(s, "", " ")
	return append(data, '\n'), err
}

// ReplaceFile writes a file so that it appears whole or not at all, and durably.
func ReplaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone if all went well
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// spine returns the hashes of a pass, checked to be those of its size.
func (p passState) spine() (spine, error) {
	s := spine{size: p.Entries}
	bad := errors.New("it does not say how far the check has come")
	if p.Entries < 0 || p.Entries > tiles.MaxTree || p.Entries%tiles.Width != 0 {
		return spine{}, bad
	}
	for l := range levels {
		var body []byte
		if l < len(p.Levels) {
			body = p.Levels[l]
		}
		want := int(p.Entries >> (tiles.Height * l) % tiles.Width)
		if len(body) != want*tlog.HashSize {
			return spine{}, bad
		}
		for ; len(body) > 0; body = body[tlog.HashSize:] {
			s.levels[l] = append(s.levels[l], tlog.Hash(body))
		}
	}
	return s, nil
}

// passOf is the inverse: of a spine whose partial data tile is left out.
func passOf(s *spine, done bool) passState {
	p := passState{Entries: s.size / tiles.Width * tiles.Width, Levels: make([][]byte, levels), Done: done}
	for l := 1; l < levels; l++ {
		for _, h := range s.levels[l] {
			p.Levels[l] = append(p.Levels[l], h[:]...)
		}
	}
	return p
}

// remember reads the state file, if there is one, and takes up what it says.
func (c *checker) remember() error {
	if c.opts.State == "" {
		return nil
	}
	s, err := readState(c.opts.State)
	if err != nil || s == nil {
		return err
	}
	if s.Origin != c.opts.Origin || !bytes.Equal(s.Key, c.opts.SPKI) {
		return fmt.Errorf("state file %s is of the log %s with log ID %x, and this is %s with log ID %x: give each log a file of its own",
			c.opts.State, shown(s.Origin), sha256.Sum256(s.Key), c.opts.Origin, sha256.Sum256(c.opts.SPKI))
	}
	c.state = *s
	return nil
}

// remembered returns the checkpoint of the state file.
func (c *checker) remembered() (old checkpoint.Checkpoint, ok bool, err error) {
	if c.state.Checkpoint == "" {
		return old, false, nil
	}
	old, err = c.verifier.Open([]byte(c.state.Checkpoint))
	if err != nil {
		return old, false, fmt.Errorf("open the checkpoint in state file %s: %w", c.opts.State, err)
	}
	return old, true, nil
}

// save writes the state file; done is whether all was checked. A checkpoint that
// was not compared with the remembered one must not take its place.
func (c *checker) save(done bool) error {
	if c.opts.State == "" && !c.following || c.unproved {
		return nil
	}
	c.state.Version, c.state.Origin, c.state.Key = 1, c.opts.Origin, c.opts.SPKI
	c.state.Source, c.state.Saved = c.source.String(), c.opts.Now().UTC()
	c.state.Checkpoint = string(c.raw)
	c.state.Pass = passOf(&c.spine, done)
	if c.following {
		return nil
	}
	return c.state.write(c.opts.State)
}

// keepConflict keeps a checkpoint that contradicts the remembered one: the two
// signatures are the proof.
func (c *checker) keepConflict() error {
	raw := string(c.raw)
	for _, r := range c.state.Conflicts {
		if r == raw {
			return nil
		}
	}
	if c.opts.State == "" && !c.following || len(c.state.Conflicts) >= maxConflicts {
		return nil
	}
	c.state.Conflicts = append(c.state.Conflicts, raw)
	if c.following {
		return nil
	}
	return c.state.write(c.opts.State)
}
