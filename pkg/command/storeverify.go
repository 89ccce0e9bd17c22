package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/upkeep"
)

func (s storeRun) verify(ctx context.Context, con *console.Console, stdout io.Writer, m store.Manager, filter upkeep.Filter, opt bulk.Options) error {
	prog, stop := con.Progress(time.Duration(s.ProgressInterval), s.Quiet)
	vo := upkeep.VerifyOptions{Filter: filter, Deep: s.Deep, Progress: prog}
	if len(s.Against) > 0 {
		opt.Progress = prog
		vo.Against = &opt
	}
	rep, err := upkeep.Verify(ctx, m, vo)
	stop()
	if rep == nil {
		return err
	}
	out := struct {
		*upkeep.Report
		Mend map[string]string `json:"mend,omitempty"` // repair command by kind of finding
	}{rep, map[string]string{}}
	for _, f := range rep.Findings {
		cmd := cmp.Or(f.Mend, mend(f.Kind, m, s.transformOf(rep), probeOf(f.Kind, rep.Findings)))
		switch old := out.Mend[f.Kind]; {
		case cmd == "" || strings.Contains(old, cmd):
		case old != "":
			out.Mend[f.Kind] = old + "; " + cmd
		default:
			out.Mend[f.Kind] = cmd
		}
	}
	rerr := s.report(stdout, out, func(w io.Writer) error {
		for _, f := range rep.Findings {
			line := fmt.Sprintf("%-10s", f.Kind)
			if f.Key != (store.Key{}) {
				line += "  " + f.Key.String()
			}
			if f.Kind == upkeep.Rows {
				line += fmt.Sprintf("  %d of %d", f.Counts, f.Rows)
			}
			for _, text := range []string{f.Path, f.In, f.Reason} {
				if text != "" {
					line += "  " + text
				}
			}
			fmt.Fprintln(w, console.Printable(line))
		}
		for _, kind := range slices.Sorted(maps.Keys(out.Mend)) {
			fmt.Fprintf(w, "to mend %s: %s\n", kind, out.Mend[kind])
		}
		if rep.Sources+rep.Unread > 0 {
			fmt.Fprintf(w, "%s, %d stored as they are", console.Plural(rep.Sources, "source file"), rep.Same)
			if rep.Pruned > 0 {
				fmt.Fprintf(w, " (%d pruned since)", rep.Pruned)
			}
			fmt.Fprintln(w)
		}
		writePassed(w, rep.PassedOver)
		if rep.Damaged > 0 {
			fmt.Fprintf(w, "%s of damaged files, of which the good part is stored\n", console.Plural(rep.Damaged, "record"))
		}
		for _, transform := range slices.Sorted(maps.Keys(rep.Transforms)) {
			fmt.Fprintf(w, "transform of %s: %s\n", console.Plural(rep.Transforms[transform], "record"), console.Printable(transform))
		}
		for _, transform := range slices.Sorted(maps.Keys(rep.OtherTransforms)) {
			fmt.Fprintf(w, "%s not compared: stored under another transform: %s\n", console.Plural(rep.OtherTransforms[transform], "source file"),
				console.Printable(transform))
		}
		if rep.OtherTransform > 0 {
			fmt.Fprintln(w, "to compare them, give --anonymize, --source-is, --where, --sample and --select as the import did")
		}
		if rep.Uncounted > 0 {
			fmt.Fprintf(w, "%s, whose rows do not tell their file and were not counted\n", console.Plural(rep.Uncounted, "record"))
		} else {
			fmt.Fprintf(w, "%s, %s counted\n", console.Plural(rep.Records, "record"), console.Plural(rep.Rows, "row"))
		}
		return nil
	})
	if errors.Is(err, upkeep.ErrDiffers) {
		n := int64(len(rep.Findings)) + rep.Unread
		err = fmt.Errorf("%s: %w in %s", m, err, console.Plural(n, "place"))
	}
	return errors.Join(err, rerr)
}

// probeOf returns the probe that all findings of the given kind concern. If there is no
// single valid probe, it returns the placeholder PROBE.
func probeOf(kind string, findings []upkeep.Finding) string {
	probe := ""
	for _, f := range findings {
		if f.Kind != kind {
			continue
		}
		if store.ValidProbe(f.Key.Probe) != nil || probe != "" && probe != f.Key.Probe {
			return "PROBE"
		}
		probe = f.Key.Probe
	}
	return probe
}

// transformOf returns the import-bulk options that select the transform of the store's
// logs. Without these options, the command that repairs a finding would store clear
// addresses. If verify was called without such options but the store has transformed
// logs, transformOf returns TRANSFORM, a placeholder for the user to fill in.
func (s storeRun) transformOf(rep *upkeep.Report) string {
	var options []string
	for _, o := range [][2]string{{"anonymize", s.Anonymize}, {"source-is", s.SourceIs}, {"where", s.Where}, {"sample", s.Sample}, {"select", s.Select}} {
		if o[1] != "" {
			options = append(options, "--"+o[0]+" '"+strings.ReplaceAll(o[1], "'", `'\''`)+"' ")
		}
	}
	if len(options) == 0 && len(rep.Transforms) > 0 {
		return "TRANSFORM "
	}
	return strings.Join(options, "")
}

// mend returns a command or short instructions to repair findings of the given kind. It
// returns "" if tstatrepo cannot repair them.
func mend(kind string, m store.Manager, transform, probe string) string {
	_, raw := m.(store.RawStore)
	replace := fmt.Sprintf("tstatrepo import-bulk --replace %s--probe %s --to %s LOG", transform, probe, m)
	moveAway := fmt.Sprintf("move the files out of the store, then tstatrepo import-bulk %s--probe %s --to %s SOURCE", transform, probe, m)
	if m.Properties().AppendOnly {
		replace = "" // the store cannot replace rows
	}
	switch kind {
	case upkeep.Missing, upkeep.Different:
		return fmt.Sprintf("tstatrepo import-bulk %s--probe %s --to %s SOURCE", transform, probe, m)
	case upkeep.Rows, upkeep.Prefix, upkeep.Unsourced, store.CR:
		return replace
	case store.Damaged:
		// Replacing a log in a merged file would read the rows of the other logs.
		if !m.Properties().Compacts {
			return replace
		}
		return moveAway
	case store.Doubled, store.Unrecorded:
		switch {
		case m.Properties().Compacts:
			return fmt.Sprintf("tstatrepo store repair %s", m)
		case kind == store.Doubled:
			return replace
		case raw:
			return fmt.Sprintf("tstatrepo import-bulk %s--probe %s --to %s SOURCE, or remove the copies", transform, probe, m)
		}
	case store.Unreadable, store.Foreign:
		if !m.Properties().Compacts && !raw {
			return "" // the store has no files
		}
		return moveAway
	}
	return ""
}
