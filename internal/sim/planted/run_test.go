package planted

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var started = time.Now()

func timeIsUp() bool { return *budget > 0 && time.Since(started) > *budget }

// outcome is what became of a bug.
type outcome struct {
	Name   string `json:"name"`
	Breaks string `json:"breaks"`
	Caught bool   `json:"caught"`
	Seeds  int    `json:"seeds"` // needed, or tried in vain
	As     string `json:"as"`    // what the world said

	died bool // the process, before it could say how many worlds it took
}

func (o outcome) String() string {
	if !o.Caught {
		return fmt.Sprintf("NOT FOUND in %d: %s", o.Seeds, o.Name)
	}
	return fmt.Sprintf("%5d  %s: %s", o.Seeds, o.Name, o.As)
}

// row is the outcome in the table of docs/reliability.md.
func (o outcome) row() string {
	seeds := strconv.Itoa(o.Seeds)
	if !o.Caught {
		seeds = "not found"
	}
	return fmt.Sprintf("| %s | %s | %s | %s |", o.Name, o.Breaks, brief(o.As), seeds)
}

// brief leaves out what differs from seed to seed, and what a table cannot hold.
func brief(message string) string {
	message, _, _ = strings.Cut(message, " ({\"sct_version")
	message = regexp.MustCompile(`\b[0-9a-f]{16,}\b`).ReplaceAllString(message, "…")
	message = strings.NewReplacer("|", "/", "<", "", ">", "").Replace(message)
	if runes := []rune(message); len(runes) > 110 {
		cut := strings.LastIndex(string(runes[:107]), " ")
		message = string(runes[:107])[:max(cut, 60)] + " …"
	}
	return message
}

// id names a bug by all that it changes, so that results are not taken for those
// of another text.
func (b bug) id() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", b))
	return hex.EncodeToString(sum[:16])
}

func readResults(path string) (map[string]outcome, error) {
	known := map[string]outcome{}
	if path == "" {
		return known, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return known, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &known)
	}
	return known, err
}

func writeResults(path string, known map[string]outcome) error {
	if path == "" {
		return nil
	}
	data, err := json.MarshalIndent(known, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

// run compiles the simulation with a bug in it and runs worlds until one finds
// it. What is compiled runs on one processor, so that the number of seeds is the
// same each time.
func run(dir string, b bug, seeds int) (outcome, error) {
	binary, err := compile(dir, b)
	if err != nil {
		return outcome{}, err
	}
	o, err := try(dir, binary, seeds)
	if err == nil && o.died {
		// It took the count of worlds with it.
		least, most := 1, seeds
		for least < most && err == nil {
			var half outcome
			if half, err = try(dir, binary, (least+most)/2); half.died {
				most = (least + most) / 2
			} else {
				least = (least+most)/2 + 1
			}
		}
		o.Seeds = least
	}
	o.Name, o.Breaks = b.name, b.breaks
	return o, err
}

// try runs so many worlds.
func try(dir, binary string, seeds int) (o outcome, err error) {
	home, err := filepath.Abs(filepath.Join(root, "internal", "sim"))
	if err != nil {
		return o, err
	}
	cmd := exec.Command(binary, "-test.run=^TestSim$", "-test.timeout=20m", "-sim.seed=1", "-sim.seeds="+strconv.Itoa(seeds))
	cmd.Dir = home
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "TMPDIR="+dir)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		return o, err
	}
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		w.Close()
	}()
	last := o.read(r)
	if o.Caught {
		_ = cmd.Process.Kill() // what a bug has left may not end by itself
	}
	_, _ = io.Copy(io.Discard, r)
	err = <-ended
	switch {
	case o.Caught:
		return o, nil
	case err == nil:
		o.Seeds = seeds
		return o, nil
	}
	return o, fmt.Errorf("the worlds ended without a word: %w\n%s", err, last)
}

// failure is how TestSim tells of a world that has broken a promise.
var failure = regexp.MustCompile(`^FAIL seed=\d+ after (\d+) seeds: step \d+: (.*)`)

// firstWorld is how it tells that the logs which all worlds begin with could not
// be made: that is a world like others, without faults.
var firstWorld = regexp.MustCompile(`^\s+base_test\.go:\d+: (.*)`)

// read reads until it is clear how it ends, and returns the first lines for the
// case that it is not.
func (o *outcome) read(r io.Reader) (first string) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if m := failure.FindStringSubmatch(line); m != nil {
			o.Caught, o.As = true, m[2]
			seeds, _ := strconv.Atoi(m[1])
			o.Seeds = max(1, seeds) // 0: while the logs are made that the worlds begin with
			return first
		}
		if m := firstWorld.FindStringSubmatch(line); m != nil {
			o.Caught, o.As, o.Seeds = true, m[1], 1
			return first
		}
		if strings.HasPrefix(line, "panic: ") {
			o.Caught, o.died, o.As = true, true, "the process dies: "+line
			return first
		}
		if len(first) < 2000 {
			first += line + "\n"
		}
	}
	return first
}

// compile builds the simulation's tests with the bug, by an overlay.
func compile(dir string, b bug) (string, error) {
	files, err := b.patched()
	if err != nil {
		return "", err
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for path, text := range files {
		real, err := filepath.Abs(filepath.Join(root, filepath.FromSlash(path)))
		if err != nil {
			return "", err
		}
		copied := filepath.Join(dir, strings.ReplaceAll(path, "/", "-"))
		if err := os.WriteFile(copied, []byte(text), 0o644); err != nil {
			return "", err
		}
		overlay.Replace[real] = copied
	}
	data, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	list, binary := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "sim.test")
	if err := os.WriteFile(list, data, 0o644); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "test", "-c", "-ldflags=-s -w", "-overlay", list, "-o", binary, "./internal/sim")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile: %w\n%s", err, bytes.TrimSpace(out))
	}
	return binary, nil
}
