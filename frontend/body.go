package frontend

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// wantBody ends every sentence about a body that has another form.
const wantBody = `want a JSON object with the member "chain", an array of base64 DER certificates, end entity first`

// requestError is a fault of the request itself, found before its certificates
// are looked at.
type requestError struct {
	code   int    // HTTP status
	reason string // metric label, one of a closed set
	detail string // one sentence for the client: what is wrong, what is wanted
}

func (e *requestError) Error() string { return e.detail }

// Reasons of a requestError, beside those of package chain.
const (
	reasonTooLarge = "body_too_large"
	reasonSlow     = "body_too_slow"
	reasonBroken   = "body_truncated"
	reasonJSON     = "malformed_json"
	reasonBase64   = "malformed_base64"
	reasonChain    = "malformed_chain"
)

func badJSON(format string, args ...any) error {
	return &requestError{http.StatusBadRequest, reasonJSON, fmt.Sprintf(format, args...) + "; " + wantBody}
}

func badChain(format string, args ...any) error {
	return &requestError{http.StatusBadRequest, reasonChain, fmt.Sprintf(format, args...) + "; " + wantBody}
}

// parseBody returns the DER certificates in an add-chain or add-pre-chain body,
// as many as maxChain (SUB-04, SUB-05). The result shares no memory with body.
//
// A body is scanned once and each certificate decoded straight into its place:
// encoding/json takes three times as long, most of it to copy strings, and has
// no bound on the number of members before they are allocated. A fuzz target
// holds the two against each other.
func parseBody(body []byte, maxChain int) ([][]byte, error) {
	s := scanner{b: body}
	if s.space(); s.i == len(s.b) {
		return nil, badJSON("body is empty")
	}
	if !s.take('{') {
		return nil, badJSON("body does not begin with an object")
	}
	var chain [][]byte
	seen := false
	for first := true; ; first = false {
		if more, err := s.next(first, '}'); err != nil {
			return nil, err
		} else if !more {
			break
		}
		name, err := s.member()
		switch {
		case err != nil:
			return nil, err
		case name != "chain":
			err = s.skip()
		case seen:
			err = badChain(`member "chain" is there twice`)
		default:
			seen = true
			chain, err = s.chain(maxChain)
		}
		if err != nil {
			return nil, err
		}
	}
	s.space()
	switch {
	case s.i < len(s.b):
		return nil, badJSON("bytes after the JSON object, at byte %d", s.i)
	case !seen:
		return nil, badChain(`member "chain" is missing`)
	case len(chain) == 0:
		return nil, badChain(`"chain" is empty`)
	}
	return chain, nil
}

// scanner is a position in a JSON text.
type scanner struct {
	b     []byte
	i     int
	valid bool // the whole text was found to be valid JSON
}

// space moves over white space.
func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\r', '\n':
			s.i++
		default:
			return
		}
	}
}

// take moves over c, if it is next.
func (s *scanner) take(c byte) bool {
	if s.i < len(s.b) && s.b[s.i] == c {
		s.i++
		return true
	}
	return false
}

// next moves to the next element of an array or object, or over its end.
func (s *scanner) next(first bool, end byte) (bool, error) {
	s.space()
	if s.take(end) {
		return false, nil
	}
	if !first {
		if !s.take(',') {
			return false, s.syntax()
		}
		s.space() // if the end is next, the element will be the syntax error
	}
	return true, nil
}

func (s *scanner) syntax() error {
	if s.i >= len(s.b) {
		return badJSON("malformed JSON: the body ends at byte %d inside a value", len(s.b))
	}
	return badJSON("malformed JSON at byte %d", s.i)
}

// member moves over a member's name and colon.
func (s *scanner) member() (string, error) {
	start := s.i
	name, err := s.text()
	if err != nil {
		return "", err
	}
	for _, c := range s.b[start:s.i] {
		if c < ' ' {
			s.i = start
			return "", s.syntax()
		}
	}
	if s.space(); !s.take(':') {
		return "", s.syntax()
	}
	s.space()
	return string(name), nil
}

// chain moves over the array of certificates and decodes it.
func (s *scanner) chain(maxChain int) ([][]byte, error) {
	if !s.take('[') {
		return nil, badChain(`"chain" is not an array`)
	}
	var chain [][]byte
	for first := true; ; first = false {
		more, err := s.next(first, ']')
		if err != nil || !more {
			return chain, err
		}
		if len(chain) == maxChain {
			return nil, badChain(`"chain" has more than %d certificates, the most this log takes`, maxChain)
		}
		if s.i < len(s.b) && s.b[s.i] != '"' {
			return nil, badChain("chain[%d] is not a string", len(chain))
		}
		text, err := s.text()
		if err != nil {
			return nil, err
		}
		der, err := decodeCertificate(text)
		if err != nil {
			return nil, &requestError{http.StatusBadRequest, reasonBase64, fmt.Sprintf(
				"chain[%d]: %v; want standard padded base64 of a DER certificate", len(chain), err)}
		}
		chain = append(chain, der)
	}
}

// decodeCertificate decodes the base64 of RFC 4648 section 4, with padding and
// without anything between.
func decodeCertificate(text []byte) ([]byte, error) {
	if len(text) == 0 {
		return nil, errors.New("empty string")
	}
	// encoding/base64 skips line breaks, and only these among what does not belong.
	if bytes.IndexByte(text, '\n') < 0 && bytes.IndexByte(text, '\r') < 0 {
		der := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
		if n, err := base64.StdEncoding.Strict().Decode(der, text); err == nil {
			return der[:n], nil
		}
	}
	// Its errors point to the start of a group of four; this is where to look.
	for i, c := range bytes.TrimRight(text, "=") {
		if !('A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '+' || c == '/') {
			return nil, fmt.Errorf("illegal base64 at byte %d", i)
		}
	}
	return nil, errors.New("base64 does not end as it should: wrong padding, or bits left over")
}

// text moves over a string and returns what it says, without a copy if it holds
// no escapes. Then it may hold control characters, which JSON forbids: the
// caller refuses them.
func (s *scanner) text() ([]byte, error) {
	start := s.i
	if !s.take('"') {
		return nil, s.syntax()
	}
	n := bytes.IndexByte(s.b[s.i:], '"')
	if n < 0 {
		s.i = len(s.b)
		return nil, s.syntax()
	}
	text := s.b[s.i : s.i+n]
	if bytes.IndexByte(text, '\\') < 0 {
		s.i += n + 1
		return text, nil
	}
	if err := s.endString(); err != nil {
		return nil, err
	}
	var unescaped string
	if err := json.Unmarshal(s.b[start:s.i], &unescaped); err != nil {
		s.i = start
		return nil, s.syntax()
	}
	return []byte(unescaped), nil
}

// endString moves from inside a string over its closing quote.
func (s *scanner) endString() error {
	for ; s.i < len(s.b); s.i++ {
		switch s.b[s.i] {
		case '\\':
			s.i++
		case '"':
			s.i++
			return nil
		}
	}
	return s.syntax()
}

// skip moves over a value of any kind. The first one makes encoding/json judge
// the whole text, once; after that, only the nesting has to be followed.
func (s *scanner) skip() error {
	if !s.valid {
		if err := json.Unmarshal(s.b, &discard{}); err != nil {
			var syntax *json.SyntaxError
			if errors.As(err, &syntax) {
				return badJSON("malformed JSON at byte %d: %v", syntax.Offset, syntax)
			}
			return badJSON("malformed JSON: %v", err)
		}
		s.valid = true
	}
	for depth := 0; s.i < len(s.b); {
		c := s.b[s.i]
		switch c {
		case '"':
			s.i++
			if err := s.endString(); err != nil {
				return err
			}
		case '{', '[':
			depth++
			s.i++
		case '}', ']':
			depth--
			s.i++
		default:
			s.i++
			if depth > 0 || !s.endsScalar() {
				continue
			}
		}
		if depth == 0 {
			return nil
		}
	}
	return s.syntax()
}

// endsScalar reports whether a number or literal does not go on.
func (s *scanner) endsScalar() bool {
	return s.i == len(s.b) || bytes.IndexByte([]byte(" \t\r\n,]}"), s.b[s.i]) >= 0
}

// discard takes any JSON value and keeps nothing: encoding/json checks the
// syntax of the whole text before it hands a value over.
type discard struct{}

func (*discard) UnmarshalJSON([]byte) error { return nil }
