package chain

import (
	"errors"
	"fmt"
)

// Reason says in one word why a submission was refused. The set is closed: see
// [Reasons].
type Reason string

// The reasons, by the requirement they come from.
const (
	ReasonEmpty         Reason = "empty_chain"           // SUB-05
	ReasonMalformed     Reason = "malformed_certificate" // SUB-05, SUB-24
	ReasonTooLarge      Reason = "too_large"             // SUB-06
	ReasonNotAfter      Reason = "not_after"             // SUB-21
	ReasonExtKeyUsage   Reason = "ext_key_usage"         // SUB-25
	ReasonWrongEndpoint Reason = "wrong_endpoint"        // SUB-27
	ReasonPoison        Reason = "bad_poison"            // SUB-26
	ReasonBrokenChain   Reason = "broken_chain"          // SUB-18
	ReasonNotCA         Reason = "not_a_ca"              // SUB-18
	ReasonUnknownRoot   Reason = "unknown_root"          // SUB-17
	ReasonAlgorithm     Reason = "unsupported_algorithm" // EMR-03
	ReasonSignature     Reason = "bad_signature"         // SUB-17
	ReasonPrecertIssuer Reason = "bad_precert_issuer"    // SUB-30
	ReasonPrecertTBS    Reason = "bad_precert_tbs"       // SUB-28
)

// Reasons returns every Reason there is, for a metrics label.
func Reasons() []Reason {
	return []Reason{
		ReasonEmpty, ReasonMalformed, ReasonTooLarge, ReasonNotAfter, ReasonExtKeyUsage, ReasonWrongEndpoint,
		ReasonPoison, ReasonBrokenChain, ReasonNotCA, ReasonUnknownRoot, ReasonAlgorithm, ReasonSignature,
		ReasonPrecertIssuer, ReasonPrecertTBS,
	}
}

// RejectedError says that a submission is not valid and will never be, with
// these roots and this configuration. It is the submitter's fault: a 400.
type RejectedError struct {
	Reason Reason // why, in one word
	Detail string // one sentence: what is wrong, and what was expected
}

// Error implements error.
func (e *RejectedError) Error() string { return e.Detail }

func rejectf(reason Reason, format string, args ...any) *RejectedError {
	return &RejectedError{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// errAlgorithm marks signatures and keys that this package cannot or will not
// verify, as opposed to those that do not hold.
var errAlgorithm = errors.New("unsupported")

// rejectSignature makes the error for a signature of the certificate at a place
// in the chain that could not be verified.
func rejectSignature(place string, err error) *RejectedError {
	if errors.Is(err, errAlgorithm) {
		return rejectf(ReasonAlgorithm, "signature of %s cannot be verified: %v", place, err)
	}
	return rejectf(ReasonSignature, "signature of %s does not hold under its issuer's key: %v", place, err)
}
