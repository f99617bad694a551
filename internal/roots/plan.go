package roots

import (
	"slices"
)

// Listing is what one source lists: a report, a file, or what is built in.
type Listing struct {
	Source string
	Roots  []Root
	Err    error // it could not be read, and says nothing about any root
	Report *Report
}

// Plan is what becomes of the accepted roots. Its slices are in order of
// fingerprints, and share nothing.
type Plan struct {
	// Set is what will be accepted: Add, Keep and Gone.
	Set *Set
	// Add is listed and not yet accepted.
	Add []Root
	// Keep is accepted and listed.
	Keep []Root
	// Gone is accepted and listed no more by any source. It stays.
	Gone []Root
	// Remove is accepted and refused by the operator: it will not be any more.
	Remove []Root
	// Refused is listed and refused, and was not accepted.
	Refused []Root
	// Listings are the sources as they were read, failed ones too.
	Listings []Listing

	basis []byte // content of the roots file that the plan is made for, nil if there is none
	next  []byte // content to be
}

// Changed reports whether the roots file is to be written. It may be so with
// the same roots, when their sources have changed.
func (p *Plan) Changed() bool {
	return string(p.basis) != string(p.next) || (p.basis == nil) != (p.next == nil)
}

// Merge adds to the current roots what the listings have. It removes nothing but
// what is refused; what only a listing with an error has listed is taken to be
// listed still.
func Merge(current *Set, listings []Listing, refused map[Fingerprint]bool) *Plan {
	p := &Plan{Listings: listings}
	var listed []Root
	failed := map[string]bool{}
	for _, l := range listings {
		if l.Err != nil {
			failed[l.Source] = true
			continue
		}
		for _, r := range l.Roots {
			listed = append(listed, r.from([]string{l.Source}, nil))
		}
	}
	all := NewSet(listed...)
	for _, r := range current.roots {
		now, _ := all.Get(r.Fingerprint)
		sources := slices.Clone(now.Sources)
		for _, s := range r.Sources {
			if s == SourceHand || failed[s] {
				sources = append(sources, s)
			}
		}
		sources = sortedUnion(sources)
		formerly := slices.DeleteFunc(sortedUnion(r.Sources, r.Formerly), func(s string) bool { return slices.Contains(sources, s) })
		r = r.from(sources, formerly)
		switch {
		case refused[r.Fingerprint]:
			p.Remove = append(p.Remove, r)
		case len(sources) == 0:
			p.Gone = append(p.Gone, r)
		default:
			p.Keep = append(p.Keep, r)
		}
	}
	for _, r := range all.roots {
		if _, ok := current.Get(r.Fingerprint); ok {
			continue
		}
		if refused[r.Fingerprint] {
			p.Refused = append(p.Refused, r)
		} else {
			p.Add = append(p.Add, r)
		}
	}
	p.Set = NewSet(slices.Concat(p.Add, p.Keep, p.Gone)...)
	return p
}
