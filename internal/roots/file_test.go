package roots

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"kiln/internal/chain"
)

// TestRender writes a roots file and reads it as logs and as kiln do.
func TestRender(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 4)
	set := NewSet(
		roots[0].from([]string{"Report-1", "Report_2.x", SourceExtra}, nil),
		roots[1].from(nil, []string{"Report-1"}),
		roots[2].from([]string{SourceHand}, nil),
		negativeSerial(t, roots[3]).from([]string{SourceBuiltIn}, []string{"Report-1"}),
	)
	data, err := set.rendered()
	if err != nil {
		t.Fatal(err)
	}
	ders, err := chain.ParseRoots(data)
	if err != nil || !slices.EqualFunc(ders, set.DERs(), bytes.Equal) {
		t.Fatalf("logs read %d roots, %v; want %d", len(ders), err, set.Len())
	}
	again, err := ParseFile(data)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range set.All() {
		got := again.All()[i]
		if got.String() != want.String() || !slices.Equal(got.Sources, want.Sources) || !slices.Equal(got.Formerly, want.Formerly) {
			t.Errorf("read %v from %q, formerly %q; wrote %v from %q, formerly %q", got, got.Sources, got.Formerly, want, want.Sources, want.Formerly)
		}
	}
	if third := again.Render(); !bytes.Equal(third, data) {
		t.Errorf("the file changes when it is read and written:\n%s\n%s", data, third)
	}
	all := set.All()
	slices.Reverse(all)
	if !bytes.Equal(NewSet(all...).Render(), data) {
		t.Error("the file depends on the order of its roots")
	}
}

// TestHandWritten reads roots files that others wrote.
func TestHandWritten(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 2)
	for _, c := range []struct {
		name, data string
		want       []Root
		err        string
	}{
		{"PEM", pemOf(roots[0]) + "\n" + pemOf(roots[1]) + "\n", roots, ""},
		{"text between", "Root 0\n" + pemOf(roots[0]) + "\n\n# Root 1\n" + pemOf(roots[1]), roots, ""},
		{"comments only", "# none as yet\n\n", nil, ""},
		{"a source of nothing", "# source: X\n" + pemOf(roots[0]), roots[:1], ""},
		{"sources that are none", "# sha256: " + roots[0].Fingerprint.String() + "\n# source: (hello)\n# source: \n# source: a b\n" + pemOf(roots[0]), roots[:1], ""},
		{"empty", "", nil, "no PEM block"},
		{"cut off", pemOf(roots[0]) + "\n" + pemOf(roots[1])[:500], nil, "cannot be read"},
		{"a key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", nil, "want CERTIFICATE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			set, err := ParseFile([]byte(c.data))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error is %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(fingerprints(set.All()), fingerprints(c.want)) {
				t.Errorf("got %v, want %v", set.All(), c.want)
			}
			for _, r := range set.All() {
				if !slices.Equal(r.Sources, []string{SourceHand}) {
					t.Errorf("%v is from %q, want by hand", r, r.Sources)
				}
			}
		})
	}
}

// TestFlippedBits damages a written file at each place of a certificate: whatever
// it then looks like, no root is lost in silence.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 2)
	data := NewSet(roots...).Render()
	start := bytes.Index(data, []byte("-----BEGIN"))
	silent := 0
	for at := start; at < start+len(pemOf(NewSet(roots...).All()[0])); at++ {
		damaged := bytes.Clone(data)
		damaged[at] ^= 1
		if set, err := ParseFile(damaged); err == nil && set.Len() == 2 && set.same(NewSet(roots...)) {
			silent++ // a bit that base64 does not use, or a space
		} else if err == nil {
			t.Fatalf("flipped at %d: read as %v", at, set.All())
		}
	}
	if silent > 4 {
		t.Errorf("%d flips changed nothing", silent)
	}
	if _, err := ParseFile(data[:start]); err == nil {
		t.Error("a file that ends before its first certificate is taken")
	}
}

func attribute(oid string, tag asn1.Tag, value string) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes([]byte(oid)) })
			b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(value)) })
		})
	})
	return b.BytesOrPanic()
}

func nameDER(attributes ...[]byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(slices.Concat(attributes...)) })
	return b.BytesOrPanic()
}

// TestNames writes subjects as one line, whatever they hold.
func TestNames(t *testing.T) {
	t.Parallel()
	const cn, c, o = "\x55\x04\x03", "\x55\x04\x06", "\x55\x04\x0a"
	for _, test := range []struct {
		name string
		der  []byte
		want string
	}{
		{"usual", nameDER(attribute(c, asn1.PrintableString, "XX"), attribute(o, asn1.UTF8String, "Firma, Ä"), attribute(cn, asn1.UTF8String, "Root")), `CN=Root, O=Firma\, Ä, C=XX`},
		{"line break", nameDER(attribute(cn, asn1.UTF8String, "a\n-----BEGIN CERTIFICATE-----\r\n# source: X")), `CN=a\u{a}-----BEGIN CERTIFICATE-----\u{d}\u{a}# source: X`},
		{"other line breaks", nameDER(attribute(cn, asn1.UTF8String, "a\u2028b\u0085c\x00d\u202ee")), `CN=a\u{2028}b\u{85}c\u{0}d\u{202e}e`},
		{"BMP", nameDER(attribute(cn, 30, "\x00R\x00o\x01\x00")), "CN=RoĀ"},
		{"universal", nameDER(attribute(cn, 28, "\x00\x00\x00R\x00\x01\xf6\x00")), "CN=R😀"},
		{"Latin 1", nameDER(attribute(cn, asn1.T61String, "Stra\xdfe")), "CN=Stra�e"},
		{"visible", nameDER(attribute(cn, 26, "Root")), "CN=Root"},
		{"other value", nameDER(attribute(cn, asn1.INTEGER, "\x01")), "CN=#01"},
		{"other type", nameDER(attribute("\x2a\x03", asn1.UTF8String, "x")), "OID.2a03=x"},
		{"none", nameDER(), "(no name)"},
		{"garbage", []byte("garbage"), "(unreadable)"},
		{"garbage inside", nameDER([]byte{0x31, 0x05, 1}), "(unreadable)"},
		{"long", nameDER(attribute(cn, asn1.UTF8String, strings.Repeat("ä", 300))), "CN=" + strings.Repeat("ä", 197) + "…"},
	} {
		if got := nameOf(test.der); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
	for _, r := range testRoots(t, 661) {
		if strings.Contains(r.Subject, "unreadable") || strings.ContainsAny(r.Subject, "\r\n") {
			t.Errorf("%v", r)
		}
	}
}

func FuzzNames(f *testing.F) {
	for _, r := range testRoots(f, 3) {
		info, err := chain.ParseRoot(r.DER)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(info.Subject)
	}
	f.Add(nameDER(attribute("\x55\x04\x03", asn1.UTF8String, "a\n-----BEGIN CERTIFICATE-----\n")))
	f.Fuzz(func(t *testing.T, der []byte) {
		if got := nameOf(der); got == "" || len(strings.Fields(got)) == 0 || strings.ContainsAny(got, "\r\n\x00\u0085\u2028\u2029") {
			t.Errorf("%q", got)
		}
	})
}

func TestParseRefused(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 3)
	a, b := roots[0].Fingerprint.String(), roots[1].Fingerprint
	for _, c := range []struct {
		name, data string
		want       []Root
		err        string
	}{
		{"nothing", "", nil, ""},
		{"fingerprints", "# distrusted\n" + a + "\n\n  " + strings.ToUpper(b.String()) + " # a note\r\n", roots[:2], ""},
		{"colons", colons(b), roots[1:2], ""},
		{"PEM", pemOf(roots[2]), roots[2:], ""},
		{"both", a + "\n" + pemOf(roots[2]) + "\n" + b.String() + "\n", roots, ""},
		{"too short", a + "\n" + a[1:] + "\n", nil, "line 2"},
		{"no hexadecimal", strings.Repeat("x", 64), nil, "line 1"},
		{"a name", "CN=Root", nil, "line 1"},
		{"two in a line", a + " " + b.String(), nil, "line 1"},
		{"a block without end", pemOf(roots[0])[:200], nil, "no end"},
		{"a damaged block", strings.Replace(pemOf(roots[0]), "MII", "M!!", 1), nil, "block that ends in line"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseRefused([]byte(c.data))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error is %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || len(got) != len(c.want) {
				t.Fatalf("got %v, %v; want %v", got, err, c.want)
			}
			for _, r := range c.want {
				if !got[r.Fingerprint] {
					t.Errorf("%v is not refused", r)
				}
			}
		})
	}
}

func mustWrite(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestSwap changes a file only from what it was thought to hold.
func TestSwap(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "roots.pem")
	link := filepath.Join(t.TempDir(), "link.pem")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	one, two, three := []byte("one"), []byte("two"), []byte("three")
	if err := swap(path, one, two); !errors.Is(err, ErrChanged) {
		t.Errorf("a file that is gone: %v", err)
	}
	if err := swap(path, nil, one); err != nil {
		t.Fatal(err)
	}
	if err := swap(path, nil, two); !errors.Is(err, ErrChanged) {
		t.Errorf("a file that has come: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := swap(link, one, two); err != nil {
		t.Fatal(err)
	}
	if err := swap(path, one, three); !errors.Is(err, ErrChanged) {
		t.Errorf("a file that has changed: %v", err)
	}
	if err := swap(path, one, two); err != nil {
		t.Errorf("what is there already: %v", err)
	}
	if got, kept := mustRead(t, path), mustRead(t, path+LastGoodSuffix); string(got) != "two" || string(kept) != "one" {
		t.Errorf("the file holds %q, the copy %q", got, kept)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link is %v, %v", info, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the mode is %v, %v", info, err)
	}
}

// TestSwapFails lets each write fail in turn: the file stays as it was, and
// nothing is left behind.
func TestSwapFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		obstacle string // a folder with something in it, where a file is to be
	}{{"the copy", "roots.pem" + LastGoodSuffix}, {"the lock", "roots.pem" + lockSuffix}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "roots.pem")
			mustWrite(t, path, []byte("one"))
			if err := os.MkdirAll(filepath.Join(dir, c.obstacle, "x"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := swap(path, []byte("one"), []byte("two")); err == nil {
				t.Error("swap succeeded")
			}
			if got := mustRead(t, path); string(got) != "one" {
				t.Errorf("the file holds %q", got)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, unfinished+"*")); len(left) > 0 {
				t.Errorf("%q are left", left)
			}
		})
	}
}
