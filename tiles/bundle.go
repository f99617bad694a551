package tiles

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"kiln/storage"
)

// bundleMagic opens a bundle. The rest of the format, integers big-endian:
//
//	u32 count
//	count times: u16+path  u16+content type  u16+content encoding  u16+cache control  u32+body
//	SHA-256 of everything before
const bundleMagic = "kiln bundle v1\n"

// EncodeBundle packs the objects of a round into the bundle that is staged
// before the commit.
func EncodeBundle(objects []storage.Object) ([]byte, error) {
	size := len(bundleMagic) + 4 + sha256.Size
	for _, o := range objects {
		size += 12 + len(o.Path) + len(o.ContentType) + len(o.ContentEncoding) + len(o.CacheControl) + len(o.Body)
	}
	if size > storage.MaxObject {
		return nil, fmt.Errorf("encode bundle: %d bytes are over the limit of %d", size, storage.MaxObject)
	}
	b := make([]byte, 0, size)
	b = append(b, bundleMagic...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(objects)))
	for _, o := range objects {
		for _, s := range []string{o.Path, o.ContentType, o.ContentEncoding, o.CacheControl} {
			if len(s) > math.MaxUint16 {
				return nil, fmt.Errorf("encode bundle: header of %d bytes", len(s))
			}
			b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
			b = append(b, s...)
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(o.Body)))
		b = append(b, o.Body...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...), nil
}

// CheckBundle reports an error unless the checksum at the end of a bundle holds.
func CheckBundle(bundle []byte) error {
	if len(bundle) < len(bundleMagic)+4+sha256.Size || string(bundle[:len(bundleMagic)]) != bundleMagic {
		return errors.New("check bundle: not a kiln bundle")
	}
	end := len(bundle) - sha256.Size
	if sha256.Sum256(bundle[:end]) != [32]byte(bundle[end:]) {
		return errors.New("check bundle: checksum does not match, bytes were changed")
	}
	return nil
}

// DecodeBundle unpacks a bundle. The bodies of the objects alias it. Paths are
// valid for every backend and distinct.
func DecodeBundle(bundle []byte) ([]storage.Object, error) {
	if err := CheckBundle(bundle); err != nil {
		return nil, err
	}
	r := bundleReader{b: bundle[len(bundleMagic) : len(bundle)-sha256.Size]}
	count := r.uint(4)
	if count > len(r.b)/12 {
		return nil, fmt.Errorf("decode bundle: %d objects cannot fit", count)
	}
	objects := make([]storage.Object, 0, count)
	seen := make(map[string]bool, count)
	for range count {
		o := storage.Object{
			Path: string(r.bytes(2)), ContentType: string(r.bytes(2)),
			ContentEncoding: string(r.bytes(2)), CacheControl: string(r.bytes(2)),
			Body: r.bytes(4),
		}
		if r.short {
			return nil, errors.New("decode bundle: truncated")
		}
		if !storage.ValidPath(o.Path) || seen[o.Path] {
			return nil, fmt.Errorf("decode bundle: bad or repeated path %q", o.Path)
		}
		seen[o.Path] = true
		objects = append(objects, o)
	}
	if r.short || len(r.b) != 0 {
		return nil, errors.New("decode bundle: malformed")
	}
	return objects, nil
}

// bundleReader reads length-prefixed fields; short is set once bytes ran out.
type bundleReader struct {
	b     []byte
	short bool
}

func (r *bundleReader) uint(size int) int {
	if len(r.b) < size {
		r.short, r.b = true, nil
		return 0
	}
	n := 0
	for _, c := range r.b[:size] {
		n = n<<8 | int(c)
	}
	r.b = r.b[size:]
	return n
}

func (r *bundleReader) bytes(size int) []byte {
	n := r.uint(size)
	if len(r.b) < n {
		r.short, r.b = true, nil
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}
