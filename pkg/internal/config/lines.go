package config

import (
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Lines holds the settings that stream and [collect-streaming] share: live
// lines of exporters, and their sinks.
type Lines struct {
	Network
	MaxConnections int
	IdleTimeout    Duration
	MaxLine        Size

	To, ToOptional []string
	Format         string
	Columns        string // of select
	Layout         string

	Queue    Size
	Drain    Duration
	RetryMax Duration
}

func defaultLines() Lines {
	return Lines{
		MaxConnections: stream.DefaultMaxConnections,
		IdleTimeout:    Duration(stream.DefaultIdleTimeout),
		MaxLine:        stream.DefaultMaxLine,
		Format:         string(stream.Raw),
		Queue:          stream.DefaultQueue,
		Drain:          Duration(stream.DefaultDrain),
		RetryMax:       Duration(stream.DefaultRetryMax),
	}
}

const groupSinks = "Sinks"

// format returns the settings for optional sinks and for the format of lines.
func (s *Lines) format() []*Setting {
	return []*Setting{
		{Name: "to-optional", Group: groupSinks, Value: &s.ToOptional, Complete: strings.Join(stream.Sinks.Prefixes(), " "),
			Usage: "also deliver lines to `SINK`, which misses lines while it is too slow"},
		{Name: "format", Group: groupSinks, Value: &s.Format, Complete: "raw line json",
			Usage: "write lines in `FORMAT`: raw (log path, space, line), line or json"},
		{Name: "select", Group: groupSinks, Value: &s.Columns, Empty: "all",
			Usage: "with --format line or json: write only `COLUMNS`, like 'c_ip,s_ip,s_bytes_all'"},
		{Name: "layout", Group: groupSinks, Value: &s.Layout, Empty: "the newest that matches", Complete: logLayouts,
			Usage: "with --select or --format json: read lines without a header as lines of Tstat `VERSION`"},
	}
}

// connections returns the settings that limit the connections of exporters.
func (s *Lines) connections() []*Setting {
	return []*Setting{
		{Name: "max-connections", Group: GroupNetwork, Value: &s.MaxConnections,
			Usage: "accept at most `N` connections, a quarter of them from one host"},
		{Name: "idle-timeout", Group: GroupNetwork, Value: &s.IdleTimeout,
			Usage: "close connections that are idle for `DURATION`"},
	}
}

func (s *Lines) queue() *Setting {
	return &Setting{Name: "queue", Group: groupLimits, Value: &s.Queue,
		Usage: "queue at most `SIZE` of lines for each sink"}
}

func (s *Lines) maxLine() *Setting {
	return &Setting{Name: "max-line", Group: groupLimits, Value: &s.MaxLine,
		Usage: "reject lines longer than `SIZE`"}
}

func (s *Lines) retryMax() *Setting {
	return &Setting{Name: "retry-max", Group: groupLimits, Value: &s.RetryMax,
		Usage: "wait at most `DURATION` between attempts to reopen a sink"}
}

// options checks the listeners and sinks, and returns the settings as options.
// checkFormat and checkLimits check the other settings. checkFormat also adds the column
// selection.
func (s *Lines) options(p *Problems) stream.Options {
	opt := stream.Options{
		Listen: s.listeners(p), To: s.To, ToOptional: s.ToOptional,
		Format: stream.Format(s.Format), Layout: s.Layout,
		Probes:         new(peer.Probes),
		MaxConnections: s.MaxConnections, IdleTimeout: time.Duration(s.IdleTimeout), MaxLine: int(s.MaxLine),
		Queue: int64(s.Queue), Drain: time.Duration(s.Drain), RetryMax: time.Duration(s.RetryMax), TLS: s.TLS(),
	}
	s.checkSinks(p)
	return opt
}

func (s *Lines) checkLimits(p *Problems) {
	atLeast(p, "idle-timeout", s.IdleTimeout, Duration(time.Second))
	atLeast(p, "drain-timeout", s.Drain, Duration(time.Millisecond))
	atLeast(p, "retry-max", s.RetryMax, Duration(stream.DefaultRetryMin))
	atLeast(p, "queue", s.Queue, 1<<20)
	atLeast(p, "max-line", s.MaxLine, 1<<10)
	within(p, "max-line", int(s.MaxLine), 0, tstat.MaxLine)
	within(p, "max-connections", s.MaxConnections, 1, 100_000)
}

func (s *Lines) checkSinks(p *Problems) {
	if len(s.To)+len(s.ToOptional) == 0 {
		p.add("to", "must name a sink")
	}
	all := slices.Concat(s.To, s.ToOptional)
	for i, text := range all {
		name := "to"
		if i >= len(s.To) {
			name = "to-optional"
		}
		if slices.Contains(all[:i], text) {
			p.add(name, "names %s twice", dest.Redact(text))
		}
		p.destination(name, text, stream.CheckSink(text))
	}
}

func (s *Lines) checkFormat(p *Problems, opt *stream.Options) {
	if !slices.Contains([]stream.Format{stream.Raw, stream.Line, stream.JSON}, opt.Format) {
		p.add("format", "%q is not raw, line or json", s.Format)
	}
	if s.Columns != "" {
		if opt.Format == stream.Raw {
			p.add("select", "needs `format` line or json")
		}
		for name := range strings.SplitSeq(s.Columns, ",") {
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
	if s.Layout != "" && !slices.ContainsFunc(tstat.Types(), func(t *tstat.LogType) bool { return slices.Contains(t.Versions(), s.Layout) }) {
		p.add("layout", "%q is not a version of any log type", s.Layout)
	}
}
