package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/completion"
	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
)

// Stream holds the settings of the stream command.
type Stream struct {
	Lines
	PeerProbes []string

	From []string // brokers

	Follow   []string // folders, see root
	Probe    string
	Types    []string
	Start    string
	Poll     Duration
	Timezone string

	Anonymization

	Window Size
	Name   string
	Output
}

func defaultStream() Stream {
	s := Stream{
		Lines:    defaultLines(),
		Start:    string(stream.StartCheckpoint),
		Poll:     Duration(stream.DefaultPoll),
		Timezone: "Local",
		Window:   stream.DefaultWindow,
		Name:     stream.DefaultName,
	}
	s.To = []string{"-"}
	return s
}

// settings returns the settings in the order in which the help lists them.
func (s *Stream) settings() []*Setting {
	const (
		brokers = "Brokers"
		folders = "Followed folders"
	)
	return slices.Concat([]*Setting{
		{Name: "to", Group: groupSinks, Value: &s.To, Complete: strings.Join(stream.Sinks.Prefixes(), " "),
			Usage: "deliver lines to `SINK`: " + stream.Sinks.String()},
	}, s.format(), []*Setting{
		{Name: "listen", Group: GroupNetwork, Value: &s.Listen, Empty: "off",
			Usage: "accept lines of exporters" + onAddress},
	}, s.peers(), []*Setting{
		{Name: "peer-probe", Group: GroupNetwork, Value: &s.PeerProbes,
			Usage: "name a probe that has no certificate by its address, as `ADDRESS=NAME`"},
	}, s.connections(), []*Setting{
		{Name: "from", Group: brokers, Value: &s.From,
			Usage: "read lines that tstatrepo stream wrote to `BROKER`, as group ?group=NAME: " + stream.Brokers.String()},

		{Name: "follow", Group: folders, Value: &s.Follow, Complete: "dir",
			Usage: "read the growing logs of Tstat's output folder, `[PROBE=]DIR`"},
		{Name: "probe", Group: folders, Value: &s.Probe, Empty: "host name up to the first dot",
			Usage: "use `NAME` for folders without a PROBE"},
		{Name: "type", Group: folders, Value: &s.Types, Empty: "all", Complete: logTypes,
			Usage: "follow log types that match `GLOB`, like 'log_tcp_*'"},
		{Name: "start", Group: folders, Value: &s.Start, Complete: "checkpoint begin end",
			Usage: "start at `WHERE`: checkpoint (the end of the last run; in the first run the newest folder), begin (the oldest folder) or end"},
		{Name: "poll", Group: folders, Value: &s.Poll,
			Usage: "check folders when the kernel reports a change, and every `DURATION`"},
		{Name: "timezone", Group: folders, Value: &s.Timezone, Complete: completion.Zones,
			Usage: "read folder names in time zone `ZONE`: Local, UTC or like Europe/Rome"},
	}, s.Anonymization.settings(anonymizationTexts{
		where: " in followed logs", off: "lines stay as they are",
	}), []*Setting{
		{Name: "window", Group: groupLimits, Value: &s.Window,
			Usage: "after a crash, repeat at most `SIZE` of followed lines, and of the lines of each broker"},
		s.queue(),
		s.maxLine(),
		{Name: "drain-timeout", Group: groupLimits, Value: &s.Drain,
			Usage: "when stopped, wait at most `DURATION` for sinks to accept the lines received"},
		s.retryMax(),
		{Name: "name", Group: groupLimits, Value: &s.Name,
			Usage: "keep the state of this stream under `NAME`; streams that run at the same time need different names"},

		s.metricsFile(),
		s.quiet(),
	})
}

// Options checks the settings and returns them as options of a stream.
func (s *Stream) Options(p *Problems) stream.Options {
	if s.Probe == "" {
		s.Probe = hostProbe()
	}
	opt := s.Lines.options(p)
	opt.From, opt.Types, opt.Start, opt.Poll = s.From, s.Types, stream.Start(s.Start), time.Duration(s.Poll)
	opt.Location, opt.Window, opt.Name = location(p, s.Timezone), int64(s.Window), s.Name
	s.checkSources(p)
	opt.Anonymize, opt.SourceIs = s.Anonymization.check(p)
	s.needSource(p)
	if s.Anonymize != "" && (len(s.Follow) == 0 || len(s.Listen)+len(s.From) > 0) {
		p.add("anonymize", "is for `follow` only, without `listen` and `from`")
	}
	for _, text := range s.Follow {
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
	opt.Probes.Replace(s.peerProbes(p))
	checkTypes(p, s.Types)
	p.refuse("is for `follow` only: exporters and brokers choose what they send", given{len(s.Types) > 0 && len(s.Follow) == 0, "type"})
	s.checkFormat(p, &opt)
	if !slices.Contains([]stream.Start{stream.StartCheckpoint, stream.StartBegin, stream.StartEnd}, opt.Start) {
		p.add("start", "%q is not checkpoint, begin or end", s.Start)
	}
	if err := store.ValidProbe(s.Name); err != nil {
		p.add("name", "%q: use 1 to 64 letters, digits, '_' and '-'", s.Name)
	}
	atLeast(p, "poll", s.Poll, Duration(10*time.Millisecond))
	atLeast(p, "window", s.Window, 1<<20)
	s.checkLimits(p)
	return opt
}

// root parses a value of the follow setting, which has the form [PROBE=]DIR.
func (s *Stream) root(text string) stream.Root {
	if probe, dir, ok := strings.Cut(text, "="); ok && store.ValidProbe(probe) == nil {
		return stream.Root{Probe: probe, Dir: dir}
	}
	return stream.Root{Probe: s.Probe, Dir: text}
}

// peerProbes returns the probes that the peer-probe setting lists. The stream recognizes
// these probes by their addresses.
func (s *Stream) peerProbes(p *Problems) (known []peer.Probe) {
	for _, text := range s.PeerProbes {
		addr, name, _ := strings.Cut(text, "=")
		a, err := netip.ParseAddr(addr)
		if err != nil || store.ValidProbe(name) != nil {
			p.add("peer-probe", "%q is not like 10.0.0.7=turin", text)
			continue
		}
		a = a.Unmap().WithZone("")
		known = append(known, peer.Probe{Name: name, Networks: peer.Networks{netip.PrefixFrom(a, a.BitLen())}})
	}
	return known
}

func (s *Stream) checkSources(p *Problems) {
	for i, text := range s.From {
		if slices.Contains(s.From[:i], text) {
			p.add("from", "names %s twice", dest.Redact(text))
		}
		p.destination("from", text, stream.CheckSource(text))
		for _, to := range slices.Concat(s.To, s.ToOptional) {
			if stream.SameTopic(text, to) {
				p.add("from", "%s is a sink too: its lines would go round for ever", dest.Redact(text))
			}
		}
	}
}

// CheckFollow returns a usage error if all sources of lines are folders and none of
// them exists. It accepts missing folders if there are other sources, because
// the folders may be created later.
func (s *Stream) CheckFollow(follow []stream.Root) error {
	if len(s.Listen)+len(s.From) > 0 {
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
