package auditor

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Changed tells that the visible content of an object is body now, nil if it is
// gone. Objects that are none of the log's public ones, nor bundles, are ignored.
func (a *Auditor) Changed(path string, body []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.changed(path, body); err != nil {
		return a.broke(fmt.Errorf("%s: %w", path, err))
	}
	return nil
}

// Corrupted tells that the world broke an object, whatever readers see of it
// now. It is taken for what it was before and judged no more.
func (a *Auditor) Corrupted(path string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if path == checkpointPath {
		a.rewritten = true
		return
	}
	o := a.objects[path]
	if o == nil {
		o = &object{}
		a.objects[path] = o
	}
	o.broken = true
}

// Repaired tells that an object which the world broke is body again, nil if it
// is gone, and is to be judged from now on.
func (a *Auditor) Repaired(path string, body []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if path == checkpointPath {
		a.rewritten = false
	} else if o := a.objects[path]; o != nil && o.broken {
		o.broken = false
	}
	err := a.changed(path, body)
	if err == nil {
		err = a.settle()
	}
	if err != nil {
		return a.broke(fmt.Errorf("%s, repaired: %w", path, err))
	}
	return nil
}

const checkpointPath = "checkpoint"

func (a *Auditor) changed(path string, body []byte) error {
	kind, _, _ := strings.Cut(path, "/")
	if kind == checkpointPath {
		return a.publish(body)
	}
	var t tile
	switch kind {
	case "tile":
		var ok bool
		if t, ok = parseTile(path); !ok {
			return errors.New("no tile has this path")
		}
	case "issuer", "staging":
	default:
		return nil
	}
	o := a.objects[path]
	if o != nil && o.broken {
		return nil
	}
	if body == nil {
		return a.vanish(path, kind, t, o)
	}
	if o != nil && o.body != nil && (kind != "staging" || !o.gone) {
		if !bytes.Equal(o.body, body) {
			return fmt.Errorf("changed: it had %d bytes, and has %d others now", len(o.body), len(body))
		}
		o.gone = false
		return nil
	}
	a.objects[path] = &object{body: bytes.Clone(body)}
	switch kind {
	case "issuer":
		if issuerPath(sha256.Sum256(body)) != path {
			return errors.New("does not hold the certificate of its name")
		}
	case "tile":
		if a.lockedRaw != nil && t.end() > a.locked.size {
			return fmt.Errorf("is of a tree of %d entries or more, but the lock knows %d: published before the commit", t.end(), a.locked.size)
		}
		if t.end() <= a.tree.size() {
			return a.judge(t)
		}
	}
	return nil
}

// vanish judges that an object is gone.
func (a *Auditor) vanish(path, kind string, t tile, o *object) error {
	if o == nil || o.gone {
		return nil
	}
	o.gone = true
	switch {
	case kind == "tile" && o.body == nil && t.end() > a.tree.size(): // it never was there
	case kind == "issuer":
		return errors.New("is gone: issuers stay for good")
	case kind == "staging" && path == bundlePath(a.locked) && a.public.size < a.locked.size:
		return fmt.Errorf("is gone, but its round is committed and %d entries are all that is public: a crash now would lose them", a.public.size)
	case kind == "tile" && t.width == 256:
		return errors.New("is gone: full tiles stay for good")
	case kind == "tile" && a.partial[t] && !a.stands(t.full().path()):
		return errors.New("is gone, but its size was published and there is no full tile")
	}
	return nil
}

// publish judges a checkpoint that has become visible.
func (a *Auditor) publish(body []byte) error {
	if a.publicRaw != nil && bytes.Equal(body, a.publicRaw) {
		a.rewritten = false
		return nil
	}
	if body == nil {
		if a.publicRaw == nil || a.rewritten {
			return nil
		}
		return errors.New("is gone")
	}
	h, err := a.open(body)
	if err != nil && a.rewritten {
		return nil
	}
	if err != nil {
		return fmt.Errorf("is no checkpoint of the log: %w", err)
	}
	if a.publicRaw != nil {
		switch old := a.public; {
		case h.size < old.size:
			return fmt.Errorf("went back from %d to %d entries", old.size, h.size)
		case h.timestamp < old.timestamp:
			return fmt.Errorf("went back from %d to %d ms", old.timestamp, h.timestamp)
		case h.timestamp == old.timestamp && h != old:
			return fmt.Errorf("is another of the same time, %d ms", h.timestamp)
		}
	}
	if a.lockedRaw != nil && !a.locks[h] {
		return fmt.Errorf("of %d entries at %d ms was never committed", h.size, h.timestamp)
	}
	if err := a.sign(h); err != nil {
		return err
	}
	a.public, a.publicRaw, a.rewritten = h, bytes.Clone(body), false
	a.heads++
	for level := range 6 {
		hashes := h.size >> (8 * level)
		t := tile{level, hashes / 256, hashes % 256}
		if t.width == 0 {
			continue
		}
		if a.partial[t] = true; level == 0 {
			t.level = levelData
			a.partial[t] = true
		}
	}
	return a.settle()
}

// settle judges what the published checkpoint makes of tiles and promises. What
// the world broke before it was seen whole waits for its repair.
func (a *Auditor) settle() error {
	if a.shown >= a.public.size {
		return nil
	}
	whole, err := a.extend(a.public.size)
	if err != nil || !whole {
		return err
	}
	a.unknown = slices.DeleteFunc(a.unknown, func(size int64) bool {
		if size > a.tree.size() {
			return false
		}
		if rootErr := a.checkRoot(size); err == nil {
			err = rootErr
		}
		return true
	})
	if err != nil {
		return err
	}
	if err := tilesOf(a.shown, a.public.size, a.judge); err != nil {
		return err
	}
	a.shown = a.public.size
	for _, index := range a.early {
		if err := a.keep(index, a.scts[index]); err != nil {
			return err
		}
	}
	a.early = nil
	return nil
}

// extend reads entries up to a published size. It reports false if an object is
// needed that the world broke before it was seen.
func (a *Auditor) extend(size int64) (whole bool, err error) {
	for a.tree.size() < size {
		known := a.tree.size()
		n := known / 256
		t := tile{levelData, n, min(256, size-n*256)}
		path := t.path()
		if !a.stands(path) {
			return false, fmt.Errorf("is visible with %d entries, but %s is not", size, path)
		}
		body := a.objects[path].body
		if body == nil {
			return false, nil
		}
		data, err := a.gunzip.decode(body)
		if err != nil {
			return false, fmt.Errorf("%s: %w", path, err)
		}
		rest, ok := bytes.CutPrefix(data, a.tail)
		if !ok {
			return false, fmt.Errorf("%s does not begin with the entries that it had before", path)
		}
		for i := known % 256; i < t.width; i++ {
			var e logged
			if e, rest, err = parseEntry(rest); err == nil {
				err = a.add(&e)
			}
			if err != nil {
				return false, fmt.Errorf("%s: entry %d: %w", path, n*256+i, err)
			}
		}
		if len(rest) > 0 {
			return false, fmt.Errorf("%s has %d bytes after its last entry", path, len(rest))
		}
		a.tail = a.tail[:0]
		if t.width < 256 {
			a.tail = append(a.tail, data...)
		}
	}
	return true, nil
}

// add judges an entry and puts it into the tree.
func (a *Auditor) add(e *logged) error {
	index := a.tree.size()
	if e.index != index {
		return fmt.Errorf("says that its index is %d", e.index)
	}
	if e.timestamp > a.public.timestamp {
		return fmt.Errorf("its timestamp %d is later than the checkpoint's %d", e.timestamp, a.public.timestamp)
	}
	if index > 0 && e.timestamp < a.entries[index-1].timestamp {
		return fmt.Errorf("its timestamp %d is earlier than that of the entry before, %d", e.timestamp, a.entries[index-1].timestamp)
	}
	if err := a.checkChain(e); err != nil {
		return err
	}
	p := place{id: e.id(), timestamp: e.timestamp, extra: e.extra()}
	if len(a.offers) > 0 && !slices.ContainsFunc(a.offers[p.id], func(sent extra) bool { return sent.within(p.extra) }) {
		return errors.New("nobody has submitted it like this")
	}
	if _, ok := a.first[p.id]; ok {
		a.repeats++
	} else {
		a.first[p.id] = index
	}
	a.entries = append(a.entries, p)
	a.tree.append(leafHash([]byte{0, 0}, e.leaf))
	return nil
}

// checkChain demands that the issuers of an entry are readable, and that what is
// logged of a precertificate follows from it.
func (a *Auditor) checkChain(e *logged) error {
	unseen := false
	for _, fp := range e.chain {
		path := issuerPath(fp)
		if !a.stands(path) {
			return fmt.Errorf("its issuer %x is not readable", fp)
		}
		body := a.objects[path].body
		if unseen = unseen || body == nil; unseen || !e.precert {
			continue
		}
		if _, ok := a.certs[fp]; ok {
			continue
		}
		c, err := parseCert(bytes.Clone(body))
		if err != nil {
			return fmt.Errorf("its issuer %x: %w", fp, err)
		}
		a.certs[fp] = c
	}
	if !e.precert || unseen {
		return nil
	}
	var issuers []cert
	for _, fp := range e.chain[:min(2, len(e.chain))] {
		issuers = append(issuers, a.certs[fp])
	}
	signed, err := signedEntry(e.submitted, issuers, true)
	if err != nil {
		return err
	}
	if !bytes.Equal(signed, e.signed) {
		return errors.New("does not follow from its precertificate and issuers")
	}
	return nil
}

// judge compares a tile that must be there with the tree.
func (a *Auditor) judge(t tile) error {
	path := t.path()
	if !a.stands(path) {
		return fmt.Errorf("%d entries are public, but %s is not readable", a.public.size, path)
	}
	body := a.objects[path].body
	switch {
	case body == nil: // broken before it was seen
		return nil
	case t.level >= 0:
		if !bytes.Equal(body, a.tree.tile(t.level, t.n, t.width)) {
			return fmt.Errorf("%s does not hold the hashes of its entries", path)
		}
		return nil
	case t.level == levelNames || t.end() > a.shown: // extend has just read it
		return nil
	}
	rest, err := a.gunzip.decode(body)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for i := t.n * 256; i < t.end(); i++ {
		var e logged
		if e, rest, err = parseEntry(rest); err != nil {
			return fmt.Errorf("%s: entry %d: %w", path, i, err)
		}
		if p := a.entries[i]; e.index != i || !p.same(place{e.id(), e.timestamp, e.extra()}) {
			return fmt.Errorf("%s: entry %d is not the one of the tree", path, i)
		}
	}
	if len(rest) > 0 {
		return fmt.Errorf("%s has %d bytes after its last entry", path, len(rest))
	}
	return nil
}
