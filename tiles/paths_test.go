package tiles

import (
	"crypto/sha256"
	"strconv"
	"strings"
	"testing"

	"filippo.io/sunlight"
	"golang.org/x/mod/sumdb/tlog"

	"kiln/storage"
)

func TestPathVectors(t *testing.T) {
	t.Parallel()
	v := readVectors(t).TilePaths
	for _, c := range v.Valid {
		level, err := strconv.Atoi(c.Level)
		if c.Level == "data" {
			level, err = LevelData, nil
		}
		if err != nil {
			t.Fatal(err)
		}
		want := tlog.Tile{H: Height, L: level, N: c.Index, W: c.Width}
		if got := Path(want); got != c.Path {
			t.Errorf("Path(%+v) = %s, want %s", want, got, c.Path)
		}
		if got, err := ParsePath(c.Path); err != nil || got != want {
			t.Errorf("ParsePath(%s) = %+v, %v, want %+v", c.Path, got, err, want)
		}
		names := strings.Replace(c.Path, "tile/data/", "tile/names/", 1)
		if names == c.Path {
			continue
		}
		want.L = LevelNames
		if got, err := ParsePath(names); err != nil || got != want || Path(want) != names {
			t.Errorf("ParsePath(%s) = %+v, %v, want %+v (%s)", names, got, err, want, Path(want))
		}
	}
	bad := v.Bad
	for _, c := range v.Also404 {
		path, _, _ := strings.Cut(c, " ")
		bad = append(bad, path)
	}
	for _, path := range bad {
		if got, err := ParsePath(path); err == nil {
			t.Errorf("ParsePath(%s) = %+v, want an error", path, got)
		}
	}
}

func TestParsePathRefuses(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"", "tile", "tile/", "tile/0", "tile/0/", "tile//000", "/tile/0/000", "tile/0/000/", " tile/0/000", "tile/0/000 ", "TILE/0/000",
		"tile/+0/000", "tile/0/+00", "tile/0/-01", "tile/0/0x1", "tile/0/x1/000", "tile/0/X001/000", "tile/0/001/000", "tile/0/x001",
		"tile/0/000.p", "tile/0/000.p/", "tile/0/000.p/-1", "tile/0/000.p/+1", "tile/0/000.p/1/", "tile/0/000.p/1.p/1", "tile/0/000/1", "tile/0/000.P/1",
		"tile/names", "tile/names/", "tile/names/0", "tile/names/000.p/256", "tile/names/data/000", "tile/names/0/000", "tile/data/0/000", "tile/names/names/000",
		"tile/-2/000", "tile/data/000.gz", "tile/8/data/000", "../tile/0/000", "tile/0/../000", "tile/0/000?x", "tile/0/000\x00", "tile/0/٠٠٠",
		"checkpoint", "issuer/00", "staging/1",
		// Tiles that no tree of 2^40 entries has.
		"tile/0/x004/x294/x967/296", "tile/data/x004/x294/x967/296", "tile/names/x004/x294/x967/296", "tile/0/x004/x294/x967/296.p/1",
		"tile/1/x016/x777/216", "tile/2/x065/536", "tile/3/256", "tile/4/001", "tile/4/001.p/1", "tile/5/001.p/1", "tile/5/000", "tile/5/000.p/2",
		"tile/6/000.p/1", "tile/63/000", "tile/1152921504606846976/000", "tile/9223372036854775807/000",
		// An index that times 256 is 2^64, and indexes over 64 bits.
		"tile/0/x072/x057/x594/x037/x927/936", "tile/0/x009/x223/x372/x036/x854/x775/808", "tile/0/x018/x446/x744/x073/x709/x551/616", "tile/0/" + strings.Repeat("x999/", 20) + "999",
	} {
		if got, err := ParsePath(path); err == nil {
			t.Errorf("ParsePath(%q) = %+v, want an error", path, got)
		}
	}
	for _, path := range []string{
		"tile/0/x004/x294/x967/295", "tile/1/x016/x777/215", "tile/2/x065/535", "tile/3/255", "tile/4/000", "tile/4/000.p/255", "tile/5/000.p/1",
	} {
		if _, err := ParsePath(path); err != nil {
			t.Errorf("ParsePath(%s), of the largest tree: %v", path, err)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	v := readVectors(f).TilePaths
	for _, c := range v.Valid {
		f.Add(c.Path)
		f.Add(strings.Replace(c.Path, "tile/data/", "tile/names/", 1))
	}
	for _, path := range append(v.Bad, v.Also404...) {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		theirs, sunErr := sunlight.ParseTilePath(path)
		ours, err := ParsePath(path)
		if err == nil {
			if sunErr != nil || ours != theirs {
				t.Fatalf("%q is %+v, sunlight says %+v, %v", path, ours, theirs, sunErr)
			}
			if Path(ours) != path || !storage.ValidPath(path) {
				t.Fatalf("%q is %+v, whose path is %q", path, ours, Path(ours))
			}
			return
		}
		if sunErr != nil {
			return
		}
		// Sunlight knows no largest tree.
		if l := max(theirs.L, 0); l < levels && theirs.N < 1<<32 && (theirs.N*Width+int64(theirs.W))<<(Height*l) <= MaxTree {
			t.Fatalf("%q is refused (%v), sunlight says %+v", path, err, theirs)
		}
	})
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	for level, want := range map[int][2]string{
		LevelData:  {"application/octet-stream", "gzip"},
		LevelNames: {"application/jsonl; charset=utf-8", "gzip"},
		0:          {"application/octet-stream", ""},
		5:          {"application/octet-stream", ""},
	} {
		if ct, ce := Headers(tlog.Tile{H: Height, L: level, W: 1}); ct != want[0] || ce != want[1] {
			t.Errorf("level %d: %q, %q, want %q", level, ct, ce, want)
		}
	}
}

func TestIssuerVectors(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	issuers := 0
	for _, a := range v.Assets.Paths {
		if !strings.HasPrefix(a.Path, "issuer/") {
			continue
		}
		issuers++
		name := strings.TrimPrefix(strings.Fields(a.Contents)[0], "certs_b64.")
		der := v.Certs[name]
		o := IssuerObject(der)
		if o.Path != a.Path || string(o.Body) != string(der) || o.ContentType != "application/pkix-cert" ||
			o.ContentEncoding != "" || o.CacheControl != CacheImmutable || o.Path != IssuerPath(sha256.Sum256(der)) {
			t.Errorf("%s: object is %s %q %q, want %s", name, o.Path, o.ContentType, o.CacheControl, a.Path)
		}
	}
	if issuers != 3 {
		t.Errorf("vectors.json has %d issuers, want 3", issuers)
	}
}

func TestBundlePath(t *testing.T) {
	t.Parallel()
	a := BundlePath(tlog.Tree{N: 1 << 40, Hash: tlog.Hash{1}})
	if a == BundlePath(tlog.Tree{N: 1 << 40, Hash: tlog.Hash{2}}) || a == BundlePath(tlog.Tree{N: 1, Hash: tlog.Hash{1}}) {
		t.Error("bundles of different trees have one path")
	}
	if !storage.ValidPath(a) {
		t.Errorf("%q is no valid path", a)
	}
}
