package s3client_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"kiln/internal/fuzztest"
	"kiln/internal/s3client"
)

// FuzzAnswer gives the client any answer. Whatever it is, only what S3 says is
// believed: success needs a 2xx, and "no such object" and "precondition failed"
// need their status.
func FuzzAnswer(f *testing.F) {
	for _, body := range []string{"", errorBody("NoSuchKey"), errorBody("SlowDown"), "<html>", "<Error>", "\xff", "<Error><Code>NoSuchKey</Code></Error"} {
		for _, status := range []int{200, 204, 301, 400, 404, 409, 412, 500, 503} {
			f.Add(status, body, "1", `"900150983cd24fb0d6963f7d28e17f72"`)
		}
	}
	f.Add(500, "<Error><Code>a\nb</Code><Message>\x1b[31m\n"+strings.Repeat("x", 5000)+"</Message></Error>", "", "")
	f.Fuzz(func(t *testing.T, status int, body, retryAfter, etag string) {
		if status < 200 || status > 599 {
			return
		}
		for op, do := range operations {
			// One each: a request to slow down would hold the next one back.
			err := do(t.Context(), clientOf(t, func(r *http.Request) (*http.Response, error) {
				return response(r, status, body, "Retry-After", retryAfter, "ETag", etag), nil
			}))
			if err != nil {
				fuzztest.Sentence(t, err, "key")
			}
			switch {
			case err == nil && status >= 300 && !(op == "delete" && status == http.StatusNotFound):
				t.Errorf("%s: a success of status %d", op, status)
			case errors.Is(err, s3client.ErrNotFound) && status != http.StatusNotFound,
				errors.Is(err, s3client.ErrPrecondition) && status != http.StatusPreconditionFailed:
				t.Errorf("%s: status %d is taken for %v", op, status, err)
			}
		}
	})
}
