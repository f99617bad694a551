package restore

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"kiln/internal/config"
)

// Remedies for files that are not there, by the last word of their key.
var remedies = map[string]string{
	"key_file":         "bring back the key of the log from its copy: no other one can continue it",
	"secret_file":      "bring back the secret from its copy: no other one gives the keys of these logs",
	"credentials_file": "write it again, with a key pair that may read and write the storage",
	"password_file":    "write it again, with the password of the user",
	"lock":             "bring back the newest copy of the lock; never make a new one for a log that has entries",
	"storage":          "correct the path, or bring back the storage from a copy or a mirror",
	"extra_file":       "bring it back, or take it out of the configuration: what it lists would not be accepted",
	"refused_file":     "bring it back: without it roots may be accepted that were refused",
}

// checkFiles looks at the files that the configuration names, but for those that
// restore brings back and those whose absence says something of a log. What is
// wrong with the others is returned, all at once, with the absences.
func (p *Plan) checkFiles() error {
	_, err := config.Load(p.cfg.Path, p.opts.Now())
	var all config.Faults
	if err != nil && !errors.As(err, &all) {
		return err
	}
	var hard, soft config.Faults
	for _, f := range all {
		section, key := splitKey(f.Key)
		absent := strings.HasSuffix(f.What, " does not exist")
		if absent && remedies[key] != "" {
			f.Want = remedies[key]
		}
		switch {
		case p.ofOtherLog(section):
		case absent && key == "roots_file":
		case absent && (key == "key_file" && section != "tls" && section != "etcd" || key == "lock" || key == "storage"):
			soft = append(soft, f)
		case (section == "tls" || section == "roots") && !p.opts.Serve:
			p.Notes = append(p.Notes, "before it can be served: "+f.Error())
		default:
			hard = append(hard, f)
		}
	}
	if len(hard) == 0 {
		return nil
	}
	hard = append(hard, soft...)
	slices.SortStableFunc(hard, func(a, b config.Fault) int { return cmp.Compare(a.Line, b.Line) })
	return hard
}

// splitKey divides a key such as logs[0].key_file at its last dot.
func splitKey(key string) (section, last string) {
	i := strings.LastIndexByte(key, '.')
	if i < 0 {
		return "", key
	}
	return key[:i], key[i+1:]
}

// ofOtherLog reports whether a section is that of a log that is not restored.
func (p *Plan) ofOtherLog(section string) bool {
	var i int
	if n, err := fmt.Sscanf(section, "logs[%d]", &i); err != nil || n != 1 || i < 0 || i >= len(p.cfg.Logs) {
		return false
	}
	return !p.chosen(p.cfg.Logs[i].Name)
}
