package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/internal/shards"
)

// shardJSON is a log in the output of shards list and plan.
type shardJSON struct {
	Name          string     `json:"name"`
	Series        string     `json:"series,omitempty"`
	Shard         string     `json:"shard,omitempty"`
	State         string     `json:"state"`
	NotAfterStart time.Time  `json:"not_after_start"`
	NotAfterLimit time.Time  `json:"not_after_limit"`
	TreeSize      *int64     `json:"tree_size"`              // null: not known
	Signed        *time.Time `json:"checkpoint_timestamp"`   // of the checkpoint
	Age           *float64   `json:"checkpoint_age_seconds"` // null: there is none, or it is final
	LogID         []byte     `json:"log_id"`                 // null: there is no key yet
	SubmissionURL string     `json:"submission_url"`         //
	MonitoringURL string     `json:"monitoring_url"`         //
	Storage       string     `json:"storage"`                //
	Lock          string     `json:"lock"`                   //
	FrozenAt      *time.Time `json:"frozen_at,omitempty"`    //
	RetiredAt     *time.Time `json:"retired_at,omitempty"`   //
	Problem       string     `json:"problem,omitempty"`      // of a broken one
	Create        *bool      `json:"would_create,omitempty"` // of plan
}

func newShardJSON(s shards.Shard, now time.Time) shardJSON {
	c := s.Conf
	j := shardJSON{
		Name: c.Name, Shard: c.Shard, State: string(s.State), NotAfterStart: c.NotAfterStart.UTC(), NotAfterLimit: c.NotAfterLimit.UTC(), LogID: s.LogID,
		SubmissionURL: c.SubmissionURL, MonitoringURL: c.MonitoringURL, Storage: c.Storage, Lock: c.Lock,
	}
	if c.FromSeries {
		j.Series = c.Series
	}
	if s.Head != nil {
		signed := time.UnixMilli(s.Head.TimestampMillis).UTC()
		j.TreeSize, j.Signed = &s.Head.Tree.N, &signed
		if s.Marks.Final == nil {
			age := now.Sub(signed).Seconds()
			j.Age = &age
		}
	}
	if s.Marks.Frozen != nil {
		j.FrozenAt = &s.Marks.Frozen.At
	}
	if s.Marks.Retired != nil {
		j.RetiredAt = &s.Marks.Retired.At
	}
	if s.State == shards.Broken {
		j.Problem = s.Err.Error()
	}
	return j
}

func printShards(e *env, list []shards.Shard, asJSON bool) error {
	broken := tellBroken(e, list)
	if asJSON {
		out := make([]shardJSON, 0, len(list))
		for _, s := range list {
			out = append(out, newShardJSON(s, e.now()))
		}
		if err := writeJSON(e, out); err != nil {
			return err
		}
		return broken
	}
	tw := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SHARD\tNOTAFTER\tSTATE\tENTRIES\tCHECKPOINT\tLOG ID\tSUBMISSION URL\tSTORAGE")
	for _, s := range list {
		size, age := "-", "-"
		if s.Head != nil {
			size = fmt.Sprint(s.Head.Tree.N)
			age = ageText(e.now().Sub(time.UnixMilli(s.Head.TimestampMillis)))
		}
		if s.Marks.Final != nil {
			age = "final"
		}
		id := "-"
		if s.LogID != nil {
			id = logIDText(s.LogID)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Conf.Name, windowOf(s.Conf), s.State, size, age, id, s.Conf.SubmissionURL, s.Conf.Storage)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	return broken
}

// tellBroken says what is wrong with broken logs, and is an error if there are any.
func tellBroken(e *env, list []shards.Shard) (err error) {
	for _, s := range list {
		if s.State == shards.Broken {
			fmt.Fprintf(e.stderr, "kiln: %s is broken: %v\n", s.Conf.Name, s.Err)
			err = errReported
		}
	}
	return err
}

// ageText writes an age in two units at most.
func ageText(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "in " + ageText(-d)
	case d < time.Hour:
		return d.Truncate(time.Second).String()
	case d < day:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
}

func printPlans(e *env, plans []shards.Plan, asJSON bool) error {
	var all []shards.Shard
	for _, p := range plans {
		for _, s := range p.Shards {
			all = append(all, s.Shard)
		}
	}
	broken := tellBroken(e, all)
	if asJSON {
		if err := writeJSON(e, plansJSON(plans, e.now())); err != nil {
			return err
		}
		return broken
	}
	for i, p := range plans {
		if i > 0 {
			e.printf("\n")
		}
		if err := printPlan(e, p); err != nil {
			return err
		}
	}
	return broken
}

func printPlan(e *env, p shards.Plan) error {
	e.printf("series %s\n", p.Series)
	tw := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SHARD\tNOTAFTER\tSTATE\tCREATE")
	missing := 0
	for _, s := range p.Shards {
		create := "-"
		switch {
		case s.Create:
			create = "would make it"
			missing++
		case s.State == shards.Planned:
			create = "no: its window is over"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", s.Conf.Name, windowOf(s.Conf), s.State, create)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, g := range p.Gaps {
		does := ""
		if g.Create {
			does = "; kiln shards create closes it"
		}
		e.printf("gap [%s, %s): %s%s\n", shortTime(g.Start.Truncate(time.Second)), shortTime(g.Limit.Truncate(time.Second)), g.Why, does)
	}
	switch {
	case missing > 0:
		e.printf("%s to make: kiln shards create --all\n", count(missing, "shard"))
	case len(p.Gaps) == 0:
		e.printf("no gaps from now to three years ahead\n")
	}
	return nil
}

func plansJSON(plans []shards.Plan, now time.Time) any {
	type gapJSON struct {
		Start  time.Time `json:"not_after_start"`
		Limit  time.Time `json:"not_after_limit"`
		Create bool      `json:"create_closes_it"`
		Why    string    `json:"why"`
	}
	type planJSON struct {
		Series string      `json:"series"`
		Shards []shardJSON `json:"shards"`
		Gaps   []gapJSON   `json:"gaps"`
	}
	out := make([]planJSON, 0, len(plans))
	for _, p := range plans {
		j := planJSON{p.Series, []shardJSON{}, []gapJSON{}}
		for _, s := range p.Shards {
			one := newShardJSON(s.Shard, now)
			one.Create = &s.Create
			j.Shards = append(j.Shards, one)
		}
		for _, g := range p.Gaps {
			j.Gaps = append(j.Gaps, gapJSON(g))
		}
		out = append(out, j)
	}
	return out
}

// printCreated prints the requests of those that were made of all that were
// wanted, and on standard error what was done and what is to be done next.
func printCreated(e *env, cfg *config.Config, made []shards.Creation, wanted int, dry, asJSON bool) error {
	type createdJSON struct {
		Name    string          `json:"name"`
		Done    string          `json:"done"`
		Key     string          `json:"key_source"`
		Storage string          `json:"storage"`
		Lock    string          `json:"lock"`
		Request *shards.Request `json:"inclusion_request"` // null: there is no key yet
	}
	out := []createdJSON{}
	fresh := false
	for _, c := range made {
		done := createdText(c, dry)
		fresh = fresh || !c.There
		out = append(out, createdJSON{c.Conf.Name, done, keySource(c.Conf), c.Conf.Storage, c.Conf.Lock, c.Request})
		fmt.Fprintf(e.stderr, "%s %s: %s, storage %s, lock %s\n", c.Conf.Name, done, keySource(c.Conf), c.Conf.Storage, c.Conf.Lock)
		if !c.There && !e.now().Before(c.Conf.NotAfterLimit) {
			fmt.Fprintf(e.stderr, "note: the window of %s is over: it takes no submissions\n", c.Conf.Name)
		}
	}
	if asJSON {
		if err := writeJSON(e, out); err != nil {
			return err
		}
	} else {
		for _, c := range made {
			if c.Request == nil {
				continue
			}
			data, err := c.Request.JSON()
			if err != nil {
				return err
			}
			e.printf("%s", data)
		}
	}
	switch {
	case len(made) == 0 && wanted == 0:
		fmt.Fprintln(e.stderr, "nothing is missing")
	case dry && fresh:
		fmt.Fprintln(e.stderr, "nothing was changed: without --dry-run it is made")
	case fresh:
		tellNext(e.stderr, cfg, made)
	}
	return nil
}

func createdText(c shards.Creation, dry bool) string {
	switch {
	case c.There:
		return "is there already"
	case dry:
		return "would be made"
	}
	return "made"
}

// tellNext says what follows once shards are made.
func tellNext(w io.Writer, cfg *config.Config, made []shards.Creation) {
	roots := map[string]bool{}
	for _, c := range made {
		roots[c.Conf.RootsFile] = true
	}
	fmt.Fprintf(w, "next:\n  copy the keys to a safe place off the machine: a log whose key is lost is over\n")
	for path := range roots {
		fmt.Fprintf(w, "  see that the accepted roots are in %s\n", path)
	}
	fmt.Fprintf(w, "  kiln check -c %s, then start or restart kiln serve: it takes shards up when it starts\n", cfg.Path)
	fmt.Fprintf(w, "  hand in the JSON objects, or the URL of log.v3.json below each monitoring URL, which says the same\n")
}

// keySource says where a log's key is, or comes from.
func keySource(l config.Log) string {
	if l.SecretFile != "" {
		return "key derived from " + l.SecretFile
	}
	return "key " + l.KeyFile
}

// printFreezePlan says what freezing a log would do.
func printFreezePlan(ctx context.Context, e *env, p *daemon.Parts, opts daemon.Options, asJSON bool) error {
	r, err := shards.LookAt(ctx, p, opts)
	if err != nil {
		return err
	}
	if asJSON {
		return writeJSON(e, struct {
			shardJSON
			DryRun bool      `json:"dry_run"`
			Final  *struct{} `json:"final_tree_head"`
		}{newShardJSON(r, e.now()), true, nil})
	}
	e.printf("%s %s is %s", p.Conf.Name, windowOf(p.Conf), r.State)
	if r.Head != nil {
		e.printf(" with %d entries", r.Head.Tree.N)
	}
	e.printf("\nfreezing it would: answer submissions with 410 from then on, sequence what was taken, sign the final tree and publish it in log.v3.json;\n" +
		"the log goes on being served and signed, and its tree never changes again\n")
	if e.now().Before(p.Conf.NotAfterLimit) {
		e.printf("its window is not over: nothing would take certificates that expire before %s in its place\n", shortTime(p.Conf.NotAfterLimit))
	}
	e.printf("nothing was changed: this cannot be undone, so give --yes to do it\n")
	return nil
}

func printFinal(e *env, p *daemon.Parts, f *shards.Final, asJSON bool) error {
	head := f.Head
	signed := time.UnixMilli(head.TimestampMillis).UTC()
	id := p.Key.LogID()
	if asJSON {
		type treeHead struct {
			Root      []byte `json:"sha256_root_hash"`
			Size      int64  `json:"tree_size"`
			Timestamp int64  `json:"timestamp"`
		}
		return writeJSON(e, struct {
			Name       string    `json:"name"`
			LogID      []byte    `json:"log_id"`
			FrozenAt   time.Time `json:"frozen_at"`
			Note       string    `json:"note"`
			Final      treeHead  `json:"final_tree_head"`
			RootHex    string    `json:"root_hash_hex"`
			Checkpoint string    `json:"checkpoint"`
		}{
			p.Conf.Name, id[:], f.Marks.Frozen.At, f.Marks.Frozen.Note,
			treeHead{head.Tree.Hash[:], head.Tree.N, head.TimestampMillis},
			hex.EncodeToString(head.Tree.Hash[:]), string(f.Checkpoint),
		})
	}
	note := ""
	if f.Marks.Frozen.Note != "" {
		note = " (" + f.Marks.Frozen.Note + ")"
	}
	tw := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "log\t%s\n", p.Conf.Name)
	fmt.Fprintf(tw, "log ID\t%s\n", logIDText(id[:]))
	fmt.Fprintf(tw, "frozen\t%s%s\n", f.Marks.Frozen.At.Format(time.RFC3339), note)
	fmt.Fprintf(tw, "tree size\t%d\n", head.Tree.N)
	fmt.Fprintf(tw, "root hash\t%s\n", head.Tree.Hash)
	fmt.Fprintf(tw, "root hash, hex\t%x\n", head.Tree.Hash[:])
	fmt.Fprintf(tw, "timestamp\t%d (%s)\n", head.TimestampMillis, signed.Format(time.RFC3339))
	return tw.Flush()
}

// printRetirement says what may be deleted of a log, or was.
func printRetirement(e *env, p *daemon.Parts, r *shards.Retirement, gone *shards.Amount, asJSON bool) error {
	if asJSON {
		return writeJSON(e, retirementJSON(p, r, gone))
	}
	if gone != nil {
		e.printf("%s is retired: %s deleted, %d bytes\n", p.Conf.Name, count(int(gone.Objects), "object"), gone.Bytes)
		if a := r.Objects.Other; a.Objects > 0 {
			e.printf("%s that no log makes %s in %s\n", count(int(a.Objects), "object"), plural(a.Objects, "stays", "stay"), p.Conf.Storage)
		}
		e.printf("key, lock cells and deduplication cache stay; restart kiln serve if it had the log\n")
		return nil
	}
	e.printf("%s %s is %s; its storage is %s\n", p.Conf.Name, windowOf(p.Conf), r.State, p.Conf.Storage)
	tw := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "OBJECTS\tBYTES\t")
	for _, k := range shards.Kinds() {
		if a := r.Objects.Kinds[k]; a.Objects > 0 {
			fmt.Fprintf(tw, "%d\t%d\t  %s\n", a.Objects, a.Bytes, k)
		}
	}
	fmt.Fprintf(tw, "%d\t%d\t  in all\n", r.Objects.Total.Objects, r.Objects.Total.Bytes)
	if err := tw.Flush(); err != nil {
		return err
	}
	if a := r.Objects.Other; a.Objects > 0 {
		e.printf("%s that no log makes (%d bytes) %s\n", count(int(a.Objects), "more object"), a.Bytes, plural(a.Objects, "stays", "stay"))
	}
	for _, why := range r.Blocked {
		e.printf("not yet: %s\n", why)
	}
	earliest := r.Earliest.UTC().Format(time.RFC3339)
	switch {
	case len(r.Blocked) == 0:
		e.printf("may be deleted since %s\nnothing was changed: give --yes to delete it, for good\n", earliest)
	case r.Final == nil:
		e.printf("may be deleted from %s on, if it is frozen then\n", earliest)
	default:
		e.printf("may be deleted from %s on\n", earliest)
	}
	return nil
}

func plural(n int64, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func retirementJSON(p *daemon.Parts, r *shards.Retirement, gone *shards.Amount) any {
	kinds := make(map[shards.Kind]shards.Amount)
	for k, a := range r.Objects.Kinds {
		kinds[k] = a
	}
	blocked := r.Blocked
	if blocked == nil {
		blocked = []string{}
	}
	raw := json.RawMessage("null")
	if gone != nil {
		raw, _ = json.Marshal(gone) // two numbers
	}
	return struct {
		Name     string                        `json:"name"`
		State    string                        `json:"state"`
		DryRun   bool                          `json:"dry_run"`
		Earliest time.Time                     `json:"earliest"`
		Blocked  []string                      `json:"blocked"`
		Storage  string                        `json:"storage"`
		Kinds    map[shards.Kind]shards.Amount `json:"kinds"`
		Total    shards.Amount                 `json:"total"`
		Other    shards.Amount                 `json:"other"`
		Deleted  json.RawMessage               `json:"deleted"`
	}{
		p.Conf.Name, string(r.State), gone == nil, r.Earliest.UTC(), blocked, p.Conf.Storage, kinds, r.Objects.Total, r.Objects.Other, raw,
	}
}
