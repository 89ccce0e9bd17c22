package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tstatrepo/tstatrepo/pkg/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/losslessjson"
)

// report prints the summary where it is wanted: results on stdout, the rest
// on stderr, nothing if nobody watches.
func (b *importBulk) report(stdout io.Writer, con *console, sum *bulk.Summary) error {
	loc := location(&problems{}, b.timezone)
	watched := !b.quiet && (b.verbose || con.tty && !b.json)
	switch {
	case b.json:
		if err := writeJSON(stdout, sum); err != nil {
			return err
		}
	case b.dryRun:
		return writeSummary(stdout, sum, loc)
	}
	if watched {
		return writeSummary(con, sum, loc)
	}
	return nil
}

// writeJSON prints a result of --json.
func writeJSON(w io.Writer, v any) error {
	text, err := losslessjson.MarshalIndent(v, "", "  ")
	if err == nil {
		_, err = w.Write(append(text, '\n'))
	}
	return err
}

// writeSummary prints a table with a row per log type, then what holds for
// the whole run.
func writeSummary(w io.Writer, sum *bulk.Summary, loc *time.Location) error {
	var b strings.Builder
	writeTable(&b, sum)

	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-9s %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	if sum.Probe != "" { // of several
		line("probe", "%s", sum.Probe)
	}
	if first, last := span(sum); !first.IsZero() {
		const layout = "2006-01-02 15:04"
		line("folders", "%s to %s (%s)", first.In(loc).Format(layout), last.In(loc).Format(layout), loc)
	}
	if sum.DryRun {
		b.WriteString("dry run: nothing was stored\n")
	} else {
		d := time.Duration(sum.Seconds * float64(time.Second))
		line("duration", "%s, %s/s, %.0f rows/s", d.Round(time.Millisecond), byteText(int64(sum.BytesPerSecond)), sum.RowsPerSecond)
	}
	for _, o := range sum.Open {
		fmt.Fprintf(&b, "left open: %s in %s (--include-open)\n", plural(o.Files, "file"), printable(o.Path))
	}
	for _, s := range sum.Stores {
		if s.Behind > 0 {
			fmt.Fprintf(&b, "behind: %s not stored in %s\n", plural(s.Behind, "file"), printable(s.Store))
		}
	}
	writePassed(&b, sum.PassedOver)
	if sum.RejectFile != "" {
		fmt.Fprintf(&b, "rejected lines are in %s\n", printable(sum.RejectFile))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writePassed prints what looks like logs and is not read.
func writePassed(w io.Writer, p bulk.PassedOver) {
	if p.Files+p.Folders == 0 {
		return
	}
	fmt.Fprintf(w, "passed over names that look like logs: %s, %s\n", plural(p.Files, "file"), plural(p.Folders, "folder"))
	for _, path := range p.Paths {
		fmt.Fprintf(w, "  %s\n", printable(path))
	}
	if n := p.Files + p.Folders - int64(len(p.Paths)); n > 0 {
		fmt.Fprintf(w, "  and %d more\n", n)
	}
}

// columns of the table. Those that are zero everywhere are left out, except
// the first two.
var columns = []struct {
	title string
	value func(*bulk.TypeSummary) int64
	text  func(int64) string
}{
	{"files", func(t *bulk.TypeSummary) int64 { return t.Files }, count},
	{"rows", func(t *bulk.TypeSummary) int64 { return t.Rows }, count},
	{"rejects", func(t *bulk.TypeSummary) int64 { return t.Rejects }, count},
	{"cut", func(t *bulk.TypeSummary) int64 { return t.Cuts }, count},
	{"escaped", func(t *bulk.TypeSummary) int64 { return t.Escaped }, count},
	{"skipped", func(t *bulk.TypeSummary) int64 { return t.Skipped }, count},
	{"replaced", func(t *bulk.TypeSummary) int64 { return t.Replaced }, count},
	{"damaged", func(t *bulk.TypeSummary) int64 { return t.Damaged }, count},
	{"failed", func(t *bulk.TypeSummary) int64 { return t.Failed }, count},
	{"vanished", func(t *bulk.TypeSummary) int64 { return t.Vanished }, count},
	{"left open", func(t *bulk.TypeSummary) int64 { return t.LeftOpen }, count},
	{"by others", func(t *bulk.TypeSummary) int64 { return t.Others }, count},
	{"claimed", func(t *bulk.TypeSummary) int64 { return t.Claimed }, count},
	{"text", func(t *bulk.TypeSummary) int64 { return t.Text }, byteText},
	{"on disk", func(t *bulk.TypeSummary) int64 { return t.Bytes }, byteText},
}

func count(n int64) string { return fmt.Sprint(n) }

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
	b.WriteString(alignTable(append([][]string{head}, rows...), 1))
}

// alignTable lays out a table: its first columns, so many as left says, to the
// left, those of numbers to the right.
func alignTable(table [][]string, left int) string {
	width := make([]int, len(table[0]))
	for _, row := range table {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range table {
		for i, cell := range row {
			switch {
			case i == 0:
				fmt.Fprintf(&b, "%-*s", width[i], cell)
			case i < left:
				fmt.Fprintf(&b, "  %-*s", width[i], cell)
			default:
				fmt.Fprintf(&b, "  %*s", width[i], cell)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// span returns the times of the first and last folder.
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

// byteText returns "1.5 GiB".
func byteText(n int64) string {
	for _, u := range sizeUnits {
		if n >= u.bytes {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.bytes), u.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}
