package roots

import (
	"bytes"
	"encoding/hex"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kiln/internal/fuzztest"
	"kiln/storage"
	"kiln/storage/mem"
)

// FuzzParseFile reads any bytes as a roots file. What is read is, once written,
// read again as the same roots from the same sources.
func FuzzParseFile(f *testing.F) {
	roots := testRoots(f, 3)
	set := NewSet(roots[0].from([]string{"report.csv", SourceHand}, nil), roots[1].from(nil, []string{"old.csv"}), roots[2])
	f.Add(set.Render())
	f.Add(set.plain())
	f.Add([]byte(fileHeader))
	f.Add([]byte("# nothing\n"))
	f.Add(bytes.Replace(set.Render(), []byte("MII"), []byte("MIJ"), 1))
	f.Add(append(set.Render(), set.Render()...))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := ParseFile(data)
		if err != nil {
			fuzztest.Sentence(t, err)
			return
		}
		written, err := got.rendered()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseFile(written)
		if got.Len() == 0 {
			if err != nil || again.Len() != 0 {
				t.Fatalf("no roots are read as %d, %v", again.Len(), err)
			}
			return
		}
		same := func(a, b Root) bool {
			return a.Fingerprint == b.Fingerprint && slices.Equal(a.Sources, b.Sources) && slices.Equal(a.Formerly, b.Formerly)
		}
		if err != nil || !slices.EqualFunc(got.All(), again.All(), same) {
			t.Fatalf("%v is read again as %v, %v", got.All(), again.All(), err)
		}
		if !bytes.Equal(again.Render(), written) {
			t.Fatal("the same roots are written in two ways")
		}
	})
}

// FuzzRefused reads any bytes as the file of refused roots: no line of it is
// passed over.
func FuzzRefused(f *testing.F) {
	roots := testRoots(f, 2)
	a, b := roots[0].Fingerprint.String(), roots[1]
	f.Add([]byte(a + "\n# note\n" + pemOf(b)))
	f.Add([]byte(pemOf(b)[:200]))
	f.Add([]byte(strings.ToUpper(a) + " # x\r\n\n"))
	f.Add([]byte(a[1:]))
	f.Add([]byte("-----BEGIN \n-----END "))
	f.Fuzz(func(t *testing.T, data []byte) {
		refused, err := parseRefused(data)
		if err != nil {
			fuzztest.Sentence(t, err)
			return
		}
		lines := make(map[Fingerprint]bool)
		inside, blocks := false, 0
		for line := range strings.Lines(string(data)) {
			line = strings.TrimSpace(line)
			begins := !inside && strings.HasPrefix(line, "-----BEGIN ")
			if inside = inside || begins; inside {
				if strings.HasPrefix(line, "-----END ") {
					inside = false
					blocks++
				}
				continue
			}
			line, _, _ = strings.Cut(line, "#")
			if line = strings.TrimSpace(line); line == "" {
				continue
			}
			raw, err := hex.DecodeString(strings.ReplaceAll(line, ":", ""))
			if err != nil || len(raw) != 32 || !refused[Fingerprint(raw)] {
				t.Fatalf("%q is passed over", line)
			}
			lines[Fingerprint(raw)] = true
		}
		if len(refused) > len(lines)+blocks {
			t.Fatalf("%d are refused by %d lines and %d blocks", len(refused), len(lines), blocks)
		}
	})
}

// FuzzFingerprint: the two spellings of a fingerprint, and no others.
func FuzzFingerprint(f *testing.F) {
	fingerprint := testRoots(f, 1)[0].Fingerprint
	f.Add(fingerprint.String())
	f.Add(strings.ToUpper(fingerprint.String()))
	f.Add(colons(fingerprint))
	f.Add(strings.Repeat("a", 95))
	f.Add(strings.Repeat(":", 31) + strings.Repeat("a", 64))
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseFingerprint(s)
		if err != nil {
			fuzztest.Sentence(t, err)
			return
		}
		if lower := strings.ToLower(s); lower != got.String() && lower != strings.ToLower(colons(got)) {
			t.Fatalf("%q is taken for %v", s, got)
		}
	})
}

// FuzzCopies reads roots back from a bucket of any content: it is what its name
// says and a roots file, or an error.
func FuzzCopies(f *testing.F) {
	content := NewSet(testRoots(f, 2)...).Render()
	name := strings.TrimSuffix(strings.TrimPrefix(CopyPath(content), "roots/"), ".pem")
	f.Add([]byte(name+"\n"), content)
	f.Add([]byte(name), content[:100])
	f.Add([]byte("../../checkpoint"), content)
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, pointer, content []byte) {
		b := mem.New()
		for path, body := range map[string][]byte{latestPath: pointer, "roots/" + name + ".pem": content} {
			if err := b.Create(t.Context(), storage.Object{Path: path, Body: body}); err != nil {
				t.Fatal(err)
			}
		}
		got, err := Recover(t.Context(), b)
		if err != nil {
			fuzztest.Sentence(t, err)
			return
		}
		if CopyPath(got) != "roots/"+name+".pem" || !bytes.Equal(got, content) {
			t.Fatalf("%q leads to %q", pointer, got)
		}
	})
}

// FuzzSource names the places that reports are read from: never anything but a
// file, https, or http of this machine; and the name of a report is a plain word.
func FuzzSource(f *testing.F) {
	for _, s := range []string{
		"https://a.example/r.csv", "http://127.0.0.1/r", "http://a.example/r", "file:///r.csv", "file:r", "file://h/r", "r.csv", "../r.csv", "", "ftp://a/b", "HTTP://a/",
		"https://a:b@c/?x#y", "https:///x", "://", "https://a/..", "http://localhost.evil.example/", "http://[::1]/x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name := reportName(s)
		if !isSource(name) || strings.HasPrefix(name, ".") || filepath.Base(name) != name || strings.HasPrefix(name, "(") {
			t.Fatalf("the report from %q is called %q", s, name)
		}
		if err := CheckSource(s); err != nil {
			fuzztest.Sentence(t, err)
			if u, parseErr := url.Parse(s); parseErr == nil && u.User != nil {
				if password, ok := u.User.Password(); ok && len(password) > 5 && strings.Contains(err.Error(), ":"+password+"@") {
					t.Fatalf("error tells the password: %v", err)
				}
			}
			return
		}
		u, ok := asURL(s)
		if ok && u.Scheme != "https" && u.Scheme != "file" && (u.Scheme != "http" || !isLoopback(u)) {
			t.Fatalf("%q is taken", s)
		}
	})
}
