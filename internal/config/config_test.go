package config

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTemplateParses(t *testing.T) {
	t.Parallel()
	data := Template(time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC))
	if os.Getenv("SHOW") != "" {
		fmt.Println(string(data))
	}
	c, err := Parse("template", data, "/")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Logs[0].Origin, "127.0.0.1:6962/example2026h2"; got != want {
		t.Errorf("origin is %q, want %q", got, want)
	}
	if d := cmp.Diff(NewLog("example2026h2", "http://127.0.0.1:6962/example2026h2/", "/",
		time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC), time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)), c.Logs[0]); d != "" {
		t.Error(d)
	}
	// Every option that is shown as a comment is one that exists.
	open := strings.NewReplacer("# series", "series", "# period", "period", "# batchers", "batchers", "# max_", "max_",
		"# read_", "read_", "# require", "require", "# names_tiles", "names_tiles", "# grease", "grease",
		"# insecure", "insecure", "# logging", "logging").Replace(string(data))
	if d, err := Parse("opened", []byte(open), "/"); err != nil {
		t.Error(err)
	} else if diff := cmp.Diff(c.Logs, d.Logs); diff != "" {
		t.Errorf("a default is shown with another value:\n%s", diff)
	}
}
