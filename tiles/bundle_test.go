package tiles

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"kiln/storage"
)

// seal makes the checksum of a bundle right again.
func seal(bundle []byte) []byte {
	end := len(bundle) - sha256.Size
	sum := sha256.Sum256(bundle[:end])
	return append(slices.Clone(bundle[:end]), sum[:]...)
}

func encode(t testing.TB, objects ...storage.Object) []byte {
	t.Helper()
	bundle, err := EncodeBundle(objects)
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

func someObjects() []storage.Object {
	return []storage.Object{
		{Path: "tile/0/000.p/1", Body: bytes.Repeat([]byte{7}, 32), ContentType: "application/octet-stream", CacheControl: CacheImmutable},
		{Path: "tile/data/000.p/1", Body: []byte("zipped"), ContentType: "application/octet-stream", ContentEncoding: "gzip", CacheControl: CacheImmutable},
		{Path: "a", Body: []byte{}},
	}
}

func TestBundleRoundTrip(t *testing.T) {
	t.Parallel()
	for n := range len(someObjects()) + 1 {
		want := someObjects()[:n]
		bundle := encode(t, want...)
		if cap(bundle) != len(bundle) {
			t.Errorf("%d objects: bundle of %d bytes in a buffer of %d", n, len(bundle), cap(bundle))
		}
		if err := CheckBundle(bundle); err != nil {
			t.Error(err)
		}
		got, err := DecodeBundle(bundle)
		if err != nil || len(got) != n || n > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("%d objects come back as %+v, %v", n, got, err)
		}
	}
}

// TestBundleGolden pins the format, which recovery reads after an upgrade.
func TestBundleGolden(t *testing.T) {
	t.Parallel()
	bundle := encode(t, storage.Object{Path: "p", ContentType: "tt", ContentEncoding: "eee", CacheControl: "cccc", Body: []byte("body!")})
	want := seal([]byte("kiln bundle v1\n" + "\x00\x00\x00\x01" + "\x00\x01p" + "\x00\x02tt" + "\x00\x03eee" + "\x00\x04cccc" +
		"\x00\x00\x00\x05body!" + strings.Repeat("s", sha256.Size)))
	if !bytes.Equal(bundle, want) {
		t.Errorf("bundle is %q, want %q", bundle, want)
	}
}

func TestBundleAppendIsSafe(t *testing.T) {
	t.Parallel()
	bundle := encode(t, someObjects()...)
	objects, err := DecodeBundle(bundle)
	if err != nil {
		t.Fatal(err)
	}
	for i := range objects {
		objects[i].Body = append(objects[i].Body, "overwritten?"...)
	}
	if err := CheckBundle(bundle); err != nil {
		t.Errorf("appending to a body changes the bundle: %v", err)
	}
}

func TestBundleDamage(t *testing.T) {
	t.Parallel()
	good := encode(t, someObjects()...)
	for i := range good {
		bad := slices.Clone(good)
		bad[i] ^= 0x10
		if CheckBundle(bad) == nil {
			t.Errorf("bundle with a bit of byte %d flipped passes", i)
		}
		if _, err := DecodeBundle(bad); err == nil {
			t.Errorf("bundle with a bit of byte %d flipped decodes", i)
		}
	}
	for n := range good {
		if _, err := DecodeBundle(good[:n]); err == nil {
			t.Errorf("first %d bytes of a bundle decode", n)
		}
		if n < sha256.Size {
			continue
		}
		if _, err := DecodeBundle(seal(good[:n])); err == nil {
			t.Errorf("first %d bytes of a bundle, with a right checksum, decode", n)
		}
	}
}

func TestDecodeBundleRefuses(t *testing.T) {
	t.Parallel()
	const countAt = len(bundleMagic)
	good := encode(t, someObjects()...)
	withCount := func(n uint32) []byte {
		b := slices.Clone(good)
		binary.BigEndian.PutUint32(b[countAt:], n)
		return b
	}
	tail := slices.Insert(slices.Clone(good), len(good)-sha256.Size, 0)
	long := slices.Clone(good)
	binary.BigEndian.PutUint32(long[countAt+4+2+len("tile/0/000.p/1")+2+24+2+2+len(CacheImmutable):], math.MaxUint32)
	a, b := storage.Object{Path: "a"}, storage.Object{Path: "a", Body: []byte("other")}
	for name, c := range map[string]struct {
		bundle []byte
		want   string
	}{
		"huge count":        {withCount(math.MaxUint32), "cannot fit"},
		"count of 2^31":     {withCount(1 << 31), "cannot fit"},
		"count too large":   {withCount(4), "truncated"},
		"count too small":   {withCount(2), "malformed"},
		"trailing byte":     {tail, "malformed"},
		"body over the end": {long, "truncated"},
		"repeated path":     {encode(t, a, b), "repeated path"},
		"empty path":        {encode(t, storage.Object{}), "path"},
		"path upwards":      {encode(t, storage.Object{Path: "../a"}), "path"},
		"absolute path":     {encode(t, storage.Object{Path: "/a"}), "path"},
		"other magic":       {[]byte(strings.Replace(string(good), "v1", "v2", 1)), "not a kiln bundle"},
	} {
		if got, err := DecodeBundle(seal(c.bundle)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %d objects, %v, want an error with %q", name, len(got), err, c.want)
		}
	}
}

func TestEncodeBundleRefuses(t *testing.T) {
	t.Parallel()
	body := make([]byte, 1<<20) // one body in all objects: only the sum is large
	var objects []storage.Object
	for i := range storage.MaxObject / len(body) {
		objects = append(objects, storage.Object{Path: fmt.Sprintf("o%d", i), Body: body})
	}
	if _, err := EncodeBundle(objects); err == nil || !strings.Contains(err.Error(), "over the limit") {
		t.Errorf("bundle over MaxObject: %v", err)
	}
	if _, err := EncodeBundle([]storage.Object{{Path: "a", ContentType: strings.Repeat("x", math.MaxUint16+1)}}); err == nil {
		t.Error("header of 64 KiB is taken")
	}
}

func FuzzDecodeBundle(f *testing.F) {
	for n := range len(someObjects()) + 1 {
		bundle := encode(f, someObjects()[:n]...)
		f.Add(bundle[:len(bundle)-sha256.Size])
		f.Add(append(bundle[:len(bundle)-sha256.Size:len(bundle)-sha256.Size], 0))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// The checksum is made right, or nothing would come past it.
		bundle := seal(append(slices.Clone(b), make([]byte, sha256.Size)...))
		objects, err := DecodeBundle(bundle)
		if err != nil {
			return
		}
		if again := encode(t, objects...); !bytes.Equal(again, bundle) {
			t.Fatalf("%x encodes again to %x", bundle, again)
		}
	})
}
