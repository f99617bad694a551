package fsck

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/x509"
	encodingasn1 "encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/mod/sumdb/tlog"

	"kiln/tiles"
)

// maxLine bounds a line of a names tile: the names of a certificate of the
// longest length there is, in JSON.
const maxLine = 48 << 20

var oidAlternativeNames = encodingasn1.ObjectIdentifier{2, 5, 29, 17}

// Tags of alternative names (RFC 5280 section 4.2.1.6).
var (
	tagDNS = asn1.Tag(2).ContextSpecific()
	tagIP  = asn1.Tag(7).ContextSpecific()
)

// certNames are the names of a certificate that a names tile repeats.
type certNames struct {
	CommonName string
	DNS, IP    []string
}

// sum returns a hash of the names, and some of their text.
func (n certNames) sum() (hash [32]byte, text string) {
	for i := range len(n.CommonName) {
		if n.CommonName[i] >= 0x80 {
			n.CommonName = "" // decoders differ on the character sets of old
			break
		}
	}
	text = fmt.Sprintf("%q %q %q", n.CommonName, n.DNS, n.IP)
	return sha256.Sum256([]byte(text)), shown(text)
}

// nameSum is what the line of an entry has to say.
type nameSum struct {
	timestamp uint64
	readable  bool // sum is known
	sum       [32]byte
	text      string
}

func sumNames(l *leaf) nameSum {
	der := l.certificate
	if l.precert {
		der = l.submitted
	}
	s := nameSum{timestamp: l.timestamp}
	// Logs read more than this parser does. What it reads, all read alike.
	cert, err := x509.ParseCertificate(der)
	if err != nil || oddNames(cert) {
		return s
	}
	n := certNames{CommonName: cert.Subject.CommonName, DNS: cert.DNSNames}
	for _, ip := range cert.IPAddresses {
		n.IP = append(n.IP, ip.String())
	}
	s.readable = true
	s.sum, s.text = n.sum()
	return s
}

// oddNames reports whether a certificate has alternative names that some parsers
// take for a DNS name or an IP address and others pass over: of the right number,
// but of another class, or constructed.
func oddNames(cert *x509.Certificate) bool {
	for _, e := range cert.Extensions {
		if !e.Id.Equal(oidAlternativeNames) {
			continue
		}
		list := cryptobyte.String(e.Value)
		if !list.ReadASN1(&list, asn1.SEQUENCE) {
			return true
		}
		for !list.Empty() {
			var name cryptobyte.String
			var tag asn1.Tag
			if !list.ReadAnyASN1(&name, &tag) {
				return true
			}
			const number = 0x1f
			for _, usual := range []asn1.Tag{tagDNS, tagIP} {
				if tag&number == usual&number && tag != usual {
					return true
				}
			}
		}
	}
	return false
}

// findNames finds out whether the log has names tiles, by its first and its last
// full one. They are an extension that logs may leave out (MON-24).
func (c *checker) findNames(ctx context.Context) error {
	if c.tree.N == 0 {
		return nil
	}
	first := widest(c.tree.N, tiles.LevelNames, 0)
	last := widest(c.tree.N, tiles.LevelNames, max(c.tree.N/tiles.Width-1, 0))
	for _, t := range []tlog.Tile{last, first} {
		err := c.tile(ctx, t, func(tlog.Tile, *bufio.Reader) error { return nil })
		if err == nil || found(err) {
			c.names = true
			return nil // what is wrong with it will be found in its turn
		}
		if !absent(err) {
			return err
		}
	}
	return nil
}

// checkNames checks a names tile: one line an entry, and what each line says.
func (c *checker) checkNames(ctx context.Context, t tlog.Tile, want []nameSum) error {
	err := c.tile(ctx, t, func(served tlog.Tile, r *bufio.Reader) error {
		path := tiles.Path(served)
		for i, w := range want {
			line, err := readLine(r)
			if err != nil {
				return mismatch(path, firstEntry(t, i), fmt.Sprintf("%d lines", i), fmt.Sprintf("%d lines", len(want)),
					"line of entry %d (index %d) is missing or has no end", i, firstEntry(t, i))
			}
			if err := c.checkLine(path, firstEntry(t, i), line, w); err != nil {
				return err
			}
		}
		if served.W > t.W {
			return nil
		}
		if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
			return mismatch(path, firstEntry(t, t.W-1), "more", fmt.Sprintf("%d lines", t.W), "lines follow that of its last entry")
		}
		return nil
	})
	if err != nil && absent(err) {
		c.counts.note(tiles.Path(t), "names tile is missing though others are there")
		return nil
	}
	if err == nil {
		c.counts.namesTiles.Add(1)
	}
	return err
}

func (c *checker) checkLine(path string, index int64, line []byte, want nameSum) error {
	var got struct {
		Timestamp *uint64
		Subject   struct{ CommonName string }
		DNS, IP   []string
	}
	if err := json.Unmarshal(line, &got); err != nil || got.Timestamp == nil {
		return &Fault{Path: path, Index: index, Detail: fmt.Sprintf("line of index %d is no JSON object with a Timestamp: %s", index, shown(string(line)))}
	}
	if *got.Timestamp != want.timestamp {
		return mismatch(path, index, fmt.Sprint(*got.Timestamp), fmt.Sprint(want.timestamp), "line of index %d has another timestamp than the entry", index)
	}
	n := certNames{CommonName: got.Subject.CommonName, DNS: got.DNS, IP: got.IP}
	sum, text := n.sum()
	none, _ := certNames{}.sum()
	switch {
	case !want.readable:
		c.counts.note(path, "names of a certificate that this program cannot read are not checked")
	case sum == want.sum:
	case sum == none:
		c.counts.note(path, "line of a names tile has no names though the certificate has")
	default:
		return mismatch(path, index, text, want.text, "line of index %d has other names than the certificate", index)
	}
	return nil
}

// readLine returns the next line without its end.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case len(line) > maxLine:
			return nil, errors.New("line is too long")
		}
	}
}
