package command

import (
	"cmp"
	"errors"
	"math"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// options checks the settings and turns them into options of bulk.Run.
func (b *importBulk) options(p *problems) bulk.Options {
	guessed := b.probe == "" && b.pulled() == "" && !b.isRepository()
	if b.probe == "" {
		host, _ := os.Hostname()
		b.probe = cmp.Or(b.pulled(), fitProbe(host))
		if b.isRepository() {
			b.probe = "repository" // each stream has its own
		}
	}
	if b.probe == "" {
		p.add("probe", "must be given, since this machine has no host name")
	} else if err := store.ValidProbe(b.probe); err != nil {
		p.add("probe", "%v", err)
	}
	if len(b.to) == 0 {
		p.add("to", "must name a destination")
	}
	for i, to := range b.to {
		if slices.Contains(b.to[:i], to) {
			p.add("to", "names %s twice", dest.Redact(to))
			continue
		}
		if mathproto.IsURL(to) {
			continue // see checkMath
		}
		err := importSchemes().CheckPath(to)
		if err == nil {
			err = stores.Check(to)
		}
		p.destination("to", to, err)
	}
	b.checkStream(p)
	for _, glob := range b.exclude {
		if _, err := path.Match(glob, ""); err != nil || glob == "" {
			p.add("exclude", "%q is not a glob like '*.bak'", glob)
		}
	}
	if slices.Contains(b.sources, "") {
		p.errs = append(p.errs, errors.New("a SOURCE must not be empty"))
	}
	for _, glob := range b.types {
		if _, err := path.Match(glob, ""); err != nil || glob == "" {
			p.add("type", "%q is not a glob like 'log_tcp_*'", glob)
		}
	}
	loc := location(p, b.timezone)
	since := timeSetting(p, "since", b.since, loc)
	until := timeSetting(p, "until", b.until, loc)
	if !since.IsZero() && !until.IsZero() && !since.Before(until) {
		p.add("until", "must be after --since")
	}

	atLeast(p, "settle", b.settle, duration(time.Second))
	atLeast(p, "retry-timeout", b.retryTimeout, 0)
	atLeast(p, "poll", b.poll, duration(100*time.Millisecond))
	atLeast(p, "memory", b.memory, 64<<20)
	if b.progressInterval != 0 {
		atLeast(p, "progress-interval", b.progressInterval, duration(time.Second))
	}
	if b.keep != 0 {
		atLeast(p, "keep", b.keep, duration(24*time.Hour))
	}
	if up := b.upkeep(nil); up.Enabled() && !b.follow && !b.isRepository() {
		p.add(map[bool]string{true: "keep", false: "compact"}[b.keep != 0], "needs --follow or --listen; else see 'tstatrepo store'")
	}
	within(p, "jobs", b.jobs, 0, 1024)
	within(p, "max-rejects", b.maxRejects, 0, 1<<31-1)
	within(p, "rate", b.rate, 0, 1e5)

	for _, pair := range []struct {
		first, second bool
		name, other   string
	}{
		{b.quiet, b.verbose, "quiet", "verbose"},
		{b.follow, b.dryRun, "follow", "dry-run"},
		{b.follow, b.replace, "follow", "replace"},
	} {
		if pair.first && pair.second {
			p.add(pair.name, "cannot be combined with --%s", pair.other)
		}
	}

	opt := bulk.Options{
		Sources: b.sources,
		Probe:   b.probe, ProbeGuessed: guessed, Location: loc,
		Types: b.types, Since: since, Until: until,
		Folder: b.folder, Layout: b.layout,
		IncludeOpen: b.includeOpen, Settle: time.Duration(b.settle),
		Replace: b.replace, AcceptDamaged: b.acceptDamaged, Exclude: b.exclude,
		Jobs:       b.files(),
		MaxRejects: b.maxRejects,
		Rate:       b.rate,
		DryRun:     b.dryRun,
		ClaimTime:  claimTime,

		RetryTimeout: time.Duration(b.retryTimeout),
		Follow:       b.follow, Poll: time.Duration(b.poll),
	}
	if b.follow {
		opt.RetryTimeout = math.MaxInt64 // nobody may be there to start it again
	}
	return opt
}

// maxTransfers is the default limit of files at a time if each takes a connection
// of a database or of a probe.
const maxTransfers = 4

// files returns how many files are imported at a time.
func (b *importBulk) files() int {
	cpus := runtime.GOMAXPROCS(0) // respects the limit of a cgroup
	if b.isRepository() || slices.ContainsFunc(b.sources, mathproto.IsURL) ||
		slices.ContainsFunc(b.to, func(to string) bool { return !stores.InFolder(to) }) {
		cpus = min(cpus, maxTransfers)
	}
	return cmp.Or(b.jobs, cpus)
}

// checkStream checks the name of DBStream's tables.
func (b *importBulk) checkStream(p *problems) {
	if b.isProbe() || b.isRepository() {
		return // see checkMath
	}
	if !slices.ContainsFunc(b.to, stores.HasStreams) {
		if b.stream != "" {
			p.add("stream", "is for dbstream:// only, and no destination is one")
		}
		return
	}
	if b.replace {
		p.add("replace", "cannot be combined with dbstream://, whose rows do not tell their file")
	}
	var types []string
	for _, t := range tstat.Types() {
		if len(b.types) == 0 || slices.ContainsFunc(b.types, func(glob string) bool { ok, _ := path.Match(glob, t.Name); return ok }) {
			types = append(types, t.Name)
		}
	}
	if b.stream == "" && b.pulled() != "" && len(types) > 0 {
		// As a repository does it, which is told the stream's type.
		b.stream, b.streamType = b.pulled(), types[0]
		if slices.Contains(types, "log_tcp_complete") {
			b.streamType = "log_tcp_complete"
		}
		types = []string{b.streamType}
	}
	p.usage("stream", stores.CheckStream(b.stream, b.probe, types))
}

var unfit = regexp.MustCompile(`[^A-Za-z0-9_-]+`)

// fitProbe makes a probe name of a host name: "" if there is nothing to use.
func fitProbe(host string) string {
	name, _, _ := strings.Cut(host, ".")
	name = strings.Trim(unfit.ReplaceAllString(name, "_"), "_")
	return name[:min(len(name), 64)]
}
