package auditor

import (
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"

	"kiln/entry"
	"kiln/internal/logkey"
	"kiln/tiles"
)

// lie is one thing that a log must never do, after honest rounds of 5 and 7
// entries, and how it is named.
type lie struct {
	name string
	tell func(d *demo) error
	want string
}

// inRound makes a lie of a round whose objects are changed before it is public.
func inRound(change func(d *demo, s *step)) func(*demo) error {
	return func(d *demo) error {
		s := d.plan(d.someChains(6))
		change(d, &s)
		d.commit(s)
		for _, o := range s.objects {
			if err := d.show(o.Path, o.Body); err != nil {
				return err
			}
		}
		return d.show("checkpoint", s.raw)
	}
}

// spoil changes one object of a round.
func spoil(prefix string, f func([]byte) []byte) func(*demo) error {
	return inRound(func(d *demo, s *step) {
		for i, o := range s.objects {
			if strings.HasPrefix(o.Path, prefix) {
				s.objects[i].Body = f(o.Body)
				return
			}
		}
		d.t.Fatalf("the round has no %s", prefix)
	})
}

// leaves changes the decoded data tile of a round.
func leaves(f func([]byte) []byte) func(*demo) error {
	return spoil("tile/data/", func(b []byte) []byte {
		r, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			panic(err)
		}
		plain, err := io.ReadAll(r)
		if err != nil {
			panic(err)
		}
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		w.Write(f(plain))
		w.Close()
		return out.Bytes()
	})
}

// without leaves out an object of a round.
func without(prefix string) func(*demo) error {
	return inRound(func(_ *demo, s *step) {
		for i, o := range s.objects {
			if strings.HasPrefix(o.Path, prefix) {
				s.objects = append(s.objects[:i:i], s.objects[i+1:]...)
				return
			}
		}
	})
}

// rival is a round with other entries from an edge before the newest.
func rival(d *demo, from *tiles.Edge, n int) step {
	kept := d.edge
	d.edge = from
	s := d.plan(d.someChains(n))
	d.edge = kept
	return s
}

var objectLies = []lie{
	{"a full tile changes", func(d *demo) error { d.grow(250); return d.show("tile/0/000", flipped(d.bodies["tile/0/000"])) }, "tile/0/000: changed"},
	{"a full tile goes", func(d *demo) error { d.grow(250); return d.show("tile/data/000", nil) }, "tile/data/000: is gone: full tiles stay"},
	{"a partial tile changes", func(d *demo) error { return d.show("tile/0/000.p/5", flipped(d.bodies["tile/0/000.p/5"])) }, "tile/0/000.p/5: changed"},
	{"a partial tile of a published size goes", func(d *demo) error { return d.show("tile/data/000.p/5", nil) }, "its size was published and there is no full tile"},
	{"an issuer changes", func(d *demo) error { p := d.paths("issuer/")[0]; return d.show(p, flipped(d.bodies[p])) }, "changed"},
	{"an issuer goes", func(d *demo) error { return d.show(d.paths("issuer/")[0], nil) }, "issuers stay for good"},
	{"an issuer under a wrong name", func(d *demo) error { return d.show("issuer/"+strings.Repeat("ab", 32), []byte("x")) }, "does not hold the certificate of its name"},
	{"a tile under a wrong path", func(d *demo) error { return d.show("tile/0/0.p/5", []byte("x")) }, "no tile has this path"},
	{"a bundle is overwritten", func(d *demo) error { return d.show(d.paths("staging/")[0], []byte("another")) }, "changed"},
	{"the bundle of an unpublished round goes", func(d *demo) error {
		s := d.plan(d.someChains(3))
		d.commit(s)
		return d.show(s.bundle, nil)
	}, "a crash now would lose them"},
	{"a commit before its bundle", func(d *demo) error { return d.a.Committed(d.plan(d.someChains(3)).raw) }, "but there is no bundle staging/15-"},
	{"tiles before the commit", func(d *demo) error { o := d.plan(d.someChains(3)).objects[0]; return d.show(o.Path, o.Body) }, "published before the commit"},
	{"the bundle swept before the commit", func(d *demo) error {
		s := d.plan(d.someChains(3))
		d.honest(d.show(s.bundle, []byte("b")), d.show(s.bundle, nil))
		return d.a.Committed(s.raw)
	}, "there is no bundle"},
}

var checkpointLies = []lie{
	{"the checkpoint goes", func(d *demo) error { return d.show("checkpoint", nil) }, "checkpoint: is gone"},
	{"the checkpoint goes back in size", func(d *demo) error {
		old := d.bodies["checkpoint"]
		d.grow(1)
		return d.show("checkpoint", old)
	}, "went back from 13 to 12 entries"},
	{"the checkpoint goes back in time", func(d *demo) error {
		old, fresh := d.sign(d.edge, d.now+1), d.sign(d.edge, d.now+2)
		d.honest(d.a.Committed(old), d.a.Committed(fresh), d.show("checkpoint", fresh))
		return d.show("checkpoint", old)
	}, "went back from"},
	{"a checkpoint that was not committed", func(d *demo) error { return d.show("checkpoint", d.sign(d.edge, d.now+7)) }, "was never committed"},
	{"a fork at the same size", func(d *demo) error {
		s := rival(d, tiles.NewEdge(false), 12)
		return d.show("checkpoint", s.raw)
	}, "was never committed"},
	{"a fork of the lock at the same size", func(d *demo) error {
		s := rival(d, tiles.NewEdge(false), 12)
		d.honest(d.show(s.bundle, []byte("b")))
		return d.a.Committed(s.raw)
	}, "the lock forked: two trees of 12 entries"},
	{"a fork that is larger", func(d *demo) error {
		s := rival(d, tiles.NewEdge(false), 20)
		d.commit(s)
		for _, o := range s.objects {
			if err := d.show(o.Path, o.Body); err != nil {
				return err
			}
		}
		return d.show("checkpoint", s.raw)
	}, "does not begin with the entries that it had before"},
	{"a committed tree that is no prefix of what came after", func(d *demo) error {
		lost := rival(d, d.edge, 2)
		d.commit(lost)
		s := d.plan(d.someChains(4))
		d.commit(s)
		d.tiles(s)
		return d.show("checkpoint", s.raw)
	}, "the tree of 14 entries is signed with root"},
	{"the lock goes back in size", func(d *demo) error { return d.a.Committed(d.sign(tiles.NewEdge(false), d.now+9)) }, "the lock went back from 12 to 0"},
	{"the lock takes a timestamp twice", func(d *demo) error {
		s := d.plan(d.someChains(1))
		d.now -= 1000
		return d.a.Committed(d.sign(s.edge, d.now))
	}, "a timestamp must be newer than all before"},
	{"a checkpoint of another origin", func(d *demo) error { return d.show("checkpoint", resigned(d.bodies["checkpoint"], 0, "other")) }, "its origin is \"other\""},
	{"a checkpoint with another size under the signature", func(d *demo) error { return d.show("checkpoint", resigned(d.bodies["checkpoint"], 1, "13")) }, "its signature does not verify"},
	{"a checkpoint with another root under the signature", func(d *demo) error {
		return d.show("checkpoint", resigned(d.bodies["checkpoint"], 2, root64(7)))
	}, "its signature does not verify"},
	{"a checkpoint with an extension line", func(d *demo) error { return d.show("checkpoint", resigned(d.bodies["checkpoint"], 3, "ext\n")) }, "no signed note of three lines"},
	{"a checkpoint before its data tile", without("tile/data/"), "but tile/data/000.p/18 is not"},
	{"a checkpoint before its hash tile", without("tile/0/"), "tile/0/000.p/18 is not readable"},
}

var roundLies = []lie{
	{"a flipped bit in a hash tile", spoil("tile/0/", flipped), "does not hold the hashes of its entries"},
	{"a torn data tile", spoil("tile/data/", func(b []byte) []byte { return b[:len(b)-9] }), "torn gzip"},
	{"bytes after the gzip member", spoil("tile/data/", func(b []byte) []byte { return append(bytes.Clone(b), 0) }), "bytes after the gzip member"},
	{"a data tile one entry too short", leaves(func(b []byte) []byte { return b[:len(b)-40] }), "cut off"},
	{"a data tile with more behind", leaves(func(b []byte) []byte { return append(b, "more"...) }), "after its last entry"},
	{"an older entry changes in the tile that grew", leaves(func(b []byte) []byte { b[100] ^= 1; return b }), "does not begin with the entries"},
	{"a new entry is another than its leaf hash", leaves(func(b []byte) []byte {
		// Version 3 and a serial number: inside the last certificate or its TBS.
		i := bytes.LastIndex(b, []byte("\xa0\x03\x02\x01\x02\x02"))
		b[i+10] ^= 1
		return b
	}), "entry 17"},
	{"a chain fingerprint changes", leaves(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }), "is not readable"},
	{"an entry of a later time than its checkpoint", inRound(func(d *demo, s *step) { s.raw = d.sign(s.edge, d.now-1) }), "is later than the checkpoint's"},
	{"an entry with an index of its own", leaves(func(b []byte) []byte {
		i := bytes.LastIndex(b, []byte{0, 8, 0, 0, 5, 0, 0, 0, 0, 17})
		b[i+9] = 18
		return b
	}), "says that its index is 18"},
	{"an issuer that is not readable", func(d *demo) error {
		chain := d.chain(2)
		entries, _ := d.admit(append(d.someChains(1), chain))
		p := must(entry.NewX509(entries[0].Certificate(), [][32]byte{{1, 2, 3}}, false))(d.t)
		s := d.planEntries([]*entry.Pending{p}, nil, nil)
		d.commit(s)
		d.tiles(s)
		return d.show("checkpoint", s.raw)
	}, "its issuer 010203"},
	{"a TBS that is not of its precertificate", func(d *demo) error {
		one, issuers := d.admit(d.someChains(2))
		other, _ := d.admit(d.someChains(2))
		p := must(entry.NewPrecert(one[1].Certificate(), one[1].IssuerKeyHash(), other[1].PreCertificate(), one[1].Chain(), false))(d.t)
		s := d.planEntries([]*entry.Pending{p}, issuers, nil)
		d.commit(s)
		d.tiles(s)
		return d.show("checkpoint", s.raw)
	}, "does not follow from its precertificate"},
	{"an entry that nobody has sent", func(d *demo) error {
		d.honest(d.a.Submitted(d.submission(0)))
		s := d.plan(d.someChains(1))
		d.commit(s)
		d.tiles(s)
		return d.show("checkpoint", s.raw)
	}, "nobody has submitted it like this"},
}

// sct makes a lie of an answer to the entry at index 3.
func sct(change func(map[string]any)) func(*demo) error {
	return func(d *demo) error {
		return d.a.Returned(d.submission(3), d.answerWith(d.entries[3], d.scts[3], change))
	}
}

var sctLies = []lie{
	{"an SCT before its checkpoint", func(d *demo) error {
		s := d.plan(d.someChains(2))
		d.commit(s)
		d.tiles(s)
		d.finish(s)
		return d.a.Returned(d.submission(12), d.answer(d.entries[12], d.scts[12]))
	}, "is out before a checkpoint covers it"},
	{"an SCT whose entry is nowhere", func(d *demo) error {
		d.chains = append(d.chains, d.chain(0))
		entries, _ := d.admit(d.chains[12:])
		return d.a.Returned(d.submission(12), d.answer(entries[0], entry.Placement{Index: 11, TimestampMillis: d.now}))
	}, "index 11 was promised to another entry before"},
	{"an SCT for the place of another entry", func(d *demo) error {
		s := d.plan(d.someChains(2))
		d.commit(s)
		d.tiles(s)
		d.honest(d.show("checkpoint", s.raw))
		d.finish(s)
		return d.a.Returned(d.submission(12), d.answer(d.entries[12], d.scts[13]))
	}, "index 13 holds another entry"},
	{"an SCT with a timestamp of its own", func(d *demo) error {
		pl := d.scts[3]
		pl.TimestampMillis++
		return d.a.Returned(d.submission(3), d.answer(d.entries[3], pl))
	}, "was promised with timestamp"},
	{"a first SCT with a timestamp of its own", func(d *demo) error {
		s := d.plan(d.someChains(1))
		d.commit(s)
		d.tiles(s)
		d.honest(d.show("checkpoint", s.raw))
		d.finish(s)
		pl := d.scts[12]
		pl.TimestampMillis--
		return d.a.Returned(d.submission(12), d.answer(d.entries[12], pl))
	}, "the SCT says"},
	{"an SCT of another version", sct(func(m map[string]any) { m["sct_version"] = 1 }), "version is not 0"},
	{"an SCT of another log", sct(func(m map[string]any) { m["id"] = make([]byte, 32) }), "the ID of another log"},
	{"an SCT without a timestamp", sct(func(m map[string]any) { delete(m, "timestamp") }), "has no timestamp"},
	{"an SCT without an index", sct(func(m map[string]any) { m["extensions"] = []byte{} }), "want one leaf_index"},
	{"an SCT with a flipped bit in its signature", sct(func(m map[string]any) { m["signature"] = flipped(m["signature"].([]byte)) }), "does not verify"},
	{"an SCT with the signature of another algorithm", sct(func(m map[string]any) { m["signature"].([]byte)[1] = 1 }), "is no signature by ECDSA"},
	{"an SCT of another key", func(d *demo) error {
		real := d.key
		d.key = must(logkey.Generate())(d.t)
		answer := d.answerWith(d.entries[3], d.scts[3], func(m map[string]any) { id := real.LogID(); m["id"] = id[:] })
		return d.a.Returned(d.submission(3), answer)
	}, "does not verify"},
	{"no JSON", func(d *demo) error { return d.a.Returned(d.submission(3), []byte("{")) }, "no JSON"},
	{"an SCT of an entry with another chain", func(d *demo) error {
		chains := d.someChains(1)
		entries, issuers := d.admit(chains)
		p := must(entry.NewX509(entries[0].Certificate(), entries[0].Chain()[1:], false))(d.t)
		s := d.planEntries([]*entry.Pending{p}, issuers, chains)
		d.commit(s)
		d.tiles(s)
		d.honest(d.show("checkpoint", s.raw))
		d.finish(s)
		return d.a.Returned(d.submission(12), d.answer(p, d.scts[12]))
	}, "with another chain or precertificate"},
}

func TestLies(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, table := range [][]lie{objectLies, checkpointLies, roundLies, sctLies} {
		for _, l := range table {
			if names[l.name] {
				t.Errorf("two lies are called %q", l.name)
			}
			names[l.name] = true
			t.Run(l.name, func(t *testing.T) {
				t.Parallel()
				d := newDemo(t)
				d.grow(5)
				d.grow(7)
				d.honest(d.a.Check(), d.a.Final())
				err := l.tell(d)
				if err == nil || !strings.Contains(err.Error(), l.want) {
					t.Fatalf("the auditor said %v, want %q", err, l.want)
				}
				if got := d.a.Check(); got == nil || got != d.a.Final() {
					t.Errorf("the fault was forgotten: %v", got)
				}
			})
		}
	}
	if len(names) < 25 {
		t.Errorf("there are %d lies", len(names))
	}
}
