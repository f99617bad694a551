package fsck

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"kiln/entry"
)

// growth bounds what is set aside for a length that is claimed before its bytes
// are seen.
const growth = 1 << 20

const fingerprintSize = 32

// leaf is one TileLeaf (MON-12). Its slices are valid until the next read.
type leaf struct {
	timestamp     uint64 // milliseconds since 1970 UTC
	precert       bool
	issuerKeyHash [32]byte
	certificate   []byte // the final certificate, or the TBSCertificate
	index         int64  // of the leaf_index extension
	submitted     []byte // the precertificate as it was submitted
	chain         [][32]byte
	hash          [32]byte // of the MerkleTreeLeaf, as RFC 6962 section 2.1 has it
	size          int64    // of all of it, in bytes

	buf []byte // kept for the next
}

// errEnd says that the entries ended where another one was to begin.
var errEnd = errors.New("it ends here")

// read decodes the next TileLeaf. Memory grows with the bytes that are there,
// not with the lengths they claim.
func (l *leaf) read(r *bufio.Reader) error {
	l.buf, l.submitted, l.chain = l.buf[:0], nil, l.chain[:0]
	if _, err := r.Peek(1); errors.Is(err, io.EOF) {
		return errEnd
	}
	head, err := l.take(r, 10)
	if err != nil {
		return fmt.Errorf("timestamp and type: %w", err)
	}
	l.timestamp = binary.BigEndian.Uint64(l.buf)
	l.issuerKeyHash = [32]byte{}
	switch typ := binary.BigEndian.Uint16(l.buf[head+8:]); typ {
	case 0:
		l.precert = false
	case 1:
		l.precert = true
		at, err := l.take(r, len(l.issuerKeyHash))
		if err != nil {
			return fmt.Errorf("issuer key hash: %w", err)
		}
		l.issuerKeyHash = [32]byte(l.buf[at:])
	default:
		return fmt.Errorf("entry type is %d, want 0 or 1", typ)
	}
	certificate, err := l.field(r, 3)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	extensions, err := l.field(r, 2)
	if err != nil {
		return fmt.Errorf("extensions: %w", err)
	}
	signed := len(l.buf)
	var submitted span
	if l.precert {
		if submitted, err = l.field(r, 3); err != nil {
			return fmt.Errorf("precertificate: %w", err)
		}
	}
	chain, err := l.field(r, 2)
	if err != nil {
		return fmt.Errorf("fingerprints: %w", err)
	}
	// The buffer stays where it is from here on.
	l.certificate = certificate.of(l.buf)
	if l.precert {
		l.submitted = submitted.of(l.buf)
	}
	l.size = int64(len(l.buf))
	h := sha256.New()
	h.Write([]byte{0 /* leaf */, 0 /* v1 */, 0 /* timestamped_entry */})
	h.Write(l.buf[:signed])
	h.Sum(l.hash[:0])
	return l.finish(extensions.of(l.buf), chain.of(l.buf))
}

// finish reads what is inside the extensions and the chain.
func (l *leaf) finish(extensions, chain []byte) (err error) {
	if l.index, err = entry.ParseExtensions(extensions); err != nil {
		return err
	}
	if len(chain)%fingerprintSize != 0 {
		return fmt.Errorf("fingerprints have %d bytes, want a multiple of %d", len(chain), fingerprintSize)
	}
	for ; len(chain) > 0; chain = chain[fingerprintSize:] {
		l.chain = append(l.chain, [32]byte(chain))
	}
	return nil
}

// span is a part of a buffer that may yet move.
type span struct{ from, to int }

// of returns the part of buf that s is.
func (s span) of(buf []byte) []byte { return buf[s.from:s.to:s.to] }

// field appends a length of so many bytes and what it counts to the buffer, and
// returns where the latter is.
func (l *leaf) field(r *bufio.Reader, lengthSize int) (span, error) {
	at, err := l.take(r, lengthSize)
	if err != nil {
		return span{}, err
	}
	n := 0
	for _, b := range l.buf[at:] {
		n = n<<8 | int(b)
	}
	at, err = l.take(r, n)
	return span{at, at + n}, err
}

// take appends n bytes to the buffer and returns where they begin.
func (l *leaf) take(r *bufio.Reader, n int) (at int, err error) {
	at = len(l.buf)
	for n > 0 {
		step := min(n, growth)
		from := len(l.buf)
		l.buf = append(l.buf, make([]byte, step)...)
		if got, err := io.ReadFull(r, l.buf[from:]); err != nil {
			l.buf = l.buf[:from+got]
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return at, fmt.Errorf("the tile ends %d bytes early", n-got)
			}
			return at, err
		}
		n -= step
	}
	return at, nil
}
