package daemon

import (
	"bytes"
	"html/template"
	"net/http"
	"strconv"
)

// indexPage lists the logs of the process at "/", where no log is.
const indexPage = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Certificate Transparency logs</title></head>
<body><h1>Certificate Transparency logs</h1>
<ul>{{range .}}
<li><a href="{{.MonitoringURL}}">{{.Name}}</a>: NotAfter from {{.NotAfterStart.Format "2006-01-02T15:04:05Z07:00"}} to just before {{.NotAfterLimit.Format "2006-01-02T15:04:05Z07:00"}}</li>{{end}}
</ul>
</body></html>
`

// newIndex serves the page with the logs that there are at the moment.
func newIndex(logs func() []LogInfo) (http.Handler, error) {
	t, err := template.New("index").Parse(indexPage)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			plainError(w, http.StatusMethodNotAllowed, "the page is read by GET or HEAD")
			return
		}
		var page bytes.Buffer
		if err := t.Execute(&page, logs()); err != nil {
			plainError(w, http.StatusInternalServerError, "the page cannot be made")
			return
		}
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Length", strconv.Itoa(page.Len()))
		h.Set("Content-Security-Policy", "default-src 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Cache-Control", "public, max-age=60")
		_, _ = w.Write(page.Bytes()) // net/http drops the body of HEAD
	}), nil
}
