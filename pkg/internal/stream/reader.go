package stream

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
)

// brokerOptions are the options of brokers as sources.
var brokerOptions = map[string][]string{
	"kafka": {"group", "sasl", "password-file", "version"},
	"nats":  {"group", "creds"},
}

// defaultGroup is the group of a source that names none.
const defaultGroup = "tstatrepo"

// parseSource reads the URL of a broker to take lines from.
func parseSource(text string) (*broker, error) {
	if scheme, _ := dest.Split(text); !Brokers.Has(scheme) {
		return nil, hint.Usage("unknown kind of source", "known: "+Brokers.String())
	}
	b, err := parseBroker(text, brokerOptions)
	if err != nil {
		return nil, err
	}
	valid := isTopic
	if b.scheme == "nats" {
		valid = isStream
	}
	if group, ok := b.options["group"]; ok && !valid(group) {
		return nil, hint.Usage(fmt.Sprintf("%q is not the name of a group", group), "use letters, digits, '_' and '-'")
	}
	return b, nil
}

// newSource returns the source that text names. number tells it from others of
// this run.
func (s *sourceSet) newSource(text string, number int) (input, error) {
	b, err := parseSource(text)
	if err != nil {
		return nil, err
	}
	r := &reader{
		set: s, log: s.opt.Log.With("source", b.String()), broker: b, group: defaultGroup, inlet: s.opt.NewInlet(), probes: map[string]*readProbe{},
		window: newWindow(s.opt.Window), back: retry.New(s.opt.RetryMin, s.opt.RetryMax),
		wrong: rate.Sometimes{First: 1, Interval: 10 * time.Second},
	}
	if group, ok := b.options["group"]; ok {
		r.group = group
	}
	if b.tls {
		r.files = &s.opt.TLS
	}
	if b.scheme == "kafka" {
		return &kafkaSource{reader: r, instance: fmt.Sprintf("tstatrepo-%s-%d", s.session(), number), session: kafkaAbsence, parts: map[int32]*part{}}, nil
	}
	return &natsSource{reader: r, delivered: map[natsPosition]*natsMessage{}}, nil
}

// inbound is a message of a broker.
type inbound struct {
	key    string // names it, for message ids
	probe  string
	format string // Raw, Line; "": Raw
	path   string // of the log, with Line
	value  []byte
}

// reader delivers the lines of messages.
type reader struct {
	set    *sourceSet
	log    *slog.Logger
	broker *broker
	group  string
	files  *peer.TLS // nil without TLS
	back   *retry.Backoff
	inlet  Inlet
	probes map[string]*readProbe
	window *window
	wrong  rate.Sometimes
	runs   []text // scratch
}

// readProbe is what is kept of a probe.
type readProbe struct {
	split splitter
	src   *source
}

// maxReadProbes bounds what a source keeps of probes.
const maxReadProbes = 256

// maxOpened bounds a message with the path before each of its lines, in bytes:
// lines may be empty, and a path long.
const maxOpened = 32 << 20

// probe returns what is kept of a probe; nil if there are too many names.
func (r *reader) probe(name string) *readProbe {
	p := r.probes[name]
	if p == nil {
		if ok, _ := r.set.announced.add(name, "", maxProbes); !ok {
			return nil
		}
		if len(r.probes) == maxReadProbes {
			clear(r.probes)
		}
		p = &readProbe{src: r.set.counts.sources.lookup(name, r.broker.String())}
		p.split = splitter{types: &r.set.types, maxLine: r.set.opt.MaxLine, probe: name, announced: &r.set.announced, reject: func(reason string, line []byte) {
			p.src.rejects.Add(1)
			r.reject(1, reason, name, line)
		}}
		r.probes[name] = p
	}
	return p
}

// reject counts lines that are none.
func (r *reader) reject(lines int, reason, probe string, text []byte) {
	r.set.counts.rejects.Add(int64(lines))
	r.wrong.Do(func() {
		r.log.Warn("lines rejected", "lines", lines, "reason", reason, "probe", probe[:min(len(probe), 80)], "line", string(text[:min(len(text), 80)]))
	})
}

// deliver delivers the lines of a message. acked is called once they are acked. If the
// message has no lines, delivering and acked are not called; else delivering is, before.
func (r *reader) deliver(ctx context.Context, m *inbound, delivering, acked func()) error {
	if len(m.value) == 0 {
		return nil
	}
	p, buf, reason := r.open(m)
	if reason != "" {
		r.reject(max(1, bytes.Count(m.value, []byte{'\n'})), reason, m.probe, m.value)
		return nil
	}
	defer buf.release()
	p.split.key, p.split.last = m.key, nil
	r.runs = r.runs[:0]
	most := r.set.opt.MaxRead
	p.split.split(buf.bytes, func(o *origin, from int, run []byte, lines int) error { // has no error of its own
		t := text{origin: o, source: p.src, offset: int64(from), lines: lines, bytes: run, wire: true, buffer: buf}
		for len(t.bytes) > most {
			part, n := t, wholeLines(t.bytes, most)
			part.bytes, part.lines = t.bytes[:n], bytes.Count(t.bytes[:n], []byte{'\n'})
			r.runs = append(r.runs, part)
			t.offset, t.lines, t.bytes = t.offset+int64(n), t.lines-part.lines, t.bytes[n:]
		}
		r.runs = append(r.runs, t)
		return nil
	})
	r.set.counts.empty.Add(p.split.empty)
	p.split.empty = 0
	if len(r.runs) == 0 {
		return nil
	}
	size := int64(len(m.value))
	if err := r.window.reserve(ctx, size); err != nil {
		return err
	}
	delivering()
	for i, t := range r.runs {
		if i == len(r.runs)-1 {
			t.acked = func() {
				r.window.ack(size)
				acked()
			}
		}
		if err := r.inlet.Deliver(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// open brings a message into the form that lines have on the wire. Else it
// returns the reason why it is rejected.
func (r *reader) open(m *inbound) (*readProbe, *buffer, string) {
	if !isSession(m.probe) {
		return nil, nil, "it has no name of a probe"
	}
	format := Format(m.format)
	switch {
	case format == "":
		format = Raw
	case format == JSON:
		return nil, nil, "JSON is no lines of a log: who sends it needs the format raw or line"
	case format != Raw && format != Line:
		return nil, nil, "its format is not known"
	}
	if format == Line && (!strings.HasPrefix(m.path, "/") || strings.ContainsAny(m.path, " \n") || len(m.path) > maxPath) {
		return nil, nil, "it has no path of a log"
	}
	p := r.probe(m.probe)
	if p == nil {
		return nil, nil, fmt.Sprintf("its probe is one too many, at most %d names are accepted", maxProbes)
	}
	value := m.value
	if value[len(value)-1] != '\n' { // a line of another program
		value = append(slices.Clip(value), '\n')
	}
	size, prefix := len(value), []byte(m.path+" ")
	if format == Line {
		size += bytes.Count(value, []byte{'\n'}) * len(prefix)
	}
	if size > maxOpened {
		return nil, nil, fmt.Sprintf("with the path before each line it is more than %d bytes", maxOpened)
	}
	buf := newBuffer(size)
	if format == Line {
		buf.bytes = appendPrefixed(buf.bytes[:0], value, prefix)
	} else {
		buf.bytes = append(buf.bytes[:0], value...)
	}
	return p, buf, ""
}
