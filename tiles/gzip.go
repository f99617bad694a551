package tiles

import (
	"bytes"
	stdgzip "compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/mod/sumdb/tlog"
)

// Bounds of what a data or names tile decodes to, in bytes. 256 entries of at most
// three 16 MiB fields could be more, but admission keeps entries under MaxEntry.
// The bounds of one tile follow from its width, so that a few bytes in the storage
// cannot make a reader of it take hundreds of megabytes.
const (
	// MaxEntry is the longest TileLeaf that is read back from a tile.
	MaxEntry = 1 << 20

	maxNamesLine = 6 * MaxEntry // JSON writes six bytes for some that stand in a certificate
	maxTile      = 512 << 20
)

// gzipLevel was measured on real entries: level 5 takes about a third of the
// time of the standard library's default at nearly the same size.
const gzipLevel = 5

// memberHeader begins every member that compress makes: deflate, no flags, no
// time, no hint of the level, unknown system (RFC 1952 section 2.3).
const memberHeader = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"

// largeTile is more than a tile of certificates in use has.
const largeTile = 4 << 20

const (
	flagsAt       = 3
	reservedFlags = 0xe0
)

// compressor keeps gzip writers for reuse: their tables are about 1 MB each. It
// is safe for concurrent use.
type compressor struct{ pool sync.Pool }

// compress returns data as one gzip member without name or time.
func (c *compressor) compress(data []byte) ([]byte, error) {
	size := len(data)/2 + 64
	if len(data) > largeTile {
		size = len(data) + len(data)/1024 + 64 // at once: to grow is to copy
	}
	buf := bytes.NewBuffer(make([]byte, 0, size))
	w, ok := c.pool.Get().(*gzip.Writer)
	if !ok {
		var err error
		if w, err = gzip.NewWriterLevel(nil, gzipLevel); err != nil {
			return nil, fmt.Errorf("compress tile: %w", err)
		}
	}
	defer c.pool.Put(w)
	w.Reset(buf)
	w.ModTime = time.Unix(0, 0) // written as 0; the zero time.Time is not
	if _, err := w.Write(data); err != nil {
		return nil, fmt.Errorf("compress tile: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress tile: %w", err)
	}
	return buf.Bytes(), nil
}

// maxRatio is more than deflate can make of a byte.
const maxRatio = 1032

// DecodedSize returns how many bytes a gzip member says that it decodes to, in
// its last four. It is never more than the member could decode to, so what is
// read for it is in proportion to it.
func DecodedSize(member []byte) int64 {
	const trailer = 4
	if len(member) < trailer {
		return 0
	}
	size := int64(binary.LittleEndian.Uint32(member[len(member)-trailer:]))
	return min(size, maxRatio*int64(len(member)))
}

// Gunzip decodes a data or names tile: exactly one gzip member, bounded in
// size. It uses the standard library, not the library that compressed.
func Gunzip(body []byte) ([]byte, error) { return gunzip(body, maxTile) }

// GunzipTile decodes a data or names tile whose width is known, which bounds it
// more tightly.
func GunzipTile(t tlog.Tile, body []byte) ([]byte, error) {
	each := int64(MaxEntry)
	if t.L == LevelNames {
		each = maxNamesLine
	}
	return gunzip(body, min(maxTile, int64(t.W)*each))
}

func gunzip(body []byte, limit int64) ([]byte, error) {
	// The standard library passes over reserved flags, with which other readers
	// refuse a member (RFC 1952 section 2.3.1.2).
	if len(body) > flagsAt && body[flagsAt]&reservedFlags != 0 {
		return nil, errors.New("decompress tile: reserved flags in the gzip header")
	}
	src := bytes.NewReader(body)
	r, err := stdgzip.NewReader(src)
	if err != nil {
		return nil, fmt.Errorf("decompress tile: %w", err)
	}
	r.Multistream(false)
	// What is more than it says is counted, to say what is wrong, and not kept.
	data := make([]byte, min(DecodedSize(body), limit))
	n, err := io.ReadFull(r, data)
	more := int64(0)
	if err == nil {
		more, err = io.Copy(io.Discard, io.LimitReader(r, limit+1-int64(n)))
	} else if errors.Is(err, io.EOF) && n == 0 || errors.Is(err, io.ErrUnexpectedEOF) && src.Len() == 0 {
		err = nil // less than it says
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("decompress tile: %w", err)
	case int64(n)+more > limit:
		return nil, fmt.Errorf("decompress tile: more than %d bytes", limit)
	case src.Len() != 0:
		return nil, errors.New("decompress tile: bytes after the gzip member")
	case more > 0 || n != len(data):
		return nil, errors.New("decompress tile: its end says another length")
	}
	return data, nil
}
