package frontend

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

const testMaxChain = 4

func TestParseBody(t *testing.T) {
	t.Parallel()
	der := [][]byte{{0x30, 0x82, 0xff}, []byte("issuer"), {0}}
	b64 := func(i int) string { return base64.StdEncoding.EncodeToString(der[i]) }
	tests := []struct{ name, body string }{
		{"plain", `{"chain":["` + b64(0) + `","` + b64(1) + `","` + b64(2) + `"]}`},
		{"white space", " \r\n{\t\"chain\" : [ \"" + b64(0) + "\" ,\n\"" + b64(1) + "\", \"" + b64(2) + "\"\t] } \n"},
		{"unknown members", `{"x":1,"y":{"chain":["AA"],"z":[[],"]}\""]},"chain":["` + b64(0) + `","` + b64(1) + `","` + b64(2) + `"],"t":true,"n":-1e9}`},
		{"escaped solidus", `{"chain":["` + strings.ReplaceAll(b64(0), "/", `\/`) + `","` + b64(1) + `","` + b64(2) + `"]}`},
		{"escaped name", `{"\u0063hain":["` + b64(0) + `","` + b64(1) + `","` + b64(2) + `"]}`},
		{"other case is another member", `{"Chain":1,"chain":["` + b64(0) + `","` + b64(1) + `","` + b64(2) + `"]}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseBody([]byte(test.body), testMaxChain)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(got, der, bytes.Equal) {
				t.Errorf("got %x, want %x", got, der)
			}
		})
	}
}

func TestParseBodyRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, body, want string }{
		{"empty", "", "body is empty"},
		{"space only", " \n", "body is empty"},
		{"text", "not json", "does not begin with an object"},
		{"array", `[]`, "does not begin with an object"},
		{"gzip", "\x1f\x8b\x08", "does not begin with an object"},
		{"byte order mark", "\ufeff{}", "does not begin with an object"},
		{"no chain", `{}`, `member "chain" is missing`},
		{"no chain but others", `{"x":[{}]}`, `member "chain" is missing`},
		{"empty chain", `{"chain":[]}`, `"chain" is empty`},
		{"null chain", `{"chain":null}`, `"chain" is not an array`},
		{"string chain", `{"chain":"AAAA"}`, `"chain" is not an array`},
		{"null member", `{"chain":[null]}`, "chain[0] is not a string"},
		{"number member", `{"chain":["AAAA",1]}`, "chain[1] is not a string"},
		{"empty member", `{"chain":[""]}`, "chain[0]: empty string"},
		{"bad base64", `{"chain":["AAAA","AA!A"]}`, "chain[1]: illegal base64 at byte 2; want standard padded base64 of a DER certificate"},
		{"no padding", `{"chain":["AA"]}`, "chain[0]: base64 does not end as it should: wrong padding"},
		{"URL alphabet", `{"chain":["__-_"]}`, "chain[0]: illegal base64 at byte 0"},
		{"stray bits", `{"chain":["AB=="]}`, "chain[0]: base64 does not end as it should"},
		{"text after padding", `{"chain":["AA==AAAA"]}`, "chain[0]: illegal base64 at byte 2"},
		{"line break", `{"chain":["AA\nAA"]}`, "chain[0]: illegal base64 at byte 2"},
		{"raw line break", "{\"chain\":[\"AA\nAA\"]}", "chain[0]: illegal base64 at byte 2"},
		{"twice", `{"chain":["AAAA"],"chain":["AAAA"]}`, `member "chain" is there twice`},
		{"too many", `{"chain":["AAAA","AAAA","AAAA","AAAA","AAAA"]}`, "more than 4 certificates"},
		{"trailing data", `{"chain":["AAAA"]}{}`, "bytes after the JSON object, at byte 18"},
		{"trailing comma", `{"chain":["AAAA"],}`, "malformed JSON at byte 18"},
		{"trailing comma in chain", `{"chain":["AAAA",]}`, "chain[1] is not a string"},
		{"no comma", `{"chain":["AAAA" "AAAA"]}`, "malformed JSON at byte 17"},
		{"line break in a name", "{\"x\n\":1,\"chain\":[\"AAAA\"]}", "malformed JSON at byte 1"},
		{"no colon", `{"chain" ["AAAA"]}`, "malformed JSON at byte 9"},
		{"cut off", `{"chain":["AAAA"`, "the body ends at byte 16 inside a value"},
		{"cut off in string", `{"chain":["AAAA`, "the body ends at byte 15 inside a value"},
		{"bad escape", `{"chain":["\x"]}`, "malformed JSON at byte 10"},
		{"broken unknown member", `{"x":tru,"chain":["AAAA"]}`, "malformed JSON at byte 9"},
		{"deep unknown member", `{"x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `,"chain":["AAAA"]}`, "malformed JSON"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			chain, err := parseBody([]byte(test.body), testMaxChain)
			var re *requestError
			if !errors.As(err, &re) {
				t.Fatalf("got %x, %v; want a request error", chain, err)
			}
			if re.code != http.StatusBadRequest || !strings.Contains(re.detail, test.want) {
				t.Errorf("got %d %q, want 400 and %q", re.code, re.detail, test.want)
			}
			if !strings.Contains(re.detail, "; want ") {
				t.Errorf("%q does not say what is wanted", re.detail)
			}
		})
	}
}

// parseBodySlowly says the same as parseBody by means of encoding/json alone.
func parseBodySlowly(body []byte, maxChain int) ([][]byte, bool) {
	dec := json.NewDecoder(bytes.NewReader(body))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, false
	}
	var chain [][]byte
	seen := false
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, false
		}
		var value json.RawMessage
		if dec.Decode(&value) != nil {
			return nil, false
		}
		if name != "chain" {
			continue
		}
		var texts []*string
		if seen || json.Unmarshal(value, &texts) != nil || len(texts) == 0 || len(texts) > maxChain {
			return nil, false
		}
		seen = true
		for _, text := range texts {
			if text == nil || *text == "" || strings.ContainsAny(*text, "\r\n") {
				return nil, false
			}
			der, err := base64.StdEncoding.Strict().DecodeString(*text)
			if err != nil {
				return nil, false
			}
			chain = append(chain, der)
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, false
	}
	_, err := dec.Token()
	return chain, seen && errors.Is(err, io.EOF)
}

func FuzzAddChainBody(f *testing.F) {
	for _, body := range []string{
		"", "not json", "[]", "{}", `{"chain":[]}`, `{"chain":["!!!"]}`, `{"chain":"AAAA"}`, `{"chain":["AAAA"]}`, `{"chain":[null]}`,
		`{"x":1,"chain":["AAAA","AAA="]}`, `{"chain":["AA==","A\/A="],"y":{"z":[1,"\"]}",{}]}} `, `{"\u0063hain":["AAAA"]}`,
		`{"chain":["AAAA"],"chain":["AAAA"]}`, `{"a":"\ud800","chain":["AAAA",]}`, `{"chain":["AA\nAA"]}`, "{\"chain\":[\"AA\nAA\"]}", `{"a":-0.5e+7 ,"chain" : [ "AAAA" ] , "b":null}x`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := parseBody(bytes.Clone(body), testMaxChain)
		want, ok := parseBodySlowly(body, testMaxChain)
		if ok != (err == nil) {
			t.Fatalf("%q: parseBody says %v, encoding/json says ok=%v", body, err, ok)
		}
		if ok && !slices.EqualFunc(got, want, bytes.Equal) {
			t.Fatalf("%q: parseBody says %x, encoding/json says %x", body, got, want)
		}
		var re *requestError
		if err != nil && (!errors.As(err, &re) || len(re.detail) > 500 || strings.ContainsAny(re.detail, "\r\n")) {
			t.Fatalf("%q: error is no short sentence: %v", body, err)
		}
	})
}

func BenchmarkParseBody(b *testing.B) {
	cert := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0x30, 0x82}, 600))
	body := []byte(`{"chain":["` + cert + `","` + cert + `","` + cert + `"]}`)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := parseBody(body, testMaxChain); err != nil {
			b.Fatal(err)
		}
	}
}
