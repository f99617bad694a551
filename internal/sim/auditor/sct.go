package auditor

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Submission is what a client sends.
type Submission struct {
	Chain   [][]byte // DER: the leaf, then its issuers; the root may be left out
	Precert bool     // by add-pre-chain
}

// Submitted tells what a client is about to send. From the first call on, every
// entry of the tree must be one that was told, byte for byte, with nothing but a
// root added to its chain. A log may answer a submission with the entry of
// another chain to the same certificate only if that was told too.
func (a *Auditor) Submitted(s Submission) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	id, sent, err := offerOf(s)
	if err != nil {
		return err // a submission that no log can take
	}
	for _, known := range a.offers[id] {
		if known.precert == sent.precert && slices.Equal(known.chain, sent.chain) {
			return nil
		}
	}
	a.offers[id] = append(a.offers[id], sent)
	return nil
}

func offerOf(s Submission) (id hash, sent extra, err error) {
	signed, err := s.signedEntry()
	if err != nil {
		return id, sent, fmt.Errorf("read submission: %w", err)
	}
	if s.Precert {
		sent.precert = sha256.Sum256(s.Chain[0])
	}
	for _, c := range s.Chain[1:] {
		sent.chain = append(sent.chain, sha256.Sum256(c))
	}
	return sha256.Sum256(signed), sent, nil
}

// within says that what is stored is what was sent, and at most a root more.
func (x extra) within(stored extra) bool {
	more := len(stored.chain) - len(x.chain)
	return x.precert == stored.precert && (more == 0 || more == 1) && slices.Equal(stored.chain[:len(x.chain)], x.chain)
}

func (p place) same(q place) bool {
	return p.id == q.id && p.timestamp == q.timestamp && p.precert == q.precert && slices.Equal(p.chain, q.chain)
}

// signedEntry is entry_type || signed_entry of a submission.
func (s Submission) signedEntry() ([]byte, error) {
	if len(s.Chain) == 0 {
		return nil, errors.New("an empty chain")
	}
	var issuers []cert
	if s.Precert {
		for _, raw := range s.Chain[1:min(3, len(s.Chain))] {
			c, err := parseCert(raw)
			if err != nil {
				return nil, err
			}
			issuers = append(issuers, c)
		}
	}
	return signedEntry(s.Chain[0], issuers, s.Precert)
}

// signedEntry is entry_type || signed_entry (RFC 6962 section 3.4), from a
// certificate or from a precertificate and its first issuers.
func signedEntry(leaf []byte, issuers []cert, precert bool) ([]byte, error) {
	data, b := leaf, []byte{0, 0}
	if precert {
		c, err := parseCert(leaf)
		if err != nil {
			return nil, fmt.Errorf("its precertificate: %w", err)
		}
		var signer *cert
		if len(issuers) > 0 && issuers[0].signsPrecerts() {
			signer, issuers = &issuers[0], issuers[1:]
		}
		if len(issuers) == 0 {
			return nil, errors.New("a precertificate without its issuer")
		}
		keyHash := issuers[0].keyHash()
		data, b = c.tbs(signer), append([]byte{0, 1}, keyHash[:]...)
	}
	b = append(b, byte(len(data)>>16), byte(len(data)>>8), byte(len(data)))
	return append(b, data...), nil
}

// Returned tells that a client got a 200 with this body for its submission.
func (a *Auditor) Returned(s Submission, answer []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.returned(s, answer); err != nil {
		return a.broke(fmt.Errorf("SCT: %w (%s)", err, clip(answer)))
	}
	return nil
}

// answered is the body of an answer.
type answered struct {
	Version    *int    `json:"sct_version"`
	ID         []byte  `json:"id"`
	Timestamp  *uint64 `json:"timestamp"`
	Extensions []byte  `json:"extensions"`
	Signature  []byte  `json:"signature"`
}

func (a *Auditor) returned(s Submission, body []byte) error {
	signed, err := s.signedEntry()
	if err != nil {
		return fmt.Errorf("for what no log can take: %w", err)
	}
	var sct answered
	switch err := json.Unmarshal(body, &sct); {
	case err != nil:
		return fmt.Errorf("is no JSON of an SCT: %w", err)
	case sct.Version == nil || *sct.Version != 0:
		return errors.New("its version is not 0")
	case len(sct.ID) != 32 || hash(sct.ID) != a.logID:
		return errors.New("has the ID of another log")
	case sct.Timestamp == nil:
		return errors.New("has no timestamp")
	case len(sct.Extensions) != 8 || [3]byte(sct.Extensions) != [3]byte{0, 0, 5}:
		return fmt.Errorf("has extensions %x, want one leaf_index", sct.Extensions)
	}
	index := int64(binary.BigEndian.Uint64(sct.Extensions)) & (maxSize - 1)
	p := promise{id: sha256.Sum256(signed), timestamp: *sct.Timestamp, signature: base64.StdEncoding.EncodeToString(sct.Signature)}

	before, known := a.scts[index]
	if known && before.id != p.id {
		return fmt.Errorf("index %d was promised to another entry before", index)
	}
	if known && before.timestamp != p.timestamp {
		return fmt.Errorf("index %d was promised with timestamp %d before", index, before.timestamp)
	}
	if !known || before.signature != p.signature {
		leaf := binary.BigEndian.AppendUint64([]byte{0, 0}, p.timestamp)
		leaf = append(leaf, signed...)
		leaf = append(append(leaf, 0, 8), sct.Extensions...)
		if err := a.verify(leaf, sct.Signature); err != nil {
			return fmt.Errorf("over the leaf of this submission: %w", err)
		}
	}
	if index >= a.public.size {
		return fmt.Errorf("index %d is out before a checkpoint covers it: %d entries are public", index, a.public.size)
	}
	if err := a.keep(index, p); err != nil {
		return err
	}
	return a.sameChain(s, index)
}

// keep holds a promise against the tree and remembers it.
func (a *Auditor) keep(index int64, p promise) error {
	if index >= a.tree.size() {
		a.early = append(a.early, index)
		a.scts[index] = p
		return nil
	}
	switch e := a.entries[index]; {
	case e.id != p.id:
		return fmt.Errorf("index %d holds another entry: the SCT's is lost", index)
	case e.timestamp != p.timestamp:
		return fmt.Errorf("index %d holds its entry with timestamp %d, the SCT says %d", index, e.timestamp, p.timestamp)
	}
	p.found = true
	a.scts[index] = p
	return nil
}

// sameChain demands that what the tree does not cover of an entry is what was
// submitted, now or with another chain to the same certificate.
func (a *Auditor) sameChain(s Submission, index int64) error {
	if index >= a.tree.size() || len(a.offers) > 0 {
		return nil // unseen as yet; or compared with all that was sent when it came
	}
	id, sent, err := offerOf(s)
	if err != nil {
		return err
	}
	if p := a.entries[index]; p.id != id || !sent.within(p.extra) {
		return fmt.Errorf("index %d holds its entry with another chain or precertificate", index)
	}
	return nil
}
