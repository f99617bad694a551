package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"kiln/internal/roots"
)

// rootsResult is what a command of kiln roots did about one roots file. Members
// that a command has nothing to say of are left out of the JSON.
type rootsResult struct {
	File     string       `json:"file"`
	From     string       `json:"from,omitempty"` // what was read in its place
	Accepted int          `json:"accepted,omitempty"`
	Changed  bool         `json:"changed"`
	Applied  bool         `json:"applied"`
	DryRun   bool         `json:"dry_run"`
	Reports  []reportItem `json:"reports,omitempty"`
	Kept     []string     `json:"kept,omitempty"`
	Roots    []rootItem   `json:"roots,omitempty"`
	Add      []rootItem   `json:"add,omitempty"`
	Gone     []rootItem   `json:"gone,omitempty"`
	Remove   []rootItem   `json:"remove,omitempty"`
	Refused  []rootItem   `json:"refused,omitempty"`
	Error    string       `json:"error,omitempty"`
}

// reportItem is a report as it was read.
type reportItem struct {
	Name    string        `json:"name"`
	From    string        `json:"from"`
	Bytes   int           `json:"bytes"`
	Roots   int           `json:"roots"`
	Empty   int           `json:"empty"`
	Invalid []invalidItem `json:"invalid"`
	Error   string        `json:"error,omitempty"`
}

// invalidItem is a row that was left out.
type invalidItem struct {
	Line int    `json:"line"`
	What string `json:"what"`
}

// rootItem is a root.
type rootItem struct {
	SHA256   string    `json:"sha256"`
	Subject  string    `json:"subject"`
	NotAfter time.Time `json:"not_after"`
	Sources  []string  `json:"sources"`
	Formerly []string  `json:"formerly,omitempty"`
}

func rootItems(all []roots.Root) []rootItem {
	items := make([]rootItem, 0, len(all))
	for _, r := range all {
		sources := r.Sources
		if sources == nil {
			sources = []string{}
		}
		items = append(items, rootItem{r.Fingerprint.String(), r.Subject, r.NotAfter, sources, r.Formerly})
	}
	return items
}

// listed writes the reports into the result.
func (r *rootsResult) listed(fetched []roots.Fetched) {
	for _, f := range fetched {
		item := reportItem{Name: f.Name, From: f.From, Bytes: len(f.Data), Invalid: []invalidItem{}}
		if f.Report != nil {
			item.Roots, item.Empty = len(f.Report.Roots), f.Report.Empty
			for _, i := range f.Report.Invalid {
				item.Invalid = append(item.Invalid, invalidItem(i))
			}
		}
		if f.Err != nil {
			item.Error = f.Err.Error()
		}
		r.Reports = append(r.Reports, item)
	}
}

// failed reports whether something was not done that should have been.
func (r *rootsResult) failed() bool {
	failed := r.Error != ""
	for _, report := range r.Reports {
		failed = failed || report.Error != ""
	}
	return failed
}

// printRoots prints for people: results to standard output, what is wrong to
// standard error.
func printRoots(e *env, name string, results []*rootsResult) error {
	for _, r := range results {
		for _, report := range r.Reports {
			for _, i := range report.Invalid {
				fmt.Fprintf(e.stderr, "note: report %s, line %d is left out: %s\n", report.Name, i.Line, i.What)
			}
			if report.Error != "" {
				fmt.Fprintf(e.stderr, "kiln %s: %s\n", name, report.Error)
			}
		}
		var err error
		switch {
		case r.Error != "" && !r.Applied:
		case name == "roots fetch":
			err = printReports(e, r)
		case name == "roots list":
			err = printAccepted(e, r)
		default:
			err = printChanges(e, r)
		}
		if err != nil {
			return err
		}
		if r.Error != "" {
			fmt.Fprintf(e.stderr, "kiln %s: %s\n", name, r.Error)
		}
	}
	return nil
}

func printReports(e *env, r *rootsResult) error {
	tw := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "REPORT\tROOTS\tLEFT OUT\tBYTES\tRESULT")
	for _, report := range r.Reports {
		result := "kept"
		if report.Error != "" {
			result = "failed"
		} else if r.DryRun {
			result = "whole"
		}
		fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%s\n", report.Name, report.Roots, len(report.Invalid), report.Bytes, result)
	}
	return tw.Flush()
}

func printAccepted(e *env, r *rootsResult) error {
	if len(r.Roots) > 0 {
		tw := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, "SHA-256\tNOT AFTER\tSOURCE\tSUBJECT")
		for _, item := range r.Roots {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", item.SHA256, item.NotAfter.Format(time.DateOnly), sourcesOf(item), item.Subject)
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	e.printf("%s: %s accepted\n", r.File, count(r.Accepted, "root"))
	return nil
}

func printChanges(e *env, r *rootsResult) error {
	if len(r.Add)+len(r.Gone)+len(r.Remove)+len(r.Refused) > 0 {
		tw := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, "CHANGE\tSHA-256\tNOT AFTER\tSOURCE\tSUBJECT")
		for _, group := range []struct {
			what  string
			items []rootItem
		}{{"add", r.Add}, {"gone", r.Gone}, {"remove", r.Remove}, {"refused", r.Refused}} {
			for _, item := range group.items {
				fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", group.what, item.SHA256, item.NotAfter.Format(time.DateOnly), sourcesOf(item), item.Subject)
			}
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	if r.From != r.File && r.From != "" {
		fmt.Fprintf(e.stderr, "note: there are no roots in %s; those of its copy %s take their place\n", r.File, r.From)
	}
	verb := "would be "
	switch {
	case !r.Changed:
		verb = "are "
	case r.Applied:
		verb = "are now "
	}
	e.printf("%s: %s %saccepted: %d to add, %d to remove, %d gone and kept\n",
		r.File, count(r.Accepted, "root"), verb, len(r.Add), len(r.Remove), len(r.Gone))
	return nil
}
