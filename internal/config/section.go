package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// problem is why a value was not taken.
type problem struct{ what, want string }

// reader turns the nodes of one file into values, and gathers what is wrong.
type reader struct {
	faults faultList
	lines  map[string]int  // line of each key that was read, by its path
	places []place         // of the logs, as many
	told   map[string]bool // faults of series that were reported
}

// section is one mapping of the file. Each key is read once, by take; done
// then reports the keys that nothing read.
type section struct {
	r      *reader
	path   string // "" for the whole file, else such as "logs[0]."
	line   int
	order  []*yaml.Node // the keys, as they stand
	values map[string]*yaml.Node
	known  []string
}

// section opens a mapping. It returns nil, and has reported why, when the node
// is something else.
func (r *reader) section(n *yaml.Node, path string) *section {
	if n.Kind != yaml.MappingNode || n.Tag != "!!map" {
		r.faults.add(n.Line, path, "is "+describe(n), "want keys with values")
		return nil
	}
	s := &section{r: r, path: path, line: n.Line, values: make(map[string]*yaml.Node)}
	if path != "" {
		s.path += "."
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" {
			r.faults.add(k.Line, path, "has a key that is "+describe(k), "want plain words as keys")
			continue
		}
		if _, dup := s.values[k.Value]; dup {
			r.faults.add(k.Line, s.path+shorten(k.Value), fmt.Sprintf("stands twice, first on line %d", r.lines[s.path+k.Value]), "want it once")
			continue
		}
		s.values[k.Value] = v
		s.order = append(s.order, k)
		r.lines[s.path+k.Value] = k.Line
	}
	return s
}

// take returns the value of a key, or nil when it is not there.
func (s *section) take(key string) *yaml.Node {
	s.known = append(s.known, key)
	return s.values[key]
}

// fault reports something about a key of the section.
func (s *section) fault(key string, p *problem) {
	line, ok := s.r.lines[s.path+key]
	if !ok {
		line = s.line
	}
	s.r.faults.add(line, s.path+key, p.what, p.want)
}

// missing reports a key that has to be there.
func (s *section) missing(key, want string) {
	s.fault(key, &problem{"is missing", want})
}

// done reports the keys that were not taken.
func (s *section) done() {
	for _, k := range s.order {
		if slices.Contains(s.known, k.Value) {
			continue
		}
		want := "the keys here are: " + strings.Join(s.known, ", ")
		if near := Nearest(k.Value, s.known); near != "" {
			want = "did you mean " + near + "?"
		}
		s.r.faults.add(k.Line, s.path+shorten(k.Value), "unknown key", want)
	}
}

// read parses the value of a key into dst, and leaves dst alone when the key is
// absent or wrong. It reports whether dst was set.
func read[T any](s *section, key string, dst *T, parse func(string) (T, *problem), tags ...string) bool {
	n := s.take(key)
	if n == nil {
		return false
	}
	v, p := parseNode(n, parse, tags)
	if p != nil {
		s.fault(key, p)
		return false
	}
	*dst = v
	return true
}

// need is read for a key that has to be there; want is what to say if it is not.
func need[T any](s *section, key, want string, dst *T, parse func(string) (T, *problem), tags ...string) bool {
	if _, ok := s.values[key]; !ok {
		s.take(key)
		s.missing(key, want)
		return false
	}
	return read(s, key, dst, parse, tags...)
}

// parseNode parses a scalar whose YAML type is one of tags.
func parseNode[T any](n *yaml.Node, parse func(string) (T, *problem), tags []string) (T, *problem) {
	var zero T
	v, p := parse(n.Value)
	if n.Kind == yaml.ScalarNode && slices.Contains(tags, n.Tag) {
		return v, p
	}
	want := "want " + kindOf(tags[0])
	if p != nil {
		want = p.want
	} else if n.Kind == yaml.ScalarNode && tags[0] == "!!str" && n.Tag != "!!null" && strings.HasPrefix(n.Tag, "!!") {
		want = "want text: put it in quotes"
	}
	return zero, &problem{"is " + describe(n), want}
}

// strings reads a list of texts.
func (s *section) strings(key string, parse func(string) (string, *problem)) (list []string) {
	n := s.take(key)
	if n == nil {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		s.fault(key, &problem{"is " + describe(n), "want a list, such as [a, b]"})
		return nil
	}
	for i, item := range n.Content {
		v, p := parseNode(item, parse, []string{"!!str"})
		if p != nil {
			s.r.faults.add(item.Line, fmt.Sprintf("%s%s[%d]", s.path, key, i), p.what, p.want)
			continue
		}
		list = append(list, v)
	}
	return list
}

// describe says in words what a node is.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias, which this file may not use"
	}
	switch n.Tag {
	case "!!null":
		return "empty"
	case "!!str":
		return strconv.Quote(shorten(n.Value))
	case "!!int", "!!float":
		return "the number " + shorten(n.Value)
	case "!!bool", "!!timestamp":
		return shorten(n.Value)
	case "!!merge":
		return "a merge, which this file may not use"
	}
	return "tagged " + strconv.Quote(shorten(n.Tag))
}

func kindOf(tag string) string {
	switch tag {
	case "!!int":
		return "a whole number"
	case "!!bool":
		return "true or false"
	}
	return "text"
}

// shorten cuts a value of the file to a length that suits a message, and takes
// out what would break its line.
func shorten(s string) string {
	const most = 80
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "..."
	}
	return s
}

// Nearest returns the known word that was probably meant by another, or "" if
// none is near.
func Nearest(word string, known []string) string {
	if len(word) > 64 {
		return ""
	}
	word = strings.ReplaceAll(strings.ToLower(word), "-", "_")
	best, least := "", 1+max(1, len(word)/3)
	for _, k := range known {
		if d := distance(word, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is the edit distance of two words: insertions, deletions,
// replacements.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
