package source

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

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/broker"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/stats"
)

// brokerOptions lists the URL options of brokers that are used as sources.
var brokerOptions = map[string][]string{
	"kafka": {"group", "sasl", "password-file", "version"},
	"nats":  {"group", "creds"},
}

// defaultGroup is the consumer group if the URL has no group option.
const defaultGroup = "tstatrepo"

// Parse parses the URL of a broker that is read as a source. It returns a usage
// error if the URL is invalid.
func Parse(text string) (*broker.Broker, error) {
	if scheme, _ := dest.Split(text); !broker.Kinds.Has(scheme) {
		return nil, hint.Usage("unknown kind of source", "known: "+broker.Kinds.String())
	}
	b, err := broker.Parse(text, brokerOptions)
	if err != nil {
		return nil, err
	}
	valid := broker.IsTopic
	if b.Scheme == "nats" {
		valid = broker.IsStream
	}
	if group, ok := b.Options["group"]; ok && !valid(group) {
		return nil, hint.Usage(fmt.Sprintf("%q is not the name of a group", group), "use letters, digits, '_' and '-'")
	}
	return b, nil
}

// Subscribe returns an Input that reads from the broker at the given URL. number must be
// unique within the run.
func (s *Set) Subscribe(text string, number int) (Input, error) {
	b, err := Parse(text)
	if err != nil {
		return nil, err
	}
	r := &reader{
		set: s, log: s.opt.Log.With("source", b.String()), broker: b, group: defaultGroup, inlet: s.opt.NewInlet(), probes: map[string]*readProbe{},
		window: batch.NewWindow(s.opt.Window), back: retry.New(s.opt.RetryMin, s.opt.RetryMax),
		warnings: rate.Sometimes{First: 1, Interval: 10 * time.Second},
	}
	if group, ok := b.Options["group"]; ok {
		r.group = group
	}
	if b.TLS {
		r.files = &s.opt.TLS
	}
	if b.Scheme == "kafka" {
		return &kafkaSource{reader: r, instance: fmt.Sprintf("tstatrepo-%s-%d", s.Session(), number), session: kafkaAbsence, parts: map[int32]*part{}}, nil
	}
	return &natsSource{reader: r, delivered: map[natsPosition]*natsMessage{}}, nil
}

// inbound is a message from a broker.
type inbound struct {
	key    string // unique; sinks derive the ids of their messages from it
	probe  string
	format string // a batch.Format; "" means Raw
	path   string // of the log; required for Line
	value  []byte
}

// reader delivers the lines of broker messages. It is shared by kafkaSource and
// natsSource.
type reader struct {
	set      *Set
	log      *slog.Logger
	broker   *broker.Broker
	group    string
	files    *peer.TLS // nil without TLS
	back     *retry.Backoff
	inlet    Inlet
	probes   map[string]*readProbe
	window   *batch.Window
	warnings rate.Sometimes
	runs     []batch.Text // scratch
}

// readProbe is the state that a reader keeps for one probe.
type readProbe struct {
	split protocol.Splitter
	src   *stats.Source
}

// maxReadProbes is the maximum number of probes for which a reader keeps state.
const maxReadProbes = 256

// maxOpened is the maximum size in bytes of a message after reader.open has put the path
// before each line. Short lines and a long path could otherwise exhaust memory.
const maxOpened = 32 << 20

// probe returns the state of a probe, or nil if too many names have been announced.
func (r *reader) probe(name string) *readProbe {
	p := r.probes[name]
	if p == nil {
		if ok, _ := r.set.announced.Add(name, "", maxProbes); !ok {
			return nil
		}
		if len(r.probes) == maxReadProbes {
			clear(r.probes)
		}
		p = &readProbe{src: r.set.counts.Sources.Lookup(name, r.broker.String())}
		p.split = protocol.Splitter{Types: &r.set.types, MaxLine: r.set.opt.MaxLine, Probe: name, Announced: &r.set.announced, Reject: func(reason string, line []byte) {
			p.src.Rejects.Add(1)
			r.reject(1, reason, name, line)
		}}
		r.probes[name] = p
	}
	return p
}

// reject counts malformed lines and logs a rate-limited warning.
func (r *reader) reject(lines int, reason, probe string, text []byte) {
	r.set.counts.Rejects.Add(int64(lines))
	r.warnings.Do(func() {
		r.log.Warn("lines rejected", "lines", lines, "reason", reason, "probe", probe[:min(len(probe), 80)], "line", string(text[:min(len(text), 80)]))
	})
}

// deliver delivers the lines of a message. It calls delivering before the first
// delivery, and acked after all lines are acked. If the message has no valid
// lines, it calls neither and returns nil.
func (r *reader) deliver(ctx context.Context, m *inbound, delivering, acked func()) error {
	if len(m.value) == 0 {
		return nil
	}
	p, buf, reason := r.open(m)
	if reason != "" {
		r.reject(max(1, bytes.Count(m.value, []byte{'\n'})), reason, m.probe, m.value)
		return nil
	}
	defer buf.Release()
	p.split.Key, p.split.Last = m.key, nil
	r.runs = r.runs[:0]
	most := r.set.opt.MaxRead
	p.split.Split(buf.Bytes, func(o *batch.Origin, from int, run []byte, lines int) error { // returns no error itself
		t := batch.Text{Origin: o, Source: p.src, Offset: int64(from), Lines: lines, Bytes: run, Wire: true, Buffer: buf}
		for len(t.Bytes) > most {
			part, n := t, protocol.WholeLines(t.Bytes, most)
			part.Bytes, part.Lines = t.Bytes[:n], bytes.Count(t.Bytes[:n], []byte{'\n'})
			r.runs = append(r.runs, part)
			t.Offset, t.Lines, t.Bytes = t.Offset+int64(n), t.Lines-part.Lines, t.Bytes[n:]
		}
		r.runs = append(r.runs, t)
		return nil
	})
	r.set.counts.Empty.Add(p.split.Empty)
	p.split.Empty = 0
	if len(r.runs) == 0 {
		return nil
	}
	size := int64(len(m.value))
	if err := r.window.Reserve(ctx, size); err != nil {
		return err
	}
	delivering()
	for i, t := range r.runs {
		if i == len(r.runs)-1 {
			t.Acked = func() {
				r.window.Ack(size)
				acked()
			}
		}
		if err := r.inlet.Deliver(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// open returns the state of the message's probe, and the message in wire format. If it
// rejects the message, it returns a reason instead.
func (r *reader) open(m *inbound) (*readProbe, *batch.Buffer, string) {
	if !protocol.IsSession(m.probe) {
		return nil, nil, "it has no name of a probe"
	}
	format := batch.Format(m.format)
	switch {
	case format == "":
		format = batch.Raw
	case format == batch.JSON:
		return nil, nil, "the line is JSON, not a line of a log: the sender needs the format raw or line"
	case format != batch.Raw && format != batch.Line:
		return nil, nil, "its format is not known"
	}
	if format == batch.Line && (!strings.HasPrefix(m.path, "/") || strings.ContainsAny(m.path, " \n") || len(m.path) > protocol.MaxPath) {
		return nil, nil, "it has no path of a log"
	}
	p := r.probe(m.probe)
	if p == nil {
		return nil, nil, fmt.Sprintf("its probe is one too many, at most %d names are accepted", maxProbes)
	}
	value := m.value
	if value[len(value)-1] != '\n' { // an unterminated line from another program
		value = append(slices.Clip(value), '\n')
	}
	size, prefix := len(value), []byte(m.path+" ")
	if format == batch.Line {
		size += bytes.Count(value, []byte{'\n'}) * len(prefix)
	}
	if size > maxOpened {
		return nil, nil, fmt.Sprintf("with the path before each line it is more than %d bytes", maxOpened)
	}
	buf := batch.NewBuffer(size)
	if format == batch.Line {
		buf.Bytes = protocol.AppendPrefixed(buf.Bytes[:0], value, prefix)
	} else {
		buf.Bytes = append(buf.Bytes[:0], value...)
	}
	return p, buf, ""
}
