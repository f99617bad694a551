package s3client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
)

// Errors that answers are matched with, by errors.Is.
var (
	// ErrNotFound says that the server knows the bucket and has no such object.
	ErrNotFound = errors.New("no such object")

	// ErrPrecondition says that the server refused a conditional write, with
	// status 412: the request changed nothing. An earlier one of the same caller
	// may have.
	ErrPrecondition = errors.New("precondition failed")

	errTimeout = errors.New("no answer in time")
)

// Class is what is known after a request that did not succeed.
type Class int

// Classes. Of the first three the request is known to have changed nothing.
const (
	NotFound     Class = iota + 1 // no such object
	Precondition                  // a conditional write was refused, 412
	Refused                       // bad request, no right, no bucket: it will be so again
	Damaged                       // bytes changed on the way; a write changed nothing
	Slow                          // the server asks to slow down; outcome unknown
	Unknown                       // anything else, no answer included; outcome unknown
	Cancelled                     // the caller's context ended; outcome unknown
)

// String returns the class as metrics label it.
func (c Class) String() string {
	switch c {
	case NotFound:
		return "not_found"
	case Precondition:
		return "precondition"
	case Refused:
		return "refused"
	case Damaged:
		return "damaged"
	case Slow:
		return "slow"
	case Cancelled:
		return "canceled"
	default:
		return "unknown"
	}
}

// Error is a request that did not succeed.
type Error struct {
	Op          string // put, get, ...
	Bucket, Key string
	Class       Class
	Status      int           // HTTP status; 0 without an answer
	Code        string        // S3's error code, may be empty
	RetryAfter  time.Duration // what the server asked for, 0 mostly
	Err         error         // what the SDK, the network or the context said
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "S3 %s %s/%s: ", e.Op, e.Bucket, e.Key)
	if e.Status != 0 {
		fmt.Fprintf(&b, "%d ", e.Status)
	}
	if e.Code != "" {
		fmt.Fprintf(&b, "%s: ", plain(e.Code))
	}
	b.WriteString(plain(e.Err.Error()))
	b.WriteString(e.hint())
	return b.String()
}

// maxWords bounds what is quoted of a server, in bytes.
const maxWords = 1000

// plain makes one short line of what a server said, so that it can write none of
// its own into a log or a terminal.
func plain(s string) string {
	if len(s) > maxWords {
		s = s[:maxWords] + "..."
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// hint says what to look at.
func (e *Error) hint() string {
	switch {
	case (e.Class == Unknown || e.Class == Slow) && e.Op != opGet && e.Op != opHead && e.Op != opList:
		return " (outcome unknown)"
	case e.Code == "SignatureDoesNotMatch" || e.Code == "InvalidAccessKeyId" || e.Code == "XAdminUserNotFound":
		return " (check the access key and its secret)"
	case e.Code == "RequestTimeTooSkewed":
		return " (check the clock)"
	case e.Code == "NoSuchBucket":
		return " (check bucket, endpoint and path style)"
	case e.Status == http.StatusForbidden:
		return " (check the access key and its rights: without s3:ListBucket a missing object is answered so too)"
	case e.Status >= 300 && e.Status < 400 || e.Code == "AuthorizationHeaderMalformed":
		return " (check region and endpoint)"
	default:
		return ""
	}
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is matches ErrNotFound and ErrPrecondition.
func (e *Error) Is(target error) bool {
	return target == ErrNotFound && e.Class == NotFound || target == ErrPrecondition && e.Class == Precondition
}

// ClassOf returns the class of an error of this package, Unknown for another.
func ClassOf(err error) Class {
	if e, ok := asError(err); ok {
		return e.Class
	}
	return Unknown
}

// OutcomeUnknown reports whether a write that returned err may have taken place,
// now or later.
func OutcomeUnknown(err error) bool {
	switch ClassOf(err) {
	case Slow, Unknown, Cancelled:
		return err != nil
	default:
		return false
	}
}

// Retryable reports whether another attempt may succeed where one returned err,
// which is neither so for an answer (NotFound, Precondition) nor for a refusal.
func Retryable(err error) bool {
	switch ClassOf(err) {
	case Slow, Unknown, Damaged:
		return err != nil
	default:
		return false
	}
}

// classify makes an Error of what a request returned. ctx is the caller's,
// attempt the one of the request, which ends by a time-out of its own.
func classify(ctx, attempt context.Context, op, bucket, key string, err error) *Error {
	e := &Error{Op: op, Bucket: bucket, Key: key, Class: Unknown, Err: err}
	if own, ok := asError(err); ok { // by read, in this package
		e.Class, e.Err = own.Class, own.Err
		return e
	}
	if ctx.Err() != nil {
		e.Class, e.Err = Cancelled, context.Cause(ctx)
		if !errors.Is(e.Err, ctx.Err()) {
			e.Err = fmt.Errorf("%w: %w", ctx.Err(), e.Err)
		}
		return e
	}
	answer, ok := errors.AsType[*awshttp.ResponseError](err)
	if !ok || answer.HTTPStatusCode() == 0 {
		e.Err = withoutAnswer(attempt, err)
		return e
	}
	e.Status = answer.HTTPStatusCode()
	if after, err := strconv.Atoi(answer.Response.Header.Get("Retry-After")); err == nil && after > 0 {
		e.RetryAfter = time.Duration(min(after, 60)) * time.Second
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		e.Code = api.ErrorCode()
		e.Err = errors.New(api.ErrorMessage())
	}
	e.Class = class(op, e.Status, e.Code)
	return e
}

// withoutAnswer cuts the SDK's words around what went wrong on the network.
func withoutAnswer(attempt context.Context, err error) error {
	if errors.Is(context.Cause(attempt), errTimeout) {
		return errTimeout
	}
	if errors.Is(err, errNoCredentials) {
		return errNoCredentials
	}
	if request, ok := errors.AsType[*url.Error](err); ok {
		return request.Err
	}
	return err
}

// class judges an answer by its status and S3's code. Success is no case of it:
// a body that ended early has status 200 and an unknown outcome.
func class(op string, status int, code string) Class {
	switch code {
	case "SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests":
		return Slow
	case "BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody":
		return Damaged
	case "RequestTimeout": // a 400: the body came too slowly
		return Unknown
	case "NoSuchBucket", "XAdminUserNotFound", // 404 both
		"ObjectParentIsFile", "ExistingObjectIsDirectory": // 409, of servers on file systems
		return Refused
	}
	switch {
	case status == http.StatusServiceUnavailable, status == http.StatusTooManyRequests:
		return Slow
	case status == http.StatusPreconditionFailed:
		return Precondition
	case status == http.StatusNotFound && code == "NoSuchKey", status == http.StatusNotFound && op == opHead && code == "NotFound":
		if op == opPutIfMatch { // of the object that was to be replaced: look again
			return Unknown
		}
		return NotFound
	case status == http.StatusNotFound, status == http.StatusConflict, status == http.StatusRequestTimeout:
		return Unknown // 409 ConditionalRequestConflict is AWS' way to say: look again
	case status == http.StatusNotImplemented, status >= 300 && status < 500:
		return Refused
	default:
		return Unknown
	}
}

func asError(err error) (*Error, bool) { return errors.AsType[*Error](err) }
