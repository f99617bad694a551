package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// step is one thing that a guide tells its reader to do: to run a command, or
// to write a file.
type step struct {
	line       int    // where it begins in the guide, from 1
	heading    string // the heading it stands under
	file       string // write text there; empty if text is a command
	text       string // of a command, all its lines, as printed
	status     int    // that the command ends with
	background bool   // it goes on while the reader does
	interrupt  bool   // the reader ends it with Ctrl-C
	says       string // what it prints before the reader goes on, or ends it
}

var (
	headingLine = regexp.MustCompile(`^#+ (.*)$`)
	fenceLine   = regexp.MustCompile("^(\\s*)```(.*)$")
	fileLine    = regexp.MustCompile("`([A-Za-z0-9._/-]+)`:$")

	comment       = regexp.MustCompile(`(?:^|\s)# ?(.*)$`)
	statusComment = regexp.MustCompile(`\bstatus ([0-9]+)\b`)
	saysComment   = regexp.MustCompile(`\bonce it says "([^"]+)"`)
	ctrlComment   = regexp.MustCompile(`^Ctrl-C\b`)
	indentedCode  = regexp.MustCompile(`^(?:    |\t)\s*(?:\$ |kiln )`)
)

// readGuide returns what a guide tells its reader to do, in order. A block
// fenced as sh holds commands, one a line or with \ at the end of each line but
// the last. Comments behind them say what a reader has to know: "status N" with
// which they end, if not 0; `once it says "TEXT"` when to go on, of one that
// goes on beside; "Ctrl-C" at the begin, of one that goes on until then. A block
// fenced otherwise is a file, named in code and with a colon at the end of the
// line above it; or shows something, fenced as text.
func readGuide(text string) (steps []step, err error) {
	lines := strings.Split(text, "\n")
	heading, file := "", ""
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		fence := fenceLine.FindStringSubmatch(line)
		if fence == nil {
			if m := headingLine.FindStringSubmatch(line); m != nil {
				heading = m[1]
			}
			if indentedCode.MatchString(line) {
				return nil, fmt.Errorf("line %d: an indented command, which is not run: fence it", i+1)
			}
			if strings.TrimSpace(line) != "" {
				file = ""
				if m := fileLine.FindStringSubmatch(line); m != nil {
					file = m[1]
				}
			}
			continue
		}
		begin := i + 1
		for i++; i < len(lines) && lines[i] != "```"; i++ {
		}
		switch block, lang := lines[begin:min(i, len(lines))], fence[2]; {
		case i >= len(lines):
			return nil, fmt.Errorf("line %d: a fence without end", begin)
		case fence[1] != "":
			return nil, fmt.Errorf("line %d: an indented fence", begin)
		case lang == "sh":
			commands, err := readCommands(block, begin+1)
			if err != nil {
				return nil, err
			}
			for _, c := range commands {
				c.heading = heading
				steps = append(steps, c)
			}
		case file != "":
			steps = append(steps, step{line: begin + 1, heading: heading, file: file, text: strings.Join(block, "\n") + "\n"})
		case lang != "text":
			return nil, fmt.Errorf("line %d: a block of %q that is neither commands nor a file with a name", begin, lang)
		}
		file = ""
	}
	return steps, nil
}

// readCommands reads a block of commands, whose first line is at number.
func readCommands(block []string, number int) (steps []step, err error) {
	for i := 0; i < len(block); i++ {
		if line := strings.TrimSpace(block[i]); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		s := step{line: number + i, text: block[i]}
		for strings.HasSuffix(s.text, `\`) && i+1 < len(block) {
			i++
			s.text += "\n" + block[i]
		}
		if err := s.readComment(); err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", s.line, s.text, err)
		}
		steps = append(steps, s)
	}
	if len(steps) == 0 {
		return nil, fmt.Errorf("line %d: a block without commands", number)
	}
	return steps, nil
}

// readComment reads what the comment behind a command tells the reader.
func (s *step) readComment() error {
	command, told := s.text, ""
	if m := comment.FindStringSubmatchIndex(s.text); m != nil {
		command, told = s.text[:m[0]], s.text[m[2]:m[3]]
	}
	command = strings.TrimSpace(command)
	s.background = strings.HasSuffix(command, "&") && !strings.HasSuffix(command, "&&")
	s.interrupt = ctrlComment.MatchString(told)
	if m := saysComment.FindStringSubmatch(told); m != nil {
		s.says = m[1]
	}
	if m := statusComment.FindStringSubmatch(told); m != nil {
		var err error
		if s.status, err = strconv.Atoi(m[1]); err != nil {
			return err
		}
	}
	switch goesOn := s.background || s.interrupt; {
	case s.says != "" && !goesOn:
		return fmt.Errorf("what it says is waited for, but it neither ends in & nor with Ctrl-C")
	case s.says == "" && goesOn && strings.HasPrefix(command, "kiln "):
		return fmt.Errorf("it is not said when to go on: once it says \"...\"")
	}
	return nil
}

// readOperating returns the steps of docs/operating.md.
func readOperating(t *testing.T) []step {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "operating.md"))
	if err != nil {
		t.Fatal(err)
	}
	steps, err := readGuide(string(data))
	if err != nil {
		t.Fatalf("docs/operating.md: %v", err)
	}
	// Nothing is left out: counted by another road.
	want, got := 0, 0
	for _, block := range regexp.MustCompile("(?ms)^```sh$.*?^```$").FindAllString(string(data), -1) {
		want += len(regexp.MustCompile(`(?m)^[^#\x60\n]`).FindAllString(block, -1))
	}
	for _, s := range steps {
		if s.file == "" {
			got += 1 + strings.Count(s.text, "\n")
		}
	}
	if want != got || want == 0 {
		t.Fatalf("docs/operating.md has %d lines of commands, of which %d would be run", want, got)
	}
	return steps
}

// TestReadGuide reads small guides: all commands are found, and a guide with
// something that would not be run is refused.
func TestReadGuide(t *testing.T) {
	t.Parallel()
	const fence = "```"
	steps, err := readGuide("# Top\n\n" + fence + "sh\nkiln a   # what it is\n\n# only a comment\nkiln b \\\n  --c\n" + fence + "\n\n## Next\n\nWrite it to `x/y.yaml`:\n\n" +
		fence + "yaml\nk: v\n" + fence + "\n" + fence + "text\nas it looks\n" + fence + "\n" + fence + "sh\nkiln serve & # go on once it says \"serving on\"\nkiln dev # Ctrl-C, once it says \"now\"\n" +
		"kiln d # refused with status 1\nkill %kiln && wait\n" + fence + "\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []step{
		{line: 4, heading: "Top", text: "kiln a   # what it is"},
		{line: 7, heading: "Top", text: "kiln b \\\n  --c"},
		{line: 16, heading: "Next", file: "x/y.yaml", text: "k: v\n"},
		{line: 22, heading: "Next", text: `kiln serve & # go on once it says "serving on"`, background: true, says: "serving on"},
		{line: 23, heading: "Next", text: `kiln dev # Ctrl-C, once it says "now"`, interrupt: true, says: "now"},
		{line: 24, heading: "Next", text: "kiln d # refused with status 1", status: 1},
		{line: 25, heading: "Next", text: "kill %kiln && wait"},
	}
	if len(steps) != len(want) {
		t.Fatalf("%d steps, want %d: %+v", len(steps), len(want), steps)
	}
	for i, s := range steps {
		if s != want[i] {
			t.Errorf("step %d is %+v, want %+v", i, s, want[i])
		}
	}
	for name, text := range map[string]string{
		"an indented command":     "Type\n\n    kiln check\n",
		"a command after $":       "Type\n\n    $ make\n",
		"an indented fence":       "- one\n  " + fence + "sh\n  kiln check\n  " + fence + "\n" + fence + "\n",
		"no end":                  fence + "sh\nkiln check\n",
		"another language":        fence + "bash\nkiln check\n" + fence + "\n",
		"no language":             fence + "\nkiln check\n" + fence + "\n",
		"a file without a name":   "Write:\n\n" + fence + "yaml\na: b\n" + fence + "\n",
		"a name too far above":    "`a.yaml`:\n\nText.\n\n" + fence + "yaml\na: b\n" + fence + "\n",
		"no commands":             fence + "sh\n# nothing\n" + fence + "\n",
		"serves, and no word":     fence + "sh\nkiln serve &\n" + fence + "\n",
		"Ctrl-C, and no word":     fence + "sh\nkiln dev # Ctrl-C ends it\n" + fence + "\n",
		"a word, but does not go": fence + "sh\nkiln check # once it says \"no faults\"\n" + fence + "\n",
	} {
		if steps, err := readGuide(text); err == nil {
			t.Errorf("%s: taken as %+v", name, steps)
		}
	}
}
