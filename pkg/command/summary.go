package command

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
)

// report prints sum as text: to stdout in a dry run, and otherwise to the console if
// isWatched returns true. With --json, it prints JSON to stdout and treats a dry run like
// any other run.
func (b *importBulk) report(stdout io.Writer, con *console.Console, sum *bulk.Summary) error {
	loc := b.Location()
	switch {
	case b.JSON:
		if err := console.WriteJSON(stdout, sum); err != nil {
			return err
		}
	case b.DryRun:
		return writeSummary(stdout, sum, loc)
	}
	if b.isWatched(con) {
		return writeSummary(con, sum, loc)
	}
	return nil
}

// isWatched reports whether the console shows more than warnings.
func (b *importBulk) isWatched(con *console.Console) bool {
	return !b.Quiet && (b.Verbose || con.Terminal() && !b.JSON)
}

// writeSummary prints a table with one row for each log type, and then details of the
// whole run. If there was nothing to import, a single line replaces the table.
func writeSummary(w io.Writer, sum *bulk.Summary, loc *time.Location) error {
	var b strings.Builder
	if t := &sum.Total; sum.Planned && t.Files+t.Failed+t.Vanished+t.Others+t.Claimed+sum.Left == 0 {
		b.WriteString("nothing to import: ")
		switch {
		case t.Skipped > 0:
			fmt.Fprintf(&b, "%s stored already\n", console.Plural(t.Skipped, "file"))
		case t.LeftOpen > 0:
			b.WriteString("Tstat may still write to all files\n")
		default:
			b.WriteString("no log of the wanted types and times\n")
		}
	} else {
		writeTable(&b, sum)
		writeSpan(&b, sum, loc)
	}
	writeOpen(&b, sum.Open)
	for _, s := range sum.Stores {
		if s.Behind > 0 {
			fmt.Fprintf(&b, "behind: %s not stored in %s\n", console.Plural(s.Behind, "file"), console.Printable(s.Store))
		}
	}
	writePassed(&b, sum.PassedOver)
	if sum.RejectFile != "" {
		fmt.Fprintf(&b, "rejected lines are in %s\n", console.Printable(sum.RejectFile))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeSpan prints the probe, the first and last folder, the duration and the speed of
// the run.
func writeSpan(w io.Writer, sum *bulk.Summary, loc *time.Location) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-9s %s\n", name, console.Printable(fmt.Sprintf(format, args...)))
	}
	if sum.Probe != "" { // "" if there are several probes
		line("probe", "%s", sum.Probe)
	}
	if first, last := span(sum); !first.IsZero() {
		const layout = "2006-01-02 15:04"
		line("folders", "%s to %s (%s)", first.In(loc).Format(layout), last.In(loc).Format(layout), loc)
	}
	if sum.DryRun {
		fmt.Fprintln(w, "dry run: nothing was stored")
		return
	}
	d := time.Duration(sum.Seconds * float64(time.Second))
	line("duration", "%s, %s/s, %s rows/s", d.Round(time.Millisecond), console.Bytes(int64(sum.BytesPerSecond)), console.Count(int64(sum.RowsPerSecond)))
}

// fewOpen is the maximum number of folders that writeOpen prints on separate lines.
const fewOpen = 3

// writeOpen prints the folders with files that were left open, that is, not imported
// because Tstat may still write to them. It prints a single line if there are more than
// fewOpen folders.
func writeOpen(w io.Writer, open []bulk.OpenFolder) {
	if len(open) <= fewOpen {
		for _, o := range open {
			fmt.Fprintf(w, "left open: %s in %s (--include-open)\n", console.Plural(o.Files, "file"), console.Printable(o.Path))
		}
		return
	}
	files := int64(0)
	for _, o := range open {
		files += o.Files
	}
	fmt.Fprintf(w, "left open: %s in %s, from %s to %s (--include-open)\n", console.Plural(files, "file"), console.Plural(int64(len(open)), "folder"),
		console.Printable(open[0].Path), console.Printable(open[len(open)-1].Path))
}

// warnOpen warns if most files were left open, that is, not imported because Tstat may
// still write to them. The usual reason is a new installation, or an archive whose
// files were given new times when they were copied. The newest folder of a running
// Tstat does not cause the warning on its own. Failed and unfinished files do not count
// as left open.
func warnOpen(log *slog.Logger, sum *bulk.Summary) {
	if t := &sum.Total; sum.Planned && t.LeftOpen > t.Files+t.Skipped+t.Failed+sum.Left {
		log.Warn("more files left open than stored: Tstat may still write to them", "left_open", t.LeftOpen, "stored", t.Files+t.Skipped,
			"folders", len(sum.Open), "examples", sum.Open[0].Path, "hint", "if it does not, import them with `include-open`")
	}
}

// writePassed prints the files and folders in p, which were ignored although they look
// like logs.
func writePassed(w io.Writer, p bulk.PassedOver) {
	if p.Files+p.Folders == 0 {
		return
	}
	fmt.Fprintf(w, "passed over names that look like logs: %s, %s\n", console.Plural(p.Files, "file"), console.Plural(p.Folders, "folder"))
	for _, path := range p.Paths {
		fmt.Fprintf(w, "  %s\n", console.Printable(path))
	}
	if n := p.Files + p.Folders - int64(len(p.Paths)); n > 0 {
		fmt.Fprintf(w, "  and %d more\n", n)
	}
}

// columns lists the columns of the table that writeSummary prints. A column that
// contains only zeros is omitted, unless it is one of the first two.
var columns = []struct {
	title string
	value func(*bulk.TypeSummary) int64
	text  func(int64) string
}{
	{"files", func(t *bulk.TypeSummary) int64 { return t.Files }, console.Count},
	{"rows", func(t *bulk.TypeSummary) int64 { return t.Rows }, console.Count},
	{"filtered", func(t *bulk.TypeSummary) int64 { return t.Filtered }, console.Count},
	{"rejects", func(t *bulk.TypeSummary) int64 { return t.Rejects }, console.Count},
	{"cut", func(t *bulk.TypeSummary) int64 { return t.Cuts }, console.Count},
	{"escaped", func(t *bulk.TypeSummary) int64 { return t.Escaped }, console.Count},
	{"skipped", func(t *bulk.TypeSummary) int64 { return t.Skipped }, console.Count},
	{"other transform", func(t *bulk.TypeSummary) int64 { return t.OtherTransform }, console.Count},
	{"replaced", func(t *bulk.TypeSummary) int64 { return t.Replaced }, console.Count},
	{"damaged", func(t *bulk.TypeSummary) int64 { return t.Damaged }, console.Count},
	{"failed", func(t *bulk.TypeSummary) int64 { return t.Failed }, console.Count},
	{"vanished", func(t *bulk.TypeSummary) int64 { return t.Vanished }, console.Count},
	{"left open", func(t *bulk.TypeSummary) int64 { return t.LeftOpen }, console.Count},
	{"by others", func(t *bulk.TypeSummary) int64 { return t.Others }, console.Count},
	{"claimed", func(t *bulk.TypeSummary) int64 { return t.Claimed }, console.Count},
	{"text", func(t *bulk.TypeSummary) int64 { return t.Text }, console.Bytes},
	{"on disk", func(t *bulk.TypeSummary) int64 { return t.Bytes }, console.Bytes},
}

func writeTable(b *strings.Builder, sum *bulk.Summary) {
	head := []string{"type"}
	rows := make([][]string, 0, len(sum.Types)+1)
	for _, t := range sum.Types {
		rows = append(rows, []string{t.Name})
	}
	all := sum.Types
	if len(sum.Types) != 1 {
		rows = append(rows, []string{"total"})
		all = append(all[:len(all):len(all)], &sum.Total)
	}
	for i, c := range columns {
		if i >= 2 && c.value(&sum.Total) == 0 {
			continue
		}
		head = append(head, c.title)
		for j, t := range all {
			rows[j] = append(rows[j], c.text(c.value(t)))
		}
	}
	b.WriteString(console.Table(append([][]string{head}, rows...), 1))
}

// span returns the times of the first and the last folder, or zero times if there are
// no folders.
func span(sum *bulk.Summary) (first, last time.Time) {
	first, last = sum.Total.First, sum.Total.Last
	for _, t := range sum.Types {
		if !t.First.IsZero() && (first.IsZero() || t.First.Before(first)) {
			first = t.First
		}
		if t.Last.After(last) {
			last = t.Last
		}
	}
	return first, last
}
