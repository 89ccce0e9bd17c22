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

// Brokers are the kinds of sources that are URLs.
var Brokers = dest.Schemes{"kafka://HOST:PORT/TOPIC", "kafka+tls://", "nats://HOST:PORT/STREAM", "nats+tls://"}

// sourceOptions are the options of brokers as sources.
var sourceOptions = map[string][]string{
	"kafka": {"group", "sasl", "password-file", "version"},
	"nats":  {"group", "creds"},
}

// defaultGroup is the group of a source that names none.
const defaultGroup = "tstatrepo"

// CheckSource returns a usage error if text names no broker to take lines
// from.
func CheckSource(text string) error {
	_, err := parseSource(text)
	return err
}

func parseSource(text string) (*broker, error) {
	if scheme, _ := dest.Split(text); !Brokers.Has(scheme) {
		return nil, hint.Usage("unknown kind of source", "known: "+Brokers.String())
	}
	b, err := parseBroker(text, sourceOptions)
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

// SameTopic reports whether a source gets what a consumer is given: lines
// would circulate forever.
func SameTopic(source, consumer string) bool {
	from, err := parseSource(source)
	if err != nil {
		return false
	}
	to, err := parseConsumer(consumer)
	return err == nil && to.broker != nil && to.broker.scheme == from.scheme && to.broker.name == from.name &&
		slices.ContainsFunc(from.hosts, func(h string) bool { return slices.Contains(to.broker.hosts, h) })
}

// newSource makes the source that text names. number tells it from others of
// this run.
func newSource(h *hub, text, session string, number int) (input, error) {
	b, err := parseSource(text)
	if err != nil {
		return nil, err
	}
	r := &reader{
		hub: h, log: h.log.With("source", b.String()), broker: b, group: defaultGroup, enc: newEncoder(h), probes: map[string]*readProbe{},
		window: newWindow(h.opt.Window), back: retry.New(h.opt.RetryMin, h.opt.RetryMax),
		wrong: rate.Sometimes{First: 1, Interval: 10 * time.Second},
	}
	if group, ok := b.options["group"]; ok {
		r.group = group
	}
	if b.tls {
		r.files = &h.opt.TLS
	}
	if b.scheme == "kafka" {
		return &kafkaSource{reader: r, instance: fmt.Sprintf("tstatrepo-%s-%d", session, number), session: kafkaAbsence, parts: map[int32]*part{}}, nil
	}
	return &natsSource{reader: r, handed: map[natsPosition]*natsMessage{}}, nil
}

// inbound is a message of a broker.
type inbound struct {
	key    string // names it, for message ids
	probe  string
	format string // Raw, Line; "": Raw
	path   string // of the log, with Line
	value  []byte
}

// reader hands the lines of messages to the consumers.
type reader struct {
	hub    *hub
	log    *slog.Logger
	broker *broker
	group  string
	files  *peer.TLS // nil without TLS
	back   *retry.Backoff
	enc    *encoder
	probes map[string]*readProbe
	window window
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

// of returns what is kept of a probe; nil if there are too many names.
func (r *reader) of(name string) *readProbe {
	p := r.probes[name]
	if p == nil {
		if ok, _ := r.hub.announced.add(name, "", maxProbes); !ok {
			return nil
		}
		if len(r.probes) == maxReadProbes {
			clear(r.probes)
		}
		p = &readProbe{src: r.hub.sources.of(name, r.broker.String())}
		p.split = splitter{types: r.hub.types, maxLine: r.hub.opt.MaxLine, probe: name, announced: &r.hub.announced, reject: func(reason string, line []byte) {
			p.src.rejects.Add(1)
			r.reject(1, reason, name, line)
		}}
		r.probes[name] = p
	}
	return p
}

// reject counts lines that are none.
func (r *reader) reject(lines int, reason, probe string, text []byte) {
	r.hub.stats.rejects.Add(int64(lines))
	r.wrong.Do(func() {
		r.log.Warn("lines rejected", "lines", lines, "reason", reason, "probe", probe[:min(len(probe), 80)], "line", string(text[:min(len(text), 80)]))
	})
}

// take hands over the lines of a message. taken is called once all required
// consumers have them. If there are none, sending and taken are not called;
// else sending is, before.
func (r *reader) take(ctx context.Context, m *inbound, sending, taken func()) error {
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
	most := r.hub.maxRead()
	p.split.split(buf.b, func(o *origin, from int, run []byte, lines int) error { // has no error of its own
		t := text{origin: o, src: p.src, offset: int64(from), lines: lines, bytes: run, wire: true, buf: buf}
		for len(t.bytes) > most {
			part, n := t, wholeLines(t.bytes, most)
			part.bytes, part.lines = t.bytes[:n], bytes.Count(t.bytes[:n], []byte{'\n'})
			r.runs = append(r.runs, part)
			t.offset, t.lines, t.bytes = t.offset+int64(n), t.lines-part.lines, t.bytes[n:]
		}
		r.runs = append(r.runs, t)
		return nil
	})
	r.hub.stats.empty.Add(p.split.empty)
	p.split.empty = 0
	if len(r.runs) == 0 {
		return nil
	}
	size := int64(len(m.value))
	if err := r.window.acquire(ctx, size); err != nil {
		return err
	}
	sending()
	for i, t := range r.runs {
		if i == len(r.runs)-1 {
			t.taken = func() {
				r.window.taken(size)
				taken()
			}
		}
		if err := r.hub.send(ctx, r.enc, t); err != nil {
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
	p := r.of(m.probe)
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
		buf.b = appendPrefixed(buf.b[:0], value, prefix)
	} else {
		buf.b = append(buf.b[:0], value...)
	}
	return p, buf, ""
}
