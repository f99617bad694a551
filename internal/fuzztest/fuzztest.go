// Package fuzztest is what the fuzz targets of all packages share: the
// properties that every parser has to have, and seeds from the test vectors and
// from real chains and tiles, which stand once in the repository.
//
// The properties: what a length field claims costs no memory ([Bounded]), and an
// error is one short line ([Sentence]).
//
// The package never knows a parser.
package fuzztest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/metrics"
	"strings"
	"testing"
)

// slack is what a call may always allocate, in bytes: tables of a decompressor,
// the spans that the runtime counts as a whole, and what else runs meanwhile.
const slack = 4 << 20

// Bounded fails the test if f allocates more than so many bytes, beside what
// every call may. No other test of the package may run meanwhile, so it is for
// fuzz targets alone, which run by themselves.
func Bounded(t testing.TB, limit int, f func()) {
	t.Helper()
	before := allocated()
	f()
	if got := allocated() - before; got > uint64(limit)+slack {
		t.Fatalf("%d bytes were allocated, at most %d are bounded by the input", got, limit)
	}
}

// allocated returns how many bytes the process has allocated so far.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// maxSentence bounds the text of an error, in bytes.
const maxSentence = 4 << 10

// Sentence fails the test unless err is one short line that holds all names:
// what is wrong with an input must not be able to write lines of its own into a
// log or a terminal.
func Sentence(t testing.TB, err error, names ...string) {
	t.Helper()
	text := err.Error()
	if text == "" || len(text) > maxSentence || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		t.Fatalf("error is no short line: %q", text)
	}
	for _, name := range names {
		if !strings.Contains(text, name) {
			t.Fatalf("error does not name %s: %s", name, text)
		}
	}
}

// editSize is the length of one edit of [Edit].
const editSize = 6

// Edit changes a copy of data as a script of edits says, so that the corpus of a
// large input (a tile, a database) holds scripts and not copies of it. An edit is
// six bytes: what to do, where (three bytes, over the length of the data as it is
// then), and two bytes more. What is left at the end of the script is ignored.
func Edit(data, script []byte) []byte {
	data = bytes.Clone(data)
	for ; len(script) >= editSize && len(data) > 0; script = script[editSize:] {
		at := (int(script[1])<<16 | int(script[2])<<8 | int(script[3])) % len(data)
		n := int(binary.BigEndian.Uint16(script[4:]))
		end := min(at+1+n%512, len(data))
		switch script[0] % 8 {
		case 0:
			data[at] ^= 1 << (n % 8)
		case 1:
			data[at] = byte(n)
		case 2:
			data = data[:at]
		case 3:
			data = append(data[:at:at], append(bytes.Repeat([]byte{byte(n)}, n>>8), data[at:]...)...)
		case 4:
			data = append(data[:at:at], data[end:]...)
		case 5: // a piece of the beginning comes again
			copy(data[at:end], data)
		case 6:
			clear(data[at:end])
		case 7:
			data = append(data, data[at:end]...)
		}
	}
	return data
}

// Edits returns scripts for [Edit] that damage data of any length, as seeds.
func Edits() [][]byte {
	seeds := [][]byte{nil}
	for op := range byte(8) {
		for _, at := range []uint32{0, 1, 100, 1 << 12, 1<<24 - 1} {
			edit := binary.BigEndian.AppendUint32(nil, at|uint32(op)<<24)
			seeds = append(seeds, binary.BigEndian.AppendUint16(edit, 0x0103))
		}
	}
	return append(seeds, bytes.Join(seeds[1:5], nil))
}

// File returns a file of the project's testdata, decompressed if its name ends
// in .gz.
func File(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root(t), "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(name, ".gz") {
		return data
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err == nil {
		data, err = io.ReadAll(z)
	}
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// root returns the folder of the project: tests run in that of their package.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		above := filepath.Dir(dir)
		if above == dir {
			t.Fatal("no go.mod in this folder or above")
		}
		dir = above
	}
}

// Vectors decodes vectors.json.
func Vectors(t testing.TB, into any) {
	t.Helper()
	if err := json.Unmarshal(File(t, "vectors.json"), into); err != nil {
		t.Fatal(err)
	}
}

// Certificates returns the DER of the vectors' certificates by their names.
func Certificates(t testing.TB) map[string][]byte {
	t.Helper()
	var v struct {
		Certs map[string][]byte `json:"certs_b64"`
	}
	Vectors(t, &v)
	return v.Certs
}

// Gzip returns data as one gzip member.
func Gzip(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		panic(fmt.Sprintf("write to memory: %v", err))
	}
	if err := w.Close(); err != nil {
		panic(fmt.Sprintf("write to memory: %v", err))
	}
	return b.Bytes()
}
