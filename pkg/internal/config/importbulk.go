package config

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// ImportBulk holds the settings of import-bulk.
type ImportBulk struct {
	Import
	Sources       []string
	Stream        string
	Probe         string
	Replace       bool
	AcceptDamaged bool
	DryRun        bool
	Folder        string
	Follow        bool
	Advertise     string
	Output

	probeGiven bool   // Probe is not the default
	streamType string // log type of the rows in Stream; "" if its name shows the type
}

func defaultImportBulk() ImportBulk {
	b := ImportBulk{Import: defaultImport()}
	b.To = []string{"parquet:./tstat"}
	return b
}

// settings returns the table of settings, in the order in which the help lists them.
func (b *ImportBulk) settings() []*Setting {
	return slices.Concat([]*Setting{
		{Name: "sources", Group: groupSource, Value: &b.Sources,
			Usage: "import these sources if the command line names none"},

		{Name: "to", Group: groupDestination, Value: &b.To, Complete: completeURLs(importSchemes()),
			Usage: "store logs in `URL`: " + stores.Schemes().String() + "; math://host:port serves logs to this MATH repository; with \"-\", rows are printed as JSON"},
		{Name: "probe", Group: groupDestination, Value: &b.Probe, Empty: "host name up to the first dot; for a MATH stream, the name in the client certificate or of the stream",
			Usage: "store `NAME` in every row as the probe that wrote the logs"},
		{Name: "stream", Group: groupDestination, Value: &b.Stream, Empty: "{probe}_{type}",
			Usage: "call the DBStream table or the MATH stream `NAME`; {probe} and {type} are replaced for each log"},
		{Name: "retry-timeout", Group: groupDestination, Value: &b.RetryTimeout,
			Usage: "retry for `DURATION` while a store is unavailable; with --follow or --listen, retry without limit"},
		{Name: "replace", Group: groupDestination, Value: &b.Replace,
			Usage: "store logs again even if they are stored"},
		{Name: "accept-damaged", Group: groupDestination, Value: &b.AcceptDamaged,
			Usage: "store the readable part of damaged compressed files"},
		{Name: "dry-run", Group: groupDestination, Value: &b.DryRun,
			Usage: "show what would be imported, and import nothing"},

		b.types(),
		{Name: "exclude", Group: groupSource, Value: &b.Exclude, Empty: "none",
			Usage: "skip log types, files and folders that match `GLOB`, like '*.bak' or 'old/*'"},
		{Name: "match", Group: groupSource, Value: &b.Match, Empty: "the names that Tstat uses",
			Usage: "read files that match `GLOB[=TYPE]` as logs, like '*.pcap.out/log_*' or 'tcp-*.txt=log_tcp_complete'"},
		b.since(),
		{Name: "until", Group: groupSource, Value: &b.Until,
			Usage: "import log folders that start before `TIME`, in the same forms as --since"},
		b.timezone(),
		{Name: "folder", Group: groupSource, Value: &b.Folder, Empty: "time of the first row",
			Usage: "assign logs from '-' or from outside a log folder to the folder `NAME`, like 2006_01_02_15_04.out"},
		b.layout(),
		{Name: "include-open", Group: groupSource, Value: &b.IncludeOpen,
			Usage: "import logs that Tstat may still write to"},
		{Name: "settle", Group: groupSource, Value: &b.Settle,
			Usage: "import the newest folder once nothing in it has changed for `DURATION`"},
		{Name: "follow", Group: groupSource, Value: &b.Follow,
			Usage: "continue with new folders until interrupted"},
		b.poll(),
	}, b.Anonymization.settings(anonymizationTexts{
		off: "addresses and names are stored as they are", unknown: "as in log_tcp_complete of the same folder",
	}), b.Rows.settings(), b.retention(), b.limits(), []*Setting{
		b.json("print the summary as JSON on stdout"),
		b.metricsFile(),
		b.progressInterval(),
		b.verbose(),
		b.quiet(),

		{Name: "listen", Group: GroupNetwork, Value: &b.Listen, Empty: "off",
			Usage: "accept MATH probes (as a repository) or the MATH repository (as a probe)" + onAddress},
	}, b.peers(), b.math(), []*Setting{
		b.adopt(),
		{Name: "advertise", Group: groupMATHProbe, Value: &b.Advertise, Empty: "address and port of --listen",
			Usage: "let the MATH repository fetch logs from `HOST:PORT`"},
	})
}

// IsProbe reports whether import-bulk acts as a MATH probe, which serves files
// instead of storing them.
func (b *ImportBulk) IsProbe() bool { return slices.ContainsFunc(b.To, mathproto.IsURL) }

// IsRepository reports whether import-bulk acts as a MATH repository.
func (b *ImportBulk) IsRepository() bool { return len(b.Listen) > 0 && !b.IsProbe() }

// Options checks the settings and returns them as options of bulk.Run. If args is not
// empty, it replaces b.Sources.
func (b *ImportBulk) Options(p *Problems, args []string) bulk.Options {
	if len(args) > 0 {
		b.Sources = args
	}
	b.probeGiven = b.Probe != ""
	guessed := !b.probeGiven && pulled(b.Sources) == "" && !b.IsRepository()
	if b.Probe == "" {
		b.Probe = cmp.Or(pulled(b.Sources), hostProbe())
		if b.IsRepository() {
			b.Probe = "repository" // each stream has its own
		}
	}
	checkProbeName(p, b.Probe)
	opt := b.Import.check(p)
	b.checkStream(p)
	if slices.Contains(b.Sources, "") {
		p.Add("a SOURCE must not be empty")
	}
	if b.ProgressInterval != 0 {
		atLeast(p, "progress-interval", b.ProgressInterval, Duration(time.Second))
	}
	if up := b.Upkeep(nil); up.Enabled() && !b.Follow && !b.IsRepository() && !b.IsProbe() {
		p.add(map[bool]string{true: "keep", false: "compact"}[b.Keep != 0], "needs `follow` or `listen`; else see 'tstatrepo store'")
	}
	if slices.ContainsFunc(b.To, stores.IsPrinted) {
		p.refuse("cannot be combined with `to` -, which prints rows", []given{
			{b.JSON, "json"}, {b.Follow, "follow"}, {b.IsRepository(), "listen"}, {len(b.To) > 1, "to"},
		}...)
	}
	p.exclude([]pair{
		{b.Quiet, b.Verbose, "quiet", "verbose"},
		{b.Follow, b.DryRun, "follow", "dry-run"},
		{b.Follow, b.Replace, "follow", "replace"},
	})

	opt.Sources, opt.Probe, opt.ProbeGuessed = b.Sources, b.Probe, guessed
	opt.Folder, opt.Replace, opt.AcceptDamaged, opt.DryRun = b.Folder, b.Replace, b.AcceptDamaged, b.DryRun
	opt.Follow, opt.Jobs = b.Follow, b.files(b.IsRepository() || slices.ContainsFunc(b.Sources, mathproto.IsURL))
	if b.Follow {
		opt.RetryTimeout = math.MaxInt64 // nobody may be present to restart it
	}
	return opt
}

// checkStream checks the stream setting if it names DBStream tables. If it names MATH
// streams, Math checks it instead.
func (b *ImportBulk) checkStream(p *Problems) {
	if b.IsProbe() || b.IsRepository() {
		return // checked by Math
	}
	if !slices.ContainsFunc(b.To, stores.HasStreams) {
		if b.Stream != "" {
			p.add("stream", "is for dbstream:// only, and no destination is one")
		}
		return
	}
	if b.Replace {
		p.add("replace", "cannot be combined with dbstream://, whose rows do not tell their file")
	}
	var types []string
	for _, t := range tstat.Types() {
		if len(b.Types) == 0 || slices.ContainsFunc(b.Types, func(glob string) bool { ok, _ := path.Match(glob, t.Name); return ok }) {
			types = append(types, t.Name)
		}
	}
	if b.Stream == "" && pulled(b.Sources) != "" && len(types) > 0 {
		// A repository derives the same type from the stream.
		b.Stream, b.streamType = pulled(b.Sources), types[0]
		if slices.Contains(types, "log_tcp_complete") {
			b.streamType = "log_tcp_complete"
		}
		types = []string{b.streamType}
	}
	p.usage("stream", stores.CheckStream(b.Stream, b.Probe, types))
}

// notOfRepository returns the settings that a MATH repository refuses, and whether the
// user set them.
func (b *ImportBulk) notOfRepository() []given {
	return []given{
		{b.DryRun, "dry-run"}, {b.Replace, "replace"}, {len(b.Match) > 0, "match"}, {b.Folder != "", "folder"}, {b.Stream != "", "stream"}, {b.probeGiven, "probe"},
	}
}

// ofRepository returns the settings that only a MATH repository accepts, and whether the
// user set them.
func (b *ImportBulk) ofRepository() []given {
	return []given{{len(b.AllowCallback) > 0, "allow-callback"}, {b.Adopt != "", "adopt"}}
}

// notOfProbe returns the settings that a MATH probe refuses, and whether the user set
// them.
func (b *ImportBulk) notOfProbe() []given {
	return append(b.Rows.given(), []given{
		{b.DryRun, "dry-run"}, {b.Replace, "replace"}, {b.IncludeOpen, "include-open"}, {b.Until != "", "until"},
		{len(b.Match) > 0, "match"}, {b.Folder != "", "folder"}, {b.Layout != "", "layout"}, {b.MetricsFile != "", "metrics-file"}, {b.Rate != 0, "rate"},
		{b.Keep != 0, "keep"}, {b.Compact, "compact"},
	}...)
}

// RefusedByRepository returns the names of the settings of import-bulk that a MATH
// repository refuses.
func RefusedByRepository() []string { return names(new(ImportBulk).notOfRepository()) }

// RefusedByProbe returns the names of the settings of import-bulk that a MATH probe
// refuses.
func RefusedByProbe() []string {
	b := new(ImportBulk)
	return names(append(b.notOfProbe(), b.ofRepository()...))
}

// Math checks the settings for MATH and returns its options.
func (b *ImportBulk) Math(p *Problems) Math {
	m := b.checkMath(p)
	if !b.IsRepository() {
		p.refuse("is for `listen` as a repository only", b.ofRepository()...)
	}
	p.refuse("is for `listen` only", given{len(b.Allow) > 0 && len(b.Listen) == 0, "allow"})
	encrypted := func(u string) bool { return strings.HasPrefix(u, "math+tls://") }
	if len(b.Listen) == 0 && !slices.ContainsFunc(b.Sources, encrypted) && !slices.ContainsFunc(b.To, encrypted) {
		p.refuse("is for `listen` and math+tls:// only",
			given{b.Cert != "", "tls-cert"}, given{b.Key != "", "tls-key"}, given{b.CA != "", "tls-ca"})
	}
	p.refuse("is for `to` math:// only", given{b.Advertise != "" && !b.IsProbe(), "advertise"})
	switch {
	case b.IsProbe():
		m.To = b.checkProbe(p)
	case b.IsRepository():
		b.checkRepository(p)
	default:
		for _, src := range b.Sources {
			if mathproto.IsURL(src) {
				_, err := mathproto.ParseURL(src, true)
				if err != nil {
					p.hint = cmp.Or(p.hint, hint.Of(err))
					p.errs = append(p.errs, fmt.Errorf("source %w", err))
				}
			}
		}
	}
	return m
}

func (b *ImportBulk) checkProbe(p *Problems) mathproto.URL {
	if len(b.To) > 1 {
		p.add("to", "math:// cannot be combined with another destination")
		return mathproto.URL{}
	}
	u, err := mathproto.ParseURL(b.To[0], false)
	p.usage("to", err)
	if len(b.Listen) == 0 {
		p.hint = cmp.Or(p.hint, "for example `listen` :3001")
		p.add("listen", "must name the address where the repository fetches files")
	}
	switch {
	case u.TLS && b.Cert == "":
		p.add("tls-cert", "must be given for math+tls://")
	case !u.TLS && b.TLS().Enabled():
		p.add("to", "must be math+tls:// with `tls-cert` and `tls-ca`")
	}
	if b.Advertise != "" {
		if err := mathproto.CheckAdvertise(b.Advertise); err != nil {
			p.add("advertise", "%v", err)
		}
	}
	b.Stream = cmp.Or(b.Stream, "{probe}_{type}")
	p.usage("stream", mathproto.CheckStreams(b.Stream, b.Probe))
	p.refuse("cannot be combined with `to` math://", b.notOfProbe()...)
	if len(b.Sources) > 1 || len(b.Sources) == 1 && (b.Sources[0] == "-" || mathproto.IsURL(b.Sources[0])) {
		p.Add("`to` math:// serves one SOURCE, a folder")
	}
	return u
}

func (b *ImportBulk) checkRepository(p *Problems) {
	p.refuse("cannot be combined with `listen`: the probes say what they have", b.notOfRepository()...)
	if len(b.Sources) > 0 {
		p.Add("`listen` takes no SOURCE: the probes that register are the sources")
	}
}

// Split sets opt.Sources to the files and folders in b.Sources. It adds the MATH probes
// in b.Sources to opt.Remote.
func (b *ImportBulk) Split(opt *bulk.Options) error {
	opt.Sources = nil
	for _, src := range b.Sources {
		if !mathproto.IsURL(src) {
			opt.Sources = append(opt.Sources, src)
			continue
		}
		u, err := mathproto.ParseURL(src, true)
		if err != nil {
			return err
		}
		so := mathproto.SourceOptions{
			TLS: b.TLS(), Location: opt.Location, FolderLength: time.Duration(b.FolderLength), Wants: opt.Wants, Log: opt.Log,
		}
		if b.probeGiven {
			so.Probe = b.Probe
		}
		opt.Remote = append(opt.Remote, mathproto.NewSource(u, so))
	}
	return nil
}

// ExporterOptions returns the options of the MATH exporter.
func (b *ImportBulk) ExporterOptions(m Math, opt bulk.Options) mathproto.ExporterOptions {
	return mathproto.ExporterOptions{
		Dir: b.Sources[0], Repository: m.To, TLS: b.TLS(), Listen: m.Listeners, Advertise: b.Advertise,
		Stream: b.Stream, Probe: b.Probe, Location: opt.Location, Wants: opt.Wants, Excludes: opt.Excludes, Since: opt.Since,
		Settle: opt.Settle, Poll: opt.Poll, Log: opt.Log,
		Anonymize: opt.Anonymize, SourceIs: opt.SourceIs, Spool: filepath.Join(opt.StateDir, "math"),
	}
}

// Destinations returns the stores of an import. They are opened on first use.
func (b *ImportBulk) Destinations(opt bulk.Options) (to []*stores.Destination, err error) {
	for _, dest := range b.To {
		d, err := stores.NewDestination(dest, stores.Options{
			// Each concurrent file is open in every store.
			Memory:     int64(b.Memory) / int64(opt.Jobs*len(b.To)),
			Files:      opt.Jobs,
			Cores:      b.Jobs,
			ReadOnly:   b.DryRun,
			Log:        opt.Log,
			Stream:     b.Stream,
			StreamType: b.streamType,
			Stdout:     os.Stdout,
		})
		if err != nil {
			return nil, err
		}
		to = append(to, d)
	}
	return to, nil
}
