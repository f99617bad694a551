package restore

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/internal/config"
	"kiln/internal/daemon"
)

// FuzzMark reads any bytes as the mark of an earlier run: it counts only for the
// same log on the same storage, and never says more than its tree has.
func FuzzMark(f *testing.F) {
	sound, err := json.Marshal(mark{Origin: "log.example/a", Storage: "/s", TreeSize: 10, Verified: 7, RootHash: tlog.Hash{1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sound)
	f.Add([]byte(strings.Replace(string(sound), ":7", ":11", 1)))
	f.Add([]byte(strings.Replace(string(sound), ":10", ":-1", 1)))
	f.Add([]byte(strings.Replace(string(sound), "/s", "/other", 1)))
	f.Add([]byte(`{"origin":"log.example/a","storage":"/s","tree_size":10,"verified":-5}`))
	f.Add([]byte(`null`))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		dedup := filepath.Join(t.TempDir(), "dedup.db")
		l := &Log{parts: &daemon.Parts{Conf: config.Log{Origin: "log.example/a", Storage: "/s", Dedup: dedup}}}
		l.head.Tree.N = 20
		if err := os.WriteFile(l.markPath(), data, 0o600); err != nil {
			t.Fatal(err)
		}
		m := l.readMark()
		if m == (mark{}) {
			return
		}
		if m.Origin != "log.example/a" || m.Storage != "/s" || m.TreeSize < 0 || m.TreeSize > 20 || m.Verified < 0 || m.Verified > m.TreeSize {
			t.Fatalf("%s counts as %+v", data, m)
		}
	})
}

// FuzzFaultKey reads any key of a fault as that of a log: it is of another log
// only if it names one that is not restored.
func FuzzFaultKey(f *testing.F) {
	for _, s := range []string{"logs[0].key_file", "logs[1].key_file", "logs[2].x", "logs[-1].x", "logs[0]x.y", "series[0].shards.2026h1.lock", "tls.key_file", "", ".", "logs[99999999999999999999].x"} {
		f.Add(s)
	}
	p := &Plan{cfg: &config.Config{Logs: []config.Log{{Name: "a"}, {Name: "b"}}}, opts: Options{Names: []string{"a"}}}
	f.Fuzz(func(t *testing.T, key string) {
		section, last := splitKey(key)
		if section+"."+last != key && last != key {
			t.Fatalf("%q is divided into %q and %q", key, section, last)
		}
		if p.ofOtherLog(section) && !strings.HasPrefix(section, "logs[") {
			t.Fatalf("%q is of another log", key)
		}
	})
}
