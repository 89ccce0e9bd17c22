package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// streamCmd holds the settings of stream.
type streamCmd struct {
	network
	probes         []string
	maxConnections int
	idleTimeout    duration
	maxLine        size

	from []string

	follow   []string
	probe    string
	types    []string
	start    string
	poll     duration
	timezone string

	to, toOptional []string
	format         string
	selected       string
	layout         string

	window, queue size
	drain         duration
	retryMax      duration
	name          string

	metricsFile string
	quiet       bool
}

func defaultStream() streamCmd {
	return streamCmd{
		maxConnections: stream.DefaultMaxConnections,
		idleTimeout:    duration(stream.DefaultIdleTimeout),
		maxLine:        stream.DefaultMaxLine,
		start:          string(stream.StartCheckpoint),
		poll:           duration(stream.DefaultPoll),
		timezone:       "Local",
		to:             []string{"-"},
		format:         string(stream.Raw),
		window:         stream.DefaultWindow,
		queue:          stream.DefaultQueue,
		drain:          duration(stream.DefaultDrain),
		retryMax:       duration(stream.DefaultRetryMax),
		name:           stream.DefaultName,
	}
}

// settings is the table of flags and keys, in the order of the help.
func (s *streamCmd) settings() []*setting {
	const (
		dest    = "Consumers"
		brokers = "Brokers"
		folders = "Followed folders"
		limits  = "Limits"
		reports = "Output"
	)
	return slices.Concat([]*setting{
		{name: "to", group: dest, value: &s.to, complete: strings.Join(stream.Consumers.Prefixes(), " "),
			usage: "hand the lines to `CONSUMER`: " + stream.Consumers.String()},
		{name: "to-optional", group: dest, value: &s.toOptional, complete: strings.Join(stream.Consumers.Prefixes(), " "),
			usage: "hand them to `CONSUMER` too, which loses lines where it is too slow"},
		{name: "format", group: dest, value: &s.format, complete: "raw line json",
			usage: "`FORMAT` of the lines: raw (path of the log, space, line), line or json"},
		{name: "select", group: dest, value: &s.selected, empty: "all",
			usage: "only these `COLUMNS`, like 'c_ip,s_ip,s_bytes_all', with --format line or json"},
		{name: "layout", group: dest, value: &s.layout, empty: "the newest that fits",
			usage: "Tstat `VERSION` of lines whose header has not come, with --select or --format json"},
	}, s.network.settings("take lines of exporters"), []*setting{
		{name: "peer-probe", group: "Network", value: &s.probes,
			usage: "`ADDRESS=NAME` of a probe that has no certificate"},
		{name: "max-connections", group: "Network", value: &s.maxConnections,
			usage: "serve at most `N` connections, a quarter of them for one host"},
		{name: "idle-timeout", group: "Network", value: &s.idleTimeout,
			usage: "close a connection on which nothing comes for `DURATION`"},

		{name: "from", group: brokers, value: &s.from,
			usage: "take lines that another stream has handed to `BROKER`, with ?group=NAME: " + stream.Brokers.String()},

		{name: "follow", group: folders, value: &s.follow, complete: "dir",
			usage: "send the logs of Tstat's output folder, `[PROBE=]DIR`, as they grow"},
		{name: "probe", group: folders, value: &s.probe, empty: "host name up to the first dot",
			usage: "`NAME` of the probe of folders that name none"},
		{name: "type", group: folders, value: &s.types, empty: "all",
			usage: "follow log types that match `GLOB`, like 'log_tcp_*'"},
		{name: "start", group: folders, value: &s.start, complete: "checkpoint begin end",
			usage: "`WHERE` to begin: checkpoint (the last run's end, at first the newest folder's begin), begin (the oldest folder) or end"},
		{name: "poll", group: folders, value: &s.poll,
			usage: "look at folders every `DURATION`, and when the kernel reports a change"},
		{name: "timezone", group: folders, value: &s.timezone,
			usage: "`ZONE` of folder names: Local, UTC or like Europe/Rome"},

		{name: "window", group: limits, value: &s.window,
			usage: "followed lines, and those of each broker, that can come again after a crash, at most `SIZE`"},
		{name: "queue", group: limits, value: &s.queue,
			usage: "let at most `SIZE` of lines wait for each consumer"},
		{name: "max-line", group: limits, value: &s.maxLine,
			usage: "reject lines longer than `SIZE`"},
		{name: "drain-timeout", group: limits, value: &s.drain,
			usage: "when stopped, wait `DURATION` at most for consumers to take what has come"},
		{name: "retry-max", group: limits, value: &s.retryMax,
			usage: "open a consumer that failed again after `DURATION` at most"},
		{name: "name", group: limits, value: &s.name,
			usage: "`NAME` of this stream's state; streams that run at once need different ones"},

		{name: "metrics-file", group: reports, value: &s.metricsFile, complete: "file",
			usage: "write Prometheus metrics to `FILE` (*.prom for node_exporter)"},
		{name: "quiet", group: reports, value: &s.quiet,
			usage: "print warnings and errors only"},
	})
}

var streamExamples = []example{
	{"what the probes of a network send, to standard output", "tstatrepo stream --listen 0.0.0.0:9001 --allow 10.0.0.0/8"},
	{"to a command, to hourly files and to JetStream", "tstatrepo stream --listen :9001 --to exec:'webrowse --stdin' --to file:/srv/live --to nats://localhost:4222/TSTAT"},
	{"the probe's side; no line is lost", "tstatrepo stream --follow /var/lib/tstat --type log_tcp_complete --to ack://repository:9001"},
	{"the probe's side, to Kafka", "tstatrepo stream --follow /var/lib/tstat --to kafka://b1,b2,b3/tstat"},
	{"the repository's side, from Kafka", "tstatrepo stream --from kafka://b1,b2,b3/tstat --to file:/srv/live"},
	{"three columns as JSON", "tstatrepo stream --follow /var/lib/tstat --format json --select 'c_ip,s_ip,s_bytes_all'"},
}

func streamCommand(con *console.Console) *cli.Command {
	return &cli.Command{
		Name:     "stream",
		Usage:    "bring live log lines to consumers",
		Category: groupProduct,
		Description: "Delivers lines of logs to sinks while Tstat writes them. Lines come from exporters that connect (--listen), from " +
			"Tstat's output folder (--follow) and from brokers (--from). Lines of a log keep their order. The slowest sink of " +
			"--to sets the pace.\n\n" +
			"Sinks are - (standard output), file:DIR, exec:COMMAND, tcp://HOST:PORT, tls://, ack:// (another tstatrepo stream), " +
			"kafka://HOST:PORT/TOPIC and nats://HOST:PORT/STREAM.\n\n" +
			"'tstatrepo man stream' has their options.",
		Flags:  commandFlags("stream"),
		Action: func(c *cli.Context) error { return runStream(c, con) },
	}
}

// runStream turns flags and config into the options of a stream and runs it.
func runStream(c *cli.Context, con *console.Console) error {
	cfg, p, err := loadConfig(c, con)
	if err != nil {
		return err
	}
	s := &cfg.stream
	opt := s.options(p)
	opt.StateDir = cfg.stateDir
	if err := p.err(c.Command.Name); err != nil {
		return err
	}
	if done, err := checkOrPrint(c, con, cfg); done {
		return err
	}
	switch {
	case c.Args().Present():
		return hint.Add(usagef("stream takes no arguments, got %q", c.Args().First()), "folders are named with --follow")
	case len(s.listen) == 0 && len(s.follow) == 0 && len(s.from) == 0:
		return hint.Add(usagef("stream needs --listen, --follow or --from"),
			"for example: tstatrepo stream --follow /var/lib/tstat --to tcp://repository:9001")
	}
	if s.quiet {
		con.Quiet()
	}
	if err := s.checkFollow(opt.Follow); err != nil {
		return err
	}
	log := con.Logger()
	opt.Log, opt.Stdout, opt.Stderr = log, c.App.Writer, os.Stderr
	run, err := stream.New(opt)
	if err != nil {
		return err
	}
	for _, a := range run.Addrs() {
		log.Info("listening", "address", a)
	}
	writing, ended := context.WithCancel(context.Background())
	defer ended()
	var metrics sync.WaitGroup
	if s.metricsFile != "" {
		metrics.Go(func() { s.writeMetrics(writing, run, log) })
	}
	err = run.Run(c.Context)
	log.Info("stream ended", streamAttrs(run.Stats())...)
	ended()
	metrics.Wait()
	return errors.Join(err, orInterrupt(c.Context, c.Context.Err()))
}

// checkFollow returns a usage error if every source of lines is a folder, and
// none of the folders exists. Next to other sources a missing folder may appear
// later, as the endpoint of a listener or a broker may.
func (s *streamCmd) checkFollow(follow []stream.Root) error {
	if len(s.listen)+len(s.from) > 0 {
		return nil
	}
	var errs []error
	for _, root := range follow {
		info, err := os.Stat(root.Dir)
		switch {
		case err != nil:
			errs = append(errs, dest.MissingSource(root.Dir, err, "a folder of log folders"))
		case !info.IsDir():
			errs = append(errs, fmt.Errorf("source %s: not a folder", root.Dir))
		default:
			return nil
		}
	}
	return hint.Add(hint.AsUsage(errors.Join(errs...)), "name the folder in which Tstat makes its log folders; Tstat creates it when it starts")
}

// writeMetrics writes the metrics file of a stream every 15 seconds until ctx
// ends, and then once more.
func (s *streamCmd) writeMetrics(ctx context.Context, run *stream.Stream, log *slog.Logger) {
	for last := false; !last; {
		last = retry.Sleep(ctx, 15*time.Second) != nil
		reg := prometheus.NewRegistry()
		updated := prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tstatrepo_stream_updated_timestamp_seconds", Help: "When these figures were written.", ConstLabels: prometheus.Labels{"stream": s.name},
		})
		updated.Set(float64(time.Now().UnixMilli()) / 1000)
		reg.MustRegister(run, updated, peer.Refusals)
		if err := writeTextfile(s.metricsFile, reg); err != nil {
			log.Warn("metrics file was not written", "err", err)
		}
	}
}

func streamAttrs(sum *stream.Stats) []any {
	attrs := []any{"lines", sum.Lines, "duration", sum.Duration.Round(time.Millisecond)}
	for _, a := range []struct {
		name string
		n    int64
	}{{"rejects", sum.Rejects}, {"cut", sum.Cuts}, {"empty", sum.Empty}, {"refused", sum.Refused}, {"vanished", sum.Vanished}, {"lost", sum.Untaken}} {
		if a.n > 0 {
			attrs = append(attrs, a.name, a.n)
		}
	}
	for _, c := range sum.Consumers {
		text := fmt.Sprintf("%d taken", c.Lines)
		if c.Dropped > 0 {
			text += fmt.Sprintf(", %d dropped", c.Dropped)
		}
		attrs = append(attrs, c.Name, text)
	}
	return attrs
}

// options checks the settings and turns them into the options of a stream.
func (s *streamCmd) options(p *problems) stream.Options {
	if s.probe == "" {
		host, _ := os.Hostname()
		s.probe = fitProbe(host)
	}
	opt := stream.Options{
		Listen: s.listeners(p), From: s.from,
		To: s.to, ToOptional: s.toOptional,
		Format: stream.Format(s.format), Layout: s.layout,
		Types: s.types, Start: stream.Start(s.start), Poll: time.Duration(s.poll),
		Location: location(p, s.timezone),

		Probes:         new(peer.Probes),
		MaxConnections: s.maxConnections, IdleTimeout: time.Duration(s.idleTimeout), MaxLine: int(s.maxLine),
		Window: int64(s.window), Queue: int64(s.queue), Drain: time.Duration(s.drain), RetryMax: time.Duration(s.retryMax),
		Name: s.name, TLS: s.tls(),
	}
	s.checkConsumers(p)
	s.checkSources(p)
	for _, text := range s.follow {
		root := s.root(text)
		if err := store.ValidProbe(root.Probe); err != nil {
			p.add("probe", "%v", err)
		}
		if root.Dir == "" {
			p.add("follow", "names no folder")
		}
		if slices.ContainsFunc(opt.Follow, func(r stream.Root) bool { return r.Dir == root.Dir }) {
			p.add("follow", "names %s twice", root.Dir)
		}
		opt.Follow = append(opt.Follow, root)
	}
	var known []peer.Probe
	for _, text := range s.probes {
		addr, name, _ := strings.Cut(text, "=")
		a, err := netip.ParseAddr(addr)
		if err != nil || store.ValidProbe(name) != nil {
			p.add("peer-probe", "%q is not like 10.0.0.7=turin", text)
			continue
		}
		a = a.Unmap().WithZone("")
		known = append(known, peer.Probe{Name: name, Networks: peer.Networks{netip.PrefixFrom(a, a.BitLen())}})
	}
	opt.Probes.Replace(known)
	for _, glob := range s.types {
		if _, err := path.Match(glob, ""); err != nil || glob == "" {
			p.add("type", "%q is not a glob like 'log_tcp_*'", glob)
			continue
		}
		names := typeNames()
		if !slices.ContainsFunc(names, func(name string) bool { ok, _ := path.Match(glob, name); return ok }) {
			p.add("type", "%q matches no log type%s", glob, didYouMean(glob, names, ""))
		}
	}
	s.checkFormat(p, &opt)
	if !slices.Contains([]stream.Start{stream.StartCheckpoint, stream.StartBegin, stream.StartEnd}, opt.Start) {
		p.add("start", "%q is not checkpoint, begin or end", s.start)
	}
	if err := store.ValidProbe(s.name); err != nil {
		p.add("name", "%q: use 1 to 64 letters, digits, '_' and '-'", s.name)
	}
	atLeast(p, "poll", s.poll, duration(10*time.Millisecond))
	atLeast(p, "idle-timeout", s.idleTimeout, duration(time.Second))
	atLeast(p, "drain-timeout", s.drain, duration(time.Millisecond))
	atLeast(p, "retry-max", s.retryMax, duration(stream.DefaultRetryMin))
	atLeast(p, "window", s.window, 1<<20)
	atLeast(p, "queue", s.queue, 1<<20)
	atLeast(p, "max-line", s.maxLine, 1<<10)
	within(p, "max-line", int(s.maxLine), 0, tstat.MaxLine)
	within(p, "max-connections", s.maxConnections, 1, 100_000)
	return opt
}

// root returns the folder that a value of --follow names.
func (s *streamCmd) root(text string) stream.Root {
	if probe, dir, ok := strings.Cut(text, "="); ok && store.ValidProbe(probe) == nil {
		return stream.Root{Probe: probe, Dir: dir}
	}
	return stream.Root{Probe: s.probe, Dir: text}
}

func (s *streamCmd) checkConsumers(p *problems) {
	if len(s.to)+len(s.toOptional) == 0 {
		p.add("to", "must name a consumer")
	}
	all := slices.Concat(s.to, s.toOptional)
	for i, text := range all {
		name := "to"
		if i >= len(s.to) {
			name = "to-optional"
		}
		if slices.Contains(all[:i], text) {
			p.add(name, "names %s twice", dest.Redact(text))
		}
		p.destination(name, text, stream.CheckConsumer(text))
	}
}

func (s *streamCmd) checkSources(p *problems) {
	for i, text := range s.from {
		if slices.Contains(s.from[:i], text) {
			p.add("from", "names %s twice", dest.Redact(text))
		}
		p.destination("from", text, stream.CheckSource(text))
		for _, to := range slices.Concat(s.to, s.toOptional) {
			if stream.SameTopic(text, to) {
				p.add("from", "%s is a consumer too: its lines would go round for ever", dest.Redact(text))
			}
		}
	}
}

func (s *streamCmd) checkFormat(p *problems, opt *stream.Options) {
	if !slices.Contains([]stream.Format{stream.Raw, stream.Line, stream.JSON}, opt.Format) {
		p.add("format", "%q is not raw, line or json", s.format)
	}
	if s.selected != "" {
		if opt.Format == stream.Raw {
			p.add("select", "needs --format line or json")
		}
		for name := range strings.SplitSeq(s.selected, ",") {
			name = strings.TrimSpace(name)
			named := func(c tstat.Column) bool { return c.Name == name }
			if !slices.ContainsFunc(tstat.Types(), func(t *tstat.LogType) bool {
				return t.Column(name) >= 0 || slices.ContainsFunc(t.Optional, named)
			}) {
				p.add("select", "%q is not a column of any log type", name)
			}
			if opt.Format == stream.JSON && slices.Contains(opt.Select, name) {
				p.add("select", "names %s twice: an object has each name once", name)
			}
			opt.Select = append(opt.Select, name)
		}
	}
	if s.layout != "" && !slices.ContainsFunc(tstat.Types(), func(t *tstat.LogType) bool { return slices.Contains(t.Versions(), s.layout) }) {
		p.add("layout", "%q is not a version of any log type", s.layout)
	}
}
