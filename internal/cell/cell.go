// Package cell makes a [lock.Store] of anything that has conditional writes: a
// key of etcd, an object of S3.
//
// A version of a cell is written as an envelope: a few lines of text with a
// nonce, the nonces of the versions before it and a checksum, then the body. By
// them a writer whose answer was lost finds out what became of its write.
//
// Invariants: no two versions have the same bytes, in no other place and after
// no restoring of a backup either; a foreign or damaged envelope is an error,
// never a cell that is missing; ErrConflict is returned only when it is certain
// that the write had no effect and can have none later.
//
// The package never knows what the body means, nor which engine keeps it.
package cell

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"kiln/lock"
)

const (
	magic = "kiln lock cell 1"

	// maxID is the longest name of a cell, in bytes.
	maxID = 1024
	// ancestors is how many nonces a version keeps of those before it: at two
	// rounds a second, of about a minute.
	ancestors = 128
	// nonceSize is the length of a nonce, five bits a letter.
	nonceSize = 13

	// MaxSize bounds an envelope, in bytes.
	MaxSize = lock.MaxBody + 8<<10
)

// ErrDamaged says that what was found in the place of a cell is not one that
// kiln wrote there.
var ErrDamaged = errors.New("the content is not this lock cell as kiln wrote it")

// Cell is one version of a cell. It is not modified once made.
type Cell struct {
	ID   string
	Body []byte // never nil

	seq    uint64   // 1 is the first version
	birth  string   // the nonce of the first version
	nonce  string   // of this version alone
	before []string // nonces of the versions before, newest first, at most ancestors
}

func check(id string, body []byte) error {
	switch {
	case id == "":
		return errors.New("empty name")
	case len(id) > maxID:
		return fmt.Errorf("name has %d bytes, more than %d", len(id), maxID)
	case len(body) > lock.MaxBody:
		return fmt.Errorf("body has %d bytes, more than %d", len(body), lock.MaxBody)
	}
	return nil
}

func newNonce() string { return rand.Text()[:nonceSize] }

// first returns the first version of a new cell.
func first(id string, body []byte) Cell {
	nonce := newNonce()
	return Cell{ID: id, Body: append([]byte{}, body...), seq: 1, birth: nonce, nonce: nonce}
}

// next returns a version that follows c.
func (c Cell) next(body []byte) Cell {
	before := slices.Concat([]string{c.nonce}, c.before)
	return Cell{
		ID: c.ID, Body: append([]byte{}, body...),
		seq: c.seq + 1, birth: c.birth, nonce: newNonce(), before: before[:min(len(before), ancestors)],
	}
}

// head returns the lines before the body. The last of them is a checksum over
// all others and the body.
func (c Cell) head() []byte {
	head := fmt.Appendf(nil, "%s\nid %s\nversion %d\nbirth %s\nnonce %s\nbefore %s\n",
		magic, strconv.QuoteToASCII(c.ID), c.seq, c.birth, c.nonce, strings.Join(c.before, " "))
	sum := sha256.Sum256(slices.Concat(head, c.Body))
	return fmt.Appendf(head, "sha256 %x\n\n", sum)
}

// Encode returns the envelope.
func (c Cell) Encode() []byte { return append(c.head(), c.Body...) }

// Decode reads the envelope of the cell id. Its error is ErrDamaged.
func Decode(id string, data []byte) (Cell, error) {
	damaged := func(what string) (Cell, error) { return Cell{}, fmt.Errorf("%w: %s", ErrDamaged, what) }
	if len(data) > MaxSize {
		return damaged("it is too large")
	}
	head, body, ok := bytes.Cut(data, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !ok || lines[0] != magic {
		return damaged(fmt.Sprintf("it does not begin with %q", magic))
	}
	c := Cell{ID: id, Body: append([]byte{}, body...)}
	for _, line := range lines[1:] {
		var err error
		key, value, _ := strings.Cut(line, " ")
		switch key {
		case "id":
			if value != strconv.QuoteToASCII(id) {
				return damaged("it belongs to another cell, " + value)
			}
		case "version":
			c.seq, err = strconv.ParseUint(value, 10, 64)
		case "birth":
			c.birth = value
		case "nonce":
			c.nonce = value
		case "before":
			c.before = strings.Fields(value)
		}
		if err != nil {
			return damaged("a line of its head is malformed")
		}
	}
	// There is one way to write a cell, and the checksum is part of it.
	if c.birth == "" || c.nonce == "" || c.seq == 0 || len(c.Body) > lock.MaxBody || len(c.before) > ancestors ||
		!bytes.Equal(c.Encode(), data) {
		return damaged("its parts or its checksum do not fit together")
	}
	return c, nil
}

var encoding = base64.RawURLEncoding.Strict()

// held names the version after all but the body, so that it can be replaced
// without a look at the cell, and after the place where the engine keeps it,
// which is empty if it is known to have been replaced already.
func (c Cell) held(place string) lock.Held {
	name := encoding.EncodeToString(c.head()) + "." + encoding.EncodeToString([]byte(place))
	sum := sha256.Sum256([]byte(name))
	version := fmt.Sprintf("%s.%x", name, sum[:8])
	return lock.Held{ID: c.ID, Body: append([]byte{}, c.Body...), Version: version}
}

// parse undoes held; ok is false for what held never returned with this body.
func parse(h lock.Held) (c Cell, place string, ok bool) {
	parts := strings.Split(h.Version, ".")
	if len(parts) != 3 {
		return Cell{}, "", false
	}
	head, headErr := encoding.DecodeString(parts[0])
	at, placeErr := encoding.DecodeString(parts[1])
	c, err := Decode(h.ID, append(head, h.Body...))
	if errors.Join(headErr, placeErr, err) != nil || c.held(string(at)).Version != h.Version {
		return Cell{}, "", false
	}
	return c, string(at), true
}

// fate is what became of a write whose outcome is not known.
type fate int

const (
	unknown fate = iota // the cell went further than its versions remember
	open                // nothing yet: the cell is at the version that was to be replaced
	won                 // it took effect
	lost                // another write took its place
)

// fate tells from the cell as it is now what became of the write of c.
func (c Cell) fate(now Cell) fate {
	known := append([]string{now.nonce}, now.before...)
	switch {
	case slices.Contains(known, c.nonce), c.seq == 1 && now.birth == c.birth:
		return won
	case c.seq == 1: // only an empty place takes a first version
		return lost
	case now.birth != c.birth:
		return unknown
	case now.nonce == c.before[0]:
		return open
	case slices.Contains(known, c.before[0]):
		return lost
	}
	return unknown
}
