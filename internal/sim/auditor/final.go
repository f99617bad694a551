package auditor

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
)

// Final judges everything once more, from the objects as they are and without
// what was concluded before: entries, roots of all trees that were signed, hash
// tiles, issuers, and every SCT. It returns the first fault if there was one.
func (a *Auditor) Final() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fault != nil {
		return a.fault
	}
	if err := a.final(); err != nil {
		return a.broke(fmt.Errorf("in the end: %w", err))
	}
	return nil
}

func (a *Auditor) final() error {
	size := a.shown // all of what is public, unless the world broke some of it
	fresh, err := a.readAgain(size)
	if err != nil {
		return err
	}
	for n, root := range a.signed {
		if n <= size && fresh.root(n) != root {
			return fmt.Errorf("the tree of %d entries was signed with root %x, its entries have %x", n, root, fresh.root(n))
		}
	}
	for t := range a.partial {
		if !a.stands(t.path()) && !a.stands(t.full().path()) {
			return fmt.Errorf("neither %s nor its full tile is readable", t.path())
		}
	}
	err = tilesOf(0, size, func(t tile) error {
		if !a.stands(t.path()) {
			return fmt.Errorf("%d entries are public, but %s is not readable", size, t.path())
		}
		return nil
	})
	if err != nil {
		return err
	}
	for path, o := range a.objects {
		if o.broken || o.gone {
			continue
		}
		if err := standsFor(path, o.body, size, &fresh); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	for index, p := range a.scts {
		if index >= size {
			if a.shown == a.public.size {
				return fmt.Errorf("the SCT of index %d is not in the tree of %d entries", index, size)
			}
			continue
		}
		if e := a.entries[index]; !p.found || e.id != p.id || e.timestamp != p.timestamp {
			return fmt.Errorf("the SCT of index %d is not in the tree", index)
		}
	}
	return nil
}

// standsFor compares an object with what its path says.
func standsFor(path string, body []byte, size int64, fresh *tree) error {
	if t, ok := parseTile(path); ok && t.level >= 0 && t.end() <= size {
		if !bytes.Equal(body, fresh.tile(t.level, t.n, t.width)) {
			return errors.New("does not hold the hashes of its entries")
		}
	}
	if strings.HasPrefix(path, "issuer/") && issuerPath(sha256.Sum256(body)) != path {
		return errors.New("does not hold the certificate of its name")
	}
	return nil
}

// readAgain makes the tree anew from the widest data tiles.
func (a *Auditor) readAgain(size int64) (fresh tree, err error) {
	seen := make(map[hash]bool, size)
	repeats := 0
	for n := int64(0); n*256 < size; n++ {
		t := tile{levelData, n, min(256, size-n*256)}
		o := a.objects[t.path()]
		if o == nil || o.body == nil {
			return fresh, fmt.Errorf("%s is not readable", t.path())
		}
		rest, err := a.gunzip.decode(o.body)
		if err != nil {
			return fresh, fmt.Errorf("%s: %w", t.path(), err)
		}
		for i := n * 256; i < n*256+t.width; i++ {
			var e logged
			if e, rest, err = parseEntry(rest); err != nil {
				return fresh, fmt.Errorf("entry %d: %w", i, err)
			}
			p := place{e.id(), e.timestamp, e.extra()}
			if e.index != i || !a.entries[i].same(p) {
				return fresh, fmt.Errorf("entry %d is not what it was", i)
			}
			for _, fp := range e.chain {
				if !a.stands(issuerPath(fp)) {
					return fresh, fmt.Errorf("entry %d: its issuer %x is not readable", i, fp)
				}
			}
			if seen[p.id] {
				repeats++
			}
			seen[p.id] = true
			fresh.append(leafHash([]byte{0, 0}, e.leaf))
		}
	}
	if repeats != a.repeats {
		return fresh, fmt.Errorf("%d entries are repeated, %d were counted", repeats, a.repeats)
	}
	return fresh, nil
}
