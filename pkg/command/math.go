package command

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
)

// isProbe reports whether import-bulk plays MATH's probe: it serves files
// instead of storing them.
func (b *importBulk) isProbe() bool { return slices.ContainsFunc(b.to, mathproto.IsURL) }

// isRepository reports whether it plays MATH's repository.
func (b *importBulk) isRepository() bool { return len(b.network.listen) > 0 && !b.isProbe() }

// pulled is the one stream that is fetched, "" if there are other sources.
func (b *importBulk) pulled() string {
	if len(b.sources) != 1 || !mathproto.IsURL(b.sources[0]) {
		return ""
	}
	u, err := mathproto.ParseURL(b.sources[0], true)
	if err != nil {
		return ""
	}
	return u.Stream
}

// mathSettings are what the three ways to use MATH need.
type mathSettings struct {
	listeners []peer.Options
	callback  peer.Networks
	to        mathproto.URL // where the probe registers
}

// checkMath checks the settings that MATH has.
func (b *importBulk) checkMath(p *problems) (m mathSettings) {
	m.listeners = b.network.listeners(p)
	var err error
	if m.callback, err = peer.ParseNetworks(b.allowCallback); err != nil {
		p.add("allow-callback", "%v", err)
	}
	atLeast(p, "folder-length", b.folderLength, duration(time.Minute))
	if !b.isRepository() {
		p.refuse("is for --listen as a repository only", given{len(b.allowCallback) > 0, "allow-callback"}, given{b.adopt != "", "adopt"})
	}
	p.refuse("is for --listen only", given{len(b.network.allow) > 0 && len(b.network.listen) == 0, "allow"})
	encrypted := func(u string) bool { return strings.HasPrefix(u, "math+tls://") }
	if len(b.network.listen) == 0 && !slices.ContainsFunc(b.sources, encrypted) && !slices.ContainsFunc(b.to, encrypted) {
		p.refuse("is for --listen and math+tls:// only",
			given{b.network.cert != "", "tls-cert"}, given{b.network.key != "", "tls-key"}, given{b.network.caPEM != "", "tls-ca"})
	}
	p.refuse("is for --to math:// only", given{b.advertise != "" && !b.isProbe(), "advertise"})
	switch {
	case b.isProbe():
		m.to = b.checkProbe(p)
	case b.isRepository():
		b.checkRepository(p)
	default:
		for _, src := range b.sources {
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

func (b *importBulk) checkProbe(p *problems) mathproto.URL {
	if len(b.to) > 1 {
		p.add("to", "math:// cannot be combined with another destination")
		return mathproto.URL{}
	}
	u, err := mathproto.ParseURL(b.to[0], false)
	p.usage("to", err)
	if len(b.network.listen) == 0 {
		p.hint = cmp.Or(p.hint, "for example --listen :3001")
		p.add("listen", "must name the address where the repository fetches files")
	}
	switch {
	case u.TLS && b.network.cert == "":
		p.add("tls-cert", "must be given for math+tls://")
	case !u.TLS && b.network.tls().Enabled():
		p.add("to", "must be math+tls:// with --tls-cert and --tls-ca")
	}
	if b.advertise != "" {
		if err := mathproto.CheckAdvertise(b.advertise); err != nil {
			p.add("advertise", "%v", err)
		}
	}
	b.stream = cmp.Or(b.stream, "{probe}_{type}")
	p.usage("stream", mathproto.CheckStreams(b.stream, b.probe))
	p.refuse("cannot be combined with --to math://", []given{
		{b.dryRun, "dry-run"}, {b.replace, "replace"}, {b.includeOpen, "include-open"}, {b.until != "", "until"},
		{b.folder != "", "folder"}, {b.layout != "", "layout"}, {b.metricsFile != "", "metrics-file"}, {b.rate != 0, "rate"},
	}...)
	if len(b.sources) > 1 || len(b.sources) == 1 && (b.sources[0] == "-" || mathproto.IsURL(b.sources[0])) {
		p.errs = append(p.errs, errors.New("--to math:// serves one SOURCE, a folder"))
	}
	return u
}

func (b *importBulk) checkRepository(p *problems) {
	p.refuse("cannot be combined with --listen: the probes say what they have", []given{
		{b.dryRun, "dry-run"}, {b.replace, "replace"}, {b.folder != "", "folder"}, {b.stream != "", "stream"}, {b.probeGiven, "probe"},
	}...)
	if len(b.sources) > 0 {
		p.errs = append(p.errs, errors.New("--listen takes no SOURCE: the probes that register are the sources"))
	}
}

// split separates the sources of MATH from those of the file system.
func (b *importBulk) split(opt *bulk.Options) error {
	opt.Sources = nil
	for _, src := range b.sources {
		if !mathproto.IsURL(src) {
			opt.Sources = append(opt.Sources, src)
			continue
		}
		u, err := mathproto.ParseURL(src, true)
		if err != nil {
			return err
		}
		so := mathproto.SourceOptions{
			TLS: b.network.tls(), Location: opt.Location, FolderLength: time.Duration(b.folderLength), Wants: opt.Wants, Log: opt.Log,
		}
		if b.probeGiven {
			so.Probe = b.probe
		}
		opt.Remote = append(opt.Remote, mathproto.NewSource(u, so))
	}
	return nil
}

// listening logs where connections are accepted.
func listening(log *slog.Logger, addrs []string) {
	for _, a := range addrs {
		log.Info("listening", "address", a)
	}
}

// runProbe serves the logs of a folder to a repository.
func (b *importBulk) runProbe(c *cli.Context, m mathSettings, opt bulk.Options) error {
	if err := opt.Validate(); err != nil {
		return err
	}
	probe, err := mathproto.NewProbe(mathproto.ProbeOptions{
		Dir: b.sources[0], Repository: m.to, TLS: b.network.tls(), Listen: m.listeners, Advertise: b.advertise,
		Stream: b.stream, Probe: b.probe, Location: opt.Location, Wants: opt.Wants, Since: opt.Since,
		Settle: opt.Settle, Poll: opt.Poll, Log: opt.Log,
	})
	if err != nil {
		return err
	}
	listening(opt.Log, probe.Addrs())
	err = errors.Join(probe.Run(c.Context), orInterrupt(c.Context, c.Context.Err()))
	if b.json {
		err = errors.Join(err, console.WriteJSON(c.App.Writer, probe.Stats()))
	}
	return err
}

// repository returns the options of a repository whose imports have opt, and
// whose state is in a file of the state folder.
func (b *importBulk) repository(m mathSettings, opt bulk.Options, file string) (repository.LogsOptions, error) {
	opt.Sources, opt.RetryTimeout = nil, math.MaxInt64
	one := opt // what is the same for all streams
	one.Remote = make([]bulk.Source, 1)
	return repository.LogsOptions{
		Math: mathproto.RepositoryOptions{
			Listen: m.listeners, TLS: b.network.tls(), AllowCallback: m.callback, FolderLength: time.Duration(b.folderLength),
			Import: opt, Log: opt.Log, State: filepath.Join(opt.StateDir, file),
		},
		Stores: repository.StoreOptions{
			To: b.to, Memory: int64(b.memory), Jobs: opt.Jobs, Cores: b.jobs, Wants: opt.Wants, Since: opt.Since,
			Log: opt.Log,
		},
		Upkeep: b.upkeep(opt.Log),
	}, one.Validate()
}

// runRepository imports what probes have until it is interrupted.
func (b *importBulk) runRepository(c *cli.Context, con *console.Console, m mathSettings, opt bulk.Options) error {
	_, port, _ := net.SplitHostPort(m.listeners[0].Addr) // checked
	logs, err := b.repository(m, opt, "math-"+port+".json")
	if err != nil {
		return err
	}
	if logs.Math.Adopt, logs.Stores.Adopt, err = b.adopted(opt.Location, opt.Log); err != nil {
		return err
	}
	prog, stop := con.Progress(time.Duration(b.progressInterval), b.quiet || con.Terminal())
	if prog != nil {
		logs.Math.Import.Progress = endless{prog}
	}
	var repo *repository.Logs
	runs := map[string]importRun{} // by stream
	logs.Math.Passed = func(stream string, sum *bulk.Summary, failure error) {
		if b.metricsFile == "" {
			return
		}
		// A copy: the import goes on with its sums.
		runs[stream] = importRun{bulk.Merge([]*bulk.Summary{sum}), failure, time.Now()}
		if err := writeMetrics(b.metricsFile, byProbe(runs), repo.Keeper.Stats()); err != nil {
			opt.Log.Warn("metrics file was not written", "err", err)
		}
	}
	if repo, err = repository.NewLogs(c.Context, logs); err != nil {
		stop()
		return err
	}
	listening(opt.Log, repo.Addrs())
	err = errors.Join(repo.Run(c.Context), orInterrupt(c.Context, c.Context.Err()))
	stop()
	sums := repo.Summaries()
	if len(sums) == 0 {
		return err
	}
	sum := bulk.Merge(sums)
	return b.finish(con, sum, errors.Join(err, b.report(c.App.Writer, con, sum)))
}

// byProbe puts the runs of a probe's streams together.
func byProbe(runs map[string]importRun) map[string]importRun {
	probes := map[string]importRun{}
	for _, r := range runs {
		p, ok := probes[r.sum.Probe]
		if ok {
			r.sum = bulk.Merge([]*bulk.Summary{p.sum, r.sum})
			r.failure = errors.Join(p.failure, r.failure)
			if p.ended.After(r.ended) {
				r.ended = p.ended
			}
		}
		probes[r.sum.Probe] = r
	}
	return probes
}

// endless is the progress of imports that know no total.
type endless struct{ bulk.Progress }

func (endless) Total(int, int64) {}
