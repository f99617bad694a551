package roots

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kiln/internal/chain"
)

// testRoots returns the first n roots of a live log.
func testRoots(t testing.TB, n int) []Root {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "testdata", "real-roots.pem.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	ders, err := chain.ParseRoots(data)
	if err != nil {
		t.Fatal(err)
	}
	var all []Root
	for _, der := range ders {
		if f := Fingerprint(sha256.Sum256(der)); f.String() == monitorFingerprint {
			continue // built in
		}
		all = append(all, mustRoot(t, der))
		if len(all) == n {
			return all
		}
	}
	t.Fatalf("there are only %d roots, want %d", len(all), n)
	return nil
}

func mustRoot(t testing.TB, der []byte) Root {
	t.Helper()
	r, err := NewRoot(der)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// negativeSerial returns a root whose serial number is below zero, which
// crypto/x509 refuses.
func negativeSerial(t testing.TB, r Root) Root {
	t.Helper()
	der := bytes.Clone(r.DER)
	at := bytes.Index(der, []byte{0xa0, 0x03, 0x02, 0x01, 0x02, 0x02}) // version 3, then an INTEGER
	if at < 0 {
		t.Fatal("no serial number found")
	}
	der[at+7] |= 0x80
	der[at+8] &^= 0x80 // minimal, whatever it was
	if _, err := x509.ParseCertificate(der); err == nil || !strings.Contains(err.Error(), "negative serial") {
		t.Fatalf("crypto/x509 says %v, want that the serial is negative", err)
	}
	return mustRoot(t, der)
}

func pemOf(r Root) string {
	return strings.TrimSuffix(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.DER})), "\n")
}

// The headers of the two reports, as CCADB publishes them.
var (
	includedHeader = []string{
		"Subject", "CA Owner", columnPEM, columnFingerprint, "Intended Use Case(s) Served",
		"Apple Status", "Google Chrome Status", "Microsoft Status", "Mozilla Status",
	}
	inclusionHeader = []string{
		"Subject", "CA Owner", columnPEM, columnFingerprint, "Intended Use Case(s) Served",
		"CCADB Inclusion Request Case #", "Apple Requested?", "Google Chrome Requested?", "Mozilla Requested?",
	}
)

// csvRow writes all cells in quotes, as CCADB does.
func csvRow(cells []string) string {
	var quoted []string
	for _, c := range cells {
		quoted = append(quoted, `"`+strings.ReplaceAll(c, `"`, `""`)+`"`)
	}
	return strings.Join(quoted, ",") + "\n"
}

// rowOf fills a row for a header.
func rowOf(header []string, subject, pem, fingerprint string) []string {
	var row []string
	for _, h := range header {
		switch h {
		case "Subject":
			row = append(row, subject)
		case "CA Owner":
			row = append(row, `Company, "Limited"`)
		case columnPEM:
			row = append(row, pem)
		case columnFingerprint:
			row = append(row, fingerprint)
		case "Intended Use Case(s) Served":
			row = append(row, "Server Authentication (TLS) 1.3.6.1.5.5.7.3.1;Client Authentication 1.3.6.1.5.5.7.3.2")
		case "CCADB Inclusion Request Case #":
			row = append(row, "00002172")
		case "Apple Requested?", "Google Chrome Requested?", "Mozilla Requested?":
			row = append(row, "true")
		default:
			row = append(row, "Included")
		}
	}
	return row
}

func rootRow(header []string, r Root) string {
	return csvRow(rowOf(header, strings.ReplaceAll(r.Subject, ", ", "; "), pemOf(r), strings.ToUpper(r.Fingerprint.String())))
}

// reportOf writes a report.
func reportOf(header []string, roots ...Root) []byte {
	var b strings.Builder
	b.WriteString(csvRow(header))
	for _, r := range roots {
		b.WriteString(rootRow(header, r))
	}
	return []byte(b.String())
}

func fingerprints(roots []Root) (all []string) {
	for _, r := range roots {
		all = append(all, r.Fingerprint.String())
	}
	slices.Sort(all)
	return all
}

func TestParseReport(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 3)
	negative := negativeSerial(t, roots[0])
	minimal := []string{columnFingerprint, "Something new", columnPEM}
	spaced := rowOf(includedHeader, "Baltimore", strings.ReplaceAll(pemOf(roots[1]), "\n", "  \n")+" ", roots[1].Fingerprint.String())
	for _, c := range []struct {
		name  string
		data  string
		want  []Root
		empty int
	}{
		{"included", string(reportOf(includedHeader, roots...)), roots, 0},
		{"applicants", string(reportOf(inclusionHeader, roots...)), roots, 0},
		{"other columns in another order", string(reportOf(minimal, roots...)), roots, 0},
		{"byte order mark", "\xef\xbb\xbf" + string(reportOf(includedHeader, roots...)), roots, 0},
		{"line ends of Windows", strings.ReplaceAll(string(reportOf(includedHeader, roots...)), "\n", "\r\n"), roots, 0},
		{"no line end", strings.TrimSuffix(string(reportOf(includedHeader, roots...)), "\n"), roots, 0},
		{"row without a certificate", csvRow(includedHeader) + csvRow(rowOf(includedHeader, "Example CA", "", "")) + rootRow(includedHeader, roots[1]), roots[1:2], 1},
		{"spaces after lines", csvRow(includedHeader) + csvRow(spaced), roots[1:2], 0},
		{"quoted twice", csvRow(minimal) + csvRow(rowOf(minimal, "", "'"+pemOf(roots[1])+"'", roots[1].Fingerprint.String())), roots[1:2], 0},
		{"no fingerprint", csvRow(minimal) + csvRow(rowOf(minimal, "", pemOf(roots[1]), "")), roots[1:2], 0},
		{"fingerprint with colons", csvRow(minimal) + csvRow(rowOf(minimal, "", pemOf(roots[1]), colons(roots[1].Fingerprint))), roots[1:2], 0},
		{"repeated", string(reportOf(includedHeader, roots[0], roots[1], roots[0])), roots[:2], 0},
		{"negative serial", string(reportOf(includedHeader, negative, roots[1])), []Root{negative, roots[1]}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseReport([]byte(c.data))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(fingerprints(got.Roots), fingerprints(c.want)) || got.Empty != c.empty || len(got.Invalid) > 0 {
				t.Errorf("got %v, %d empty, invalid %v; want %v, %d empty", got.Roots, got.Empty, got.Invalid, c.want, c.empty)
			}
		})
	}
}

func colons(f Fingerprint) string {
	return strings.ReplaceAll(fmt.Sprintf("% X", f[:]), " ", ":")
}

// TestParseReportAll reads as many roots as a real report has.
func TestParseReportAll(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 661)
	got, err := ParseReport(reportOf(includedHeader, roots...))
	if err != nil || len(got.Roots) != 661 || len(got.Invalid) > 0 {
		t.Fatalf("%d roots, invalid %v, %v", len(got.Roots), got.Invalid, err)
	}
	if !slices.IsSortedFunc(got.Roots, byFingerprint) {
		t.Error("the roots are not in order")
	}
}

func TestParseReportSkips(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 4)
	damaged := bytes.Clone(roots[1].DER)
	damaged = damaged[:len(damaged)-10]
	for _, c := range []struct{ name, pem, fingerprint, want string }{
		{"no PEM", "NOT A CERTIFICATE", "", "no PEM block"},
		{"damaged base64", strings.Replace(pemOf(roots[0]), "MII", "M!!", 1), "", "no PEM block"},
		{"cut off", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: damaged})), "", "not the DER"},
		{"another block", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: roots[0].DER})), "", "want CERTIFICATE"},
		{"two blocks", pemOf(roots[0]) + "\n" + pemOf(roots[1]), "", "more than one"},
		{"too large", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: make([]byte, maxCertificate+1)})), "", "at most"},
		{"another fingerprint", pemOf(roots[0]), roots[1].Fingerprint.String(), "but the certificate's is"},
		{"no fingerprint", pemOf(roots[0]), "sha256", "no SHA-256 fingerprint"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			data := csvRow(includedHeader) + rootRow(includedHeader, roots[2]) +
				csvRow(rowOf(includedHeader, "CN=Invalid", c.pem, c.fingerprint)) + rootRow(includedHeader, roots[3])
			got, err := ParseReport([]byte(data))
			if err != nil {
				t.Fatal(err)
			}
			line := 2 + strings.Count(rootRow(includedHeader, roots[2]), "\n")
			if !slices.Equal(fingerprints(got.Roots), fingerprints(roots[2:])) {
				t.Errorf("got %v, want the other two", got.Roots)
			}
			if len(got.Invalid) != 1 || got.Invalid[0].Line != line || !strings.Contains(got.Invalid[0].What, c.want) {
				t.Errorf("invalid are %v, want line %d with %q", got.Invalid, line, c.want)
			}
		})
	}
}

func TestParseReportRefuses(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 5)
	row := rootRow(includedHeader, roots[0])
	invalid := csvRow(rowOf(includedHeader, "", "NO", ""))
	var issued []Root
	for _, r := range roots {
		r = mustRoot(t, withOtherIssuer(t, r.DER))
		issued = append(issued, r)
	}
	for _, c := range []struct{ name, data, want string }{
		{"nothing", "", "empty"},
		{"blank", " \r\n\n", "empty"},
		{"byte order mark", "\xef\xbb\xbf", "empty"},
		{"a web page", "<!DOCTYPE html>\n<html><body>Down for maintenance</body></html>\n", "no CCADB report"},
		{"JSON", `{"error":"no"}`, "header"},
		{"header only", csvRow(includedHeader), "lists no root"},
		{"no column of certificates", csvRow([]string{"Subject", columnFingerprint}) + csvRow([]string{"a", "b"}), `no column "X.509 Certificate (PEM)"`},
		{"no column of fingerprints", csvRow([]string{"Subject", columnPEM}) + csvRow([]string{"a", pemOf(roots[0])}), `no column "SHA-256 Fingerprint"`},
		{"a column in lower case", strings.ToLower(csvRow(includedHeader)) + row, "no column"},
		{"a column twice", csvRow(append(slices.Clone(includedHeader), columnPEM)), "two columns"},
		{"a short row", csvRow(includedHeader) + row + csvRow(includedHeader[:5]), "damaged or cut off"},
		{"only rows without certificates", csvRow(includedHeader) + csvRow(rowOf(includedHeader, "Example CA", "", "")), "lists no root"},
		{"mostly invalid", csvRow(includedHeader) + row + invalid + invalid, "more rows that are invalid"},
		{"not roots", string(reportOf(includedHeader, issued...)), "no report of roots"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if _, err := ParseReport([]byte(c.data)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
		})
	}
}

// withOtherIssuer changes the last letter of the issuer.
func withOtherIssuer(t *testing.T, der []byte) []byte {
	t.Helper()
	info, err := chain.ParseRoot(der)
	if err != nil {
		t.Fatal(err)
	}
	der = bytes.Clone(der)
	at := bytes.Index(der, info.Issuer)
	der[at+len(info.Issuer)-1] ^= 1
	return der
}

// TestTruncated cuts a report at every place. It is refused, unless the cut is
// between rows, or before a last cell, which may be empty: then it is a shorter
// report, which only the count shows.
func TestTruncated(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 2)
	header, first := csvRow(includedHeader), rootRow(includedHeader, roots[0])
	whole := header + first + rootRow(includedHeader, roots[1])
	const last = len("\"Included\"\n")
	var between []int
	for _, end := range []int{len(header + first), len(whole)} {
		between = append(between, end, end-1, end-last)
	}
	for n := range len(whole) {
		got, err := ParseReport([]byte(whole[:n]))
		if slices.Contains(between, n) {
			if err != nil {
				t.Errorf("cut between rows at %d: %v", n, err)
			}
		} else if err == nil {
			t.Fatalf("cut at %d of %d: taken with %d roots; it ends in %q", n, len(whole), len(got.Roots), whole[max(0, n-40):n])
		}
	}
}

func TestShrunk(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 20)
	var listed []Root
	for i, r := range roots {
		source := []string{"a"}
		if i >= 15 {
			source = []string{"b"} // five: too few to judge
		}
		listed = append(listed, r.from(source, nil))
	}
	current := NewSet(listed...)
	for _, c := range []struct {
		name string
		n    int
		ok   bool
	}{{"a", 20, true}, {"a", 8, true}, {"a", 7, false}, {"a", 1, false}, {"b", 1, true}, {"c", 1, true}} {
		err := (&Report{Roots: roots[:c.n]}).shrunk(c.name, current)
		if (err == nil) != c.ok {
			t.Errorf("%s with %d: %v", c.name, c.n, err)
		}
	}
}

func FuzzParseReport(f *testing.F) {
	roots := testRoots(f, 2)
	f.Add(reportOf(includedHeader, roots...))
	f.Add(reportOf(inclusionHeader, roots[0], negativeSerial(f, roots[1])))
	f.Add([]byte(csvRow(includedHeader) + csvRow(rowOf(includedHeader, "Example CA", "", "")) + rootRow(includedHeader, roots[1])))
	f.Add([]byte("<!DOCTYPE html>"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseReport(data)
		if err != nil {
			return
		}
		// Whatever a report lists can be written, and is then what logs read.
		set := NewSet(r.Roots...)
		if set.Len() != len(r.Roots) || set.Len() == 0 {
			t.Fatalf("%d roots, %d different", len(r.Roots), set.Len())
		}
		content, err := set.rendered()
		if err != nil {
			t.Fatal(err)
		}
		ders, err := chain.ParseRoots(content)
		if err != nil || !slices.EqualFunc(ders, set.DERs(), bytes.Equal) {
			t.Fatalf("logs read %d roots of %d: %v", len(ders), set.Len(), err)
		}
		v, err := chain.New(chain.Config{})
		if err := errors.Join(err, v.SetRoots(ders)); err != nil {
			t.Fatal(err)
		}
	})
}
