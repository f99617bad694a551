package roots

import (
	"bytes"
	"encoding/csv"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Columns of CCADB's reports that matter here. Both reports have Subject, CA
// Owner and Intended Use Case(s) Served besides; the report of included roots
// goes on with a Status of each programme, that of applicants with a case number
// and a Requested? of each programme. All of those may change.
const (
	columnPEM         = "X.509 Certificate (PEM)"
	columnFingerprint = "SHA-256 Fingerprint"
)

// minBaseline is the number of roots from which on a report is held to what it
// listed before.
const minBaseline = 10

// Report is what one report lists.
type Report struct {
	Roots   []Root    // distinct, in order of fingerprints, without sources
	Invalid []Invalid // rows that were left out, in order
	Empty   int       // rows without a certificate
}

// Invalid is a row of a report that holds no root that can be read.
type Invalid struct {
	Line int // in the file, from 1
	What string
}

// ParseReport reads a report in the CSV form of CCADB, whatever the order of its
// columns and whichever others there are. A row without a certificate is
// counted, since CCADB publishes one; a row that cannot be read is left out. It
// is an error if the file is not such a report from the first byte to the last,
// lists no root, or lists mostly what is none.
func ParseReport(data []byte) (*Report, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, errors.New("the report is empty")
	}
	// Rows of another length than the header, and quotes out of place, are
	// errors: that is what a report that was cut off looks like.
	in := csv.NewReader(bytes.NewReader(data))
	header, err := in.Read()
	if err != nil {
		return nil, fmt.Errorf("the report has no header that can be read: %w", err)
	}
	pemAt, err := column(header, columnPEM)
	if err != nil {
		return nil, err
	}
	fingerprintAt, err := column(header, columnFingerprint)
	if err != nil {
		return nil, err
	}
	r := &Report{}
	for {
		row, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("the report is damaged or cut off: %w", err)
		}
		cell := strings.Trim(row[pemAt], "' \t\r\n")
		if cell == "" {
			r.Empty++
			continue
		}
		root, err := parseRow(cell, row[fingerprintAt])
		if err != nil {
			line, _ := in.FieldPos(0)
			r.Invalid = append(r.Invalid, Invalid{Line: line, What: err.Error()})
			continue
		}
		r.Roots = append(r.Roots, root)
	}
	r.Roots = NewSet(r.Roots...).roots
	return r, r.judge()
}

// column finds a column by its name in the header.
func column(header []string, name string) (int, error) {
	at := -1
	for i, h := range header {
		if strings.TrimSpace(h) != name {
			continue
		}
		if at >= 0 {
			return 0, fmt.Errorf("the report has two columns %q", name)
		}
		at = i
	}
	if at < 0 {
		return 0, fmt.Errorf("this is no CCADB report of roots: it has no column %q; it begins with %.60q", name, strings.Join(header, ","))
	}
	return at, nil
}

// parseRow returns the one certificate of a cell.
func parseRow(cell, fingerprint string) (Root, error) {
	block, rest := pem.Decode([]byte(cell))
	switch {
	case block == nil:
		return Root{}, fmt.Errorf("%q holds no PEM block that can be read", columnPEM)
	case block.Type != "CERTIFICATE":
		return Root{}, fmt.Errorf("%q holds a PEM block %.40q, want CERTIFICATE", columnPEM, block.Type)
	case len(bytes.TrimSpace(rest)) > 0 || !strings.HasPrefix(cell, "-----BEGIN"):
		return Root{}, fmt.Errorf("%q holds more than one PEM block", columnPEM)
	}
	root, err := NewRoot(block.Bytes)
	if err != nil {
		return Root{}, fmt.Errorf("%q: %w", columnPEM, err)
	}
	if fingerprint = strings.TrimSpace(fingerprint); fingerprint == "" {
		return root, nil
	}
	want, err := ParseFingerprint(fingerprint)
	if err != nil {
		return Root{}, fmt.Errorf("%q: %w", columnFingerprint, err)
	}
	if want != root.Fingerprint {
		return Root{}, fmt.Errorf("%q is %s, but the certificate's is %s", columnFingerprint, want, root.Fingerprint)
	}
	return root, nil
}

// judge refuses a report that was read but cannot be what it should be.
func (r *Report) judge() error {
	if len(r.Roots) == 0 {
		return fmt.Errorf("the report lists no root: %d rows are invalid, %d have no certificate", len(r.Invalid), r.Empty)
	}
	if len(r.Invalid) > len(r.Roots) {
		first := r.Invalid[0]
		return fmt.Errorf("the report has more rows that are invalid (%d) than roots (%d); the first is in line %d: %s",
			len(r.Invalid), len(r.Roots), first.Line, first.What)
	}
	// Some true roots are signed by others. A report of all certificates looks
	// like one of roots but for this.
	others := 0
	for _, root := range r.Roots {
		if !root.selfIssued {
			others++
		}
	}
	if others > len(r.Roots)/2 && others > 3 {
		return fmt.Errorf("this is no report of roots: %d of its %d certificates are issued by others", others, len(r.Roots))
	}
	return nil
}

// shrunk refuses a report that lists far fewer roots than it did when it was
// last followed: it was cut off between two rows, or made wrongly.
func (r *Report) shrunk(name string, current *Set) error {
	if before := current.listedBy(name); before >= minBaseline && 2*len(r.Roots) < before {
		return fmt.Errorf("the report lists %d roots where it listed %d: if that is right, say so once with kiln roots apply --accept-shrunk", len(r.Roots), before)
	}
	return nil
}

// names returns the names of reports in their order, an error if two are the same.
func names(sources []string) ([]string, error) {
	var all []string
	for _, s := range sources {
		name := reportName(s)
		if slices.Contains(all, name) {
			return nil, fmt.Errorf("two reports have the name %s: the last elements of their paths must differ", name)
		}
		all = append(all, name)
	}
	return all, nil
}
