package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"kiln/internal/fsck"
	"kiln/internal/s3client"
	"kiln/storage/s3"
)

// fsckFlags are the flags of kiln fsck.
type fsckFlags struct {
	publicKey, origin, state, contact string
	endpoint, region, caFile          string
	pathStyle                         bool
	onlyNew, signatures, json         bool
	parallel                          int
	timeout, stall                    time.Duration
}

func fsckCommand() command {
	return command{
		name: "fsck", args: "URL|DIR|s3://BUCKET/PREFIX [flags]",
		summary: "check a whole static-ct log, ours or a stranger's",
		about: "Checks a log at its monitoring URL, in a directory or in S3-compatible storage: the checkpoint's signature, hashes every entry anew, and compares all hash tiles, issuers, leaf indexes, " +
			"timestamps, names tiles, partial tiles and (of a URL) headers with what they have to be. It only reads and takes no " +
			"lock, so it may look at a running log. Key and origin are taken from the log's log.v3.json unless they are given. " +
			"Of S3 the credentials come from where AWS' tools look for them, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. " +
			"With --state it remembers the checkpoint, says if a later one contradicts it, and continues where an interrupted run " +
			"ended. The status is 0 if nothing is wrong, and 1 on the first fault, which is told with path, index and what was " +
			"wanted; it is 1 as well if something could not be checked, and then the message says so. Notes are no faults.",
		examples: []string{
			"kiln fsck https://ct.example.net/2026h2/ --public-key log.pub --state fsck.json",
			"kiln fsck /var/lib/kiln/2026h2 --public-key log.pub --origin ct.example.net/2026h2",
			"kiln fsck s3://ct-logs/2026h2 --endpoint https://s3.example.net",
			"kiln fsck https://ct.example.net/2026h2/ --json",
		},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			var f fsckFlags
			fs.StringVar(&f.publicKey, "public-key", "", "the log's public key: a `file` with PEM, DER or base64 of it")
			fs.StringVar(&f.origin, "origin", "", "the `name` in the log's checkpoints: its submission URL without scheme and last slash")
			fs.StringVar(&f.state, "state", "", "a `file` that remembers the newest checkpoint and how far the check has come")
			fs.BoolVar(&f.onlyNew, "only-new", false, "with --state, check only what was added since the last run that ended well")
			fs.BoolVar(&f.signatures, "signatures", false, "also verify the signature of every certificate by its issuer, which takes much longer")
			fs.IntVar(&f.parallel, "parallel", fsck.DefaultParallel, "check this `number` of tiles at a time")
			fs.DurationVar(&f.timeout, "timeout", fsck.DefaultTimeout, "`time` for an answer, and for each piece of it")
			fs.DurationVar(&f.stall, "stall", fsck.DefaultStall, "end if nothing could be read for this `time`")
			fs.StringVar(&f.contact, "contact", "", "e-mail or web `address` that is told to the log's operator in the User-Agent")
			fs.StringVar(&f.endpoint, "endpoint", "", "of s3://: the `url` of a server other than AWS; else AWS_ENDPOINT_URL")
			fs.StringVar(&f.region, "region", "", "of s3://: the `name` of the region; else AWS_REGION")
			fs.BoolVar(&f.pathStyle, "path-style", true, "of s3:// with --endpoint: name the bucket in the path rather than in the host")
			fs.StringVar(&f.caFile, "ca-file", "", "of s3://: a `file` with the PEM of whom to trust instead of the system's roots")
			fs.BoolVar(&f.json, "json", false, "write the report as JSON")
			return func(ctx context.Context, e *env, args []string) error { return f.run(ctx, e, args) }
		},
	}
}

func (f *fsckFlags) run(ctx context.Context, e *env, args []string) error {
	switch {
	case len(args) != 1:
		return misuse("fsck", "want the URL, directory or s3:// prefix of one log, got %d arguments", len(args))
	case f.parallel < 1 || f.parallel > 1024:
		return misuse("fsck", "--parallel %d is not from 1 to 1024", f.parallel)
	case f.timeout <= 0 || f.stall <= 0:
		return misuse("fsck", "--timeout and --stall want a time above 0")
	case f.onlyNew && f.state == "":
		return misuse("fsck", "--only-new goes with --state")
	}
	opts := fsck.Options{
		Origin: f.origin, State: f.state, OnlyNew: f.onlyNew, Signatures: f.signatures,
		Parallel: f.parallel, Timeout: f.timeout, Stall: f.stall, Now: e.now,
	}
	var err error
	if opts.SPKI, err = readPublicKey(f.publicKey); err != nil {
		return err
	}
	source, closer, err := f.open(ctx, args[0])
	if err != nil {
		return err
	}
	defer closer.Close()
	in := followInterrupts(ctx)
	defer in.close()
	bars := &stages{e: e}
	opts.Progress = bars.set
	report, err := fsck.Run(in.ctx, source, opts)
	bars.end()
	if err != nil && in.ctx.Err() != nil && ctx.Err() == nil {
		err = errors.New("interrupted" + f.continued())
	}
	return f.print(e, report, err)
}

// open opens what is to be checked.
func (f *fsckFlags) open(ctx context.Context, name string) (fsck.Source, io.Closer, error) {
	scheme, rest, isURL := strings.Cut(name, "://")
	switch {
	case !isURL:
		d, err := fsck.OpenDirectory(name)
		if err != nil {
			return nil, nil, err
		}
		return d, d, nil
	case scheme == "http" || scheme == "https":
		u, err := fsck.OpenURL(name, agentOf("fsck", f.contact), f.parallel)
		if err != nil {
			return nil, nil, misuse("fsck", "%v", err)
		}
		return u, u, nil
	case scheme == "s3":
		return f.openS3(ctx, rest)
	}
	return nil, nil, misuse("fsck", "%q: logs are read from http://, https://, s3:// or a directory", name)
}

// readPublicKey reads the key of a log from a file, DER; nil without a file.
func readPublicKey(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	spki, err := fsck.ParsePublicKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return spki, nil
}

// agentOf is the User-Agent of a command that reads logs.
func agentOf(command, contact string) string {
	agent := "kiln-" + command + "/" + strings.Fields(version())[0]
	if contact != "" {
		agent += " (" + contact + ")"
	}
	return agent
}

// openS3 opens BUCKET/PREFIX, for reading.
func (f *fsckFlags) openS3(ctx context.Context, place string) (fsck.Source, io.Closer, error) {
	endpoint := cmp.Or(f.endpoint, os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL"))
	client, err := s3client.New(ctx, s3client.Config{
		Endpoint: endpoint, Region: cmp.Or(f.region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION")),
		PathStyle: endpoint != "" && f.pathStyle, CAFile: f.caFile,
		Parallel: f.parallel, Timeout: f.timeout,
	})
	if err != nil {
		return nil, nil, err
	}
	bucket, prefix, _ := strings.Cut(strings.TrimRight(place, "/"), "/")
	b, err := s3.Open(ctx, s3.Config{Client: client, Bucket: bucket, Prefix: prefix})
	if err != nil {
		client.Close()
		return nil, nil, misuse("fsck", "%v", err)
	}
	return fsck.Bucket(b, "s3://"+bucket+"/"+prefix), closer(func() error {
		err := b.Close()
		client.Close()
		return err
	}), nil
}

// closer is an [io.Closer].
type closer func() error

// Close implements [io.Closer].
func (c closer) Close() error { return c() }

// continued says how to go on after a run that was cut off.
func (f *fsckFlags) continued() string {
	if f.state == "" {
		return "; with --state FILE a run can be continued"
	}
	return "; run the same again to continue"
}

// fsckResult is what --json writes.
type fsckResult struct {
	Result string       `json:"result"` // ok, fault or unknown
	Fault  *fsckFault   `json:"fault,omitempty"`
	Error  string       `json:"error,omitempty"` // why the check did not come to its end
	Report *fsck.Report `json:"report"`
}

type fsckFault struct {
	Path   string `json:"path"`
	Index  int64  `json:"index"` // -1 if it concerns no entry
	Got    string `json:"got,omitempty"`
	Want   string `json:"want,omitempty"`
	Detail string `json:"detail"`
}

func (f *fsckFlags) print(e *env, r *fsck.Report, err error) error {
	var fault *fsck.Fault
	isFault := errors.As(err, &fault)
	if f.json {
		res := fsckResult{Result: "ok", Report: r}
		switch {
		case isFault:
			res.Result = "fault"
			res.Fault = &fsckFault{fault.Path, fault.Index, fault.Got, fault.Want, fault.Detail}
		case err != nil:
			res.Result, res.Error = "unknown", err.Error()
		}
		if jerr := writeJSON(e, res); jerr != nil {
			return jerr
		}
		if err != nil {
			return errReported
		}
		return nil
	}
	for _, n := range r.Notes {
		fmt.Fprintf(e.stderr, "note: %s (%s, first at %s)\n", n.What, times(n.Count), n.First)
	}
	switch {
	case isFault:
		return fmt.Errorf("fault: %w", err)
	case err != nil:
		return err
	}
	e.printf("%s: size %d, root %s, of %s\n", r.Origin, r.TreeSize, r.RootHash, r.Timestamp.Format(time.RFC3339Nano))
	if r.SinceSize > 0 {
		e.printf("consistent with the remembered checkpoint of size %d\n", r.SinceSize)
	}
	if r.ResumedAt > 0 {
		e.printf("entries below %d were checked before\n", r.ResumedAt)
	}
	e.printf("no faults in %d entries, %s, %s, %s, %s, %s\n", r.Entries, count(int(r.DataTiles), "data tile"),
		count(int(r.HashTiles), "hash tile"), count(int(r.NamesTiles), "names tile"), count(int(r.Issuers), "issuer"), count(int(r.Partials), "older partial tile"))
	return nil
}

func times(n int64) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// stages shows the stages of a piece of work one after the other.
type stages struct {
	e    *env
	what string
	bar  *progress
}

func (s *stages) set(what string, done, total int64) {
	if what != s.what {
		s.end()
		s.what, s.bar = what, s.e.progress(what)
	}
	s.bar.set(done, total)
}

func (s *stages) end() {
	if s.bar != nil {
		s.bar.end()
	}
}
