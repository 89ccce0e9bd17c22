// Package encode converts log lines to the format of a stream: unchanged lines,
// selected columns, or JSON.
package encode

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/stats"
)

// Options configures an Encoding.
type Options struct {
	Format   batch.Format
	Select   []string       // columns, for Line and JSON; nil: all
	Layout   string         // Tstat version of lines without a header, see tstat.NewLines
	Location *time.Location // time zone of times without a zone
	State    string         // path of the file that holds known headers
	Counts   *stats.Stream  // of rejects
	Log      *slog.Logger
}

// Encoding creates the encoders of a stream. The encoders share the headers received so
// far.
type Encoding struct{ *common }

// common is shared by the encoders of an Encoding.
type common struct {
	opt      Options
	layouts  *layouts
	warnings rate.Sometimes // limits warnings about malformed lines
}

// New returns an encoding with the headers saved in opt.State.
func New(opt Options) (*Encoding, error) {
	l, err := openLayouts(opt.State)
	if err != nil {
		return nil, err
	}
	return &Encoding{&common{opt: opt, layouts: l, warnings: rate.Sometimes{First: 1, Interval: time.Minute}}}, nil
}

// Run saves headers every 5 seconds until ctx is done. The caller must call Save
// afterwards.
func (e *Encoding) Run(ctx context.Context) {
	for retry.Sleep(ctx, 5*time.Second) == nil {
		e.Save()
	}
}

// Save saves the headers in the state file if any have changed. It logs an error instead
// of returning it.
func (e *Encoding) Save() { e.layouts.save(e.opt.Log) }

// maxEncoders is the maximum number of logs for which an Encoder keeps state.
const maxEncoders = 256

// Encoder converts the lines of one source. It is not safe for concurrent use.
type Encoder struct {
	*common
	logs   map[string]*logEncoder // by probe and log
	last   *logEncoder
	from   *batch.Origin // the log that e.last converts
	source *stats.Source // of the current lines
	lf     []byte        // scratch of withLF
}

// logEncoder converts the lines of one probe's log.
type logEncoder struct {
	*Encoder
	probe    string
	typ      *tstat.LogType // nil if unknown
	lines    *tstat.Lines
	known    headers
	version  int // of the layouts, see layouts.get
	forms    map[*tstat.Form]*form
	lead     []byte // JSON that all rows of the log share
	path     string // the path in lead
	calendar tstat.Calendar
	where    []int // scratch of pickedJSON
}

// form is the encoding plan for lines with the same tstat.Form, that is, with the same
// columns.
type form struct {
	*tstat.Form
	fields []field
	// picked holds the indexes of the selected fields in output order, and -1 for
	// columns that the lines lack. It is nil if no columns are selected.
	picked []int
	names  [][]byte // JSON of the picked columns' names
	derive *derived
	kind   []byte // JSON value of the column "kind" of log_http_complete
	room   int    // bytes to reserve for the names and numbers of a row
}

// NewEncoder returns an encoder for one source.
func (e *Encoding) NewEncoder() *Encoder {
	return &Encoder{common: e.common, logs: map[string]*logEncoder{}}
}

// Growth estimates the ratio of encoded bytes to input bytes.
func (e *Encoder) Growth() int {
	if e.opt.Format == batch.JSON {
		return 6
	}
	return 1
}

// Encode appends the lines of t to dst in Options.Format, which must be Line or
// JSON. It counts and skips malformed lines.
func (e *Encoder) Encode(dst []byte, t batch.Text) []byte {
	l := e.last
	e.source = t.Source
	if e.from != t.Origin {
		l = e.lookup(t.Origin)
		e.last, e.from = l, t.Origin
	}
	plain := e.opt.Format == batch.Line && len(e.opt.Select) == 0
	if !plain && l.lines != nil {
		l.refresh()
	}
	skip := 0
	if t.Wire {
		skip = len(t.Prefix)
	}
	for rest := t.Bytes; len(rest) > 0; {
		n := bytes.IndexByte(rest, '\n') + 1
		line := rest[skip:n]
		rest = rest[n:]
		if k := len(line); k > 1 && line[k-2] == '\r' {
			line = e.withLF(line)
		}
		switch {
		case line[0] == '#':
			if _, removed := tstat.RemovedReason(line); !plain && !(removed && t.Removed) {
				l.header(line[:len(line)-1])
			}
		case len(line) == 1: // empty
		case plain:
			dst = append(dst, line...)
		case l.lines == nil:
			dst = l.unknown(dst, line)
		default:
			dst = l.row(dst, line)
		}
	}
	return dst
}

// withLF returns a copy of line that ends with LF instead of CR LF. It does not modify
// the original, which some sinks send unchanged. The copy is valid until the next call.
func (e *Encoder) withLF(line []byte) []byte {
	e.lf = append(append(e.lf[:0], line[:len(line)-2]...), '\n')
	return e.lf
}

// lookup returns the encoder of a log, and creates it if necessary.
func (e *Encoder) lookup(o *batch.Origin) *logEncoder {
	key := o.Probe + " " + o.Type
	l := e.logs[key]
	if l == nil {
		if len(e.logs) == maxEncoders {
			clear(e.logs)
		}
		l = &logEncoder{Encoder: e, probe: o.Probe, typ: tstat.TypeByName(o.Type)}
		if l.typ != nil {
			l.load()
		}
		e.logs[key] = l
	}
	if l.path != o.Path || l.lead == nil {
		l.path = o.Path
		l.lead = append(appendJSON([]byte(`{"probe":`), []byte(o.Probe)), `,"type":`...)
		l.lead = append(appendJSON(l.lead, []byte(o.Type)), `,"source":`...)
		l.lead = appendJSON(l.lead, []byte(o.Path))
	}
	return l
}

// refresh loads the headers again if another encoder has added some.
func (l *logEncoder) refresh() {
	if l.version != l.layouts.current() {
		l.load()
	}
}

// load makes l use the headers that l.layouts has for the log, and discards all encoding
// plans.
func (l *logEncoder) load() {
	l.known, l.version = l.layouts.get(l.probe, l.typ.Name)
	lines := tstat.NewLines(l.typ, l.opt.Layout, l.opt.Location)
	for _, text := range l.known {
		lines.Header([]byte(text)) // was valid when it was saved
	}
	l.lines, l.forms = lines, map[*tstat.Form]*form{}
}

// header makes a header line apply to the lines that follow, and records it in l.layouts.
func (l *logEncoder) header(line []byte) {
	if l.lines == nil {
		return
	}
	for _, text := range l.known {
		if text == string(line) {
			return // unchanged: each log starts with a header
		}
	}
	part, err := l.lines.Header(line)
	if err != nil {
		l.reject(line, err.Error())
		return
	}
	clear(l.forms)
	l.layouts.set(l.probe, l.typ.Name, part, string(line))
	l.known, _ = l.layouts.get(l.probe, l.typ.Name)
}

func (l *logEncoder) reject(line []byte, reason string) {
	l.opt.Counts.Rejects.Add(1)
	l.source.Rejects.Add(1)
	l.warnings.Do(func() {
		l.opt.Log.Warn("line rejected", "probe", l.probe, "log", l.path, "reason", reason, "line", string(line[:min(len(line), 80)]))
	})
}

// form creates the encoding plan for f and keeps it in l.forms.
func (l *logEncoder) form(f *tstat.Form) *form {
	c := &form{Form: f}
	columns := l.lines.Columns()
	if f.Version != "" && l.layouts.guessed(l.probe, l.typ.Name, f.Version) {
		l.opt.Log.Warn("no header received, and several versions have this many columns: newest assumed",
			"probe", l.probe, "type", l.typ.Name, "version", f.Version, "columns", len(f.Fields), "hint", "name the version with `layout`")
	}
	if l.typ.Column("kind") >= 0 && f.Part != "row" {
		c.kind = appendJSON(nil, []byte(f.Part))
	}
	for _, i := range f.Fields {
		d := field{}
		if i >= 0 {
			d = newField(columns[i])
		}
		c.room += len(d.name) + 2*shortName
		c.fields = append(c.fields, d)
	}
	c.derive = l.derived(c)
	for _, name := range l.opt.Select {
		at := slices.IndexFunc(c.fields, func(d field) bool { return d.valued && d.Name == name })
		c.picked = append(c.picked, at)
		c.names = append(c.names, append(appendJSON([]byte{','}, []byte(name)), ':'))
	}
	l.forms[f] = c
	return c
}

// row appends a line in Options.Format. It rejects malformed lines.
func (l *logEncoder) row(dst, line []byte) []byte {
	f, text, err := l.lines.Form(line)
	if err != nil {
		l.reject(line, err.Error())
		return dst
	}
	c := l.forms[f]
	if c == nil {
		c = l.form(f)
	}
	start := len(dst)
	switch {
	case l.opt.Format == batch.Line:
		return l.picked(dst, text, c)
	case c.picked != nil:
		dst, err = l.pickedJSON(dst, text, c)
	default:
		dst, err = l.json(dst, text, c)
	}
	if err != nil {
		l.reject(line, err.Error())
		return dst[:start]
	}
	return dst
}

// picked appends the selected columns of a line unchanged, with "-" for missing
// columns.
func (l *logEncoder) picked(dst, line []byte, c *form) []byte {
	sep := l.typ.Separator()
	fields := bytes.Split(line[:len(line)-1], []byte{sep})
	for i, at := range c.picked {
		if i > 0 {
			dst = append(dst, sep)
		}
		if at < 0 {
			dst = append(dst, '-')
		} else {
			dst = append(dst, fields[at]...)
		}
	}
	return append(dst, '\n')
}

// unknown appends a line from a log of an unknown type.
func (l *logEncoder) unknown(dst, line []byte) []byte {
	if l.opt.Format == batch.Line {
		return append(dst, line...)
	}
	dst = append(append(dst, l.lead...), `,"line":`...)
	dst = appendJSON(dst, line[:len(line)-1])
	return append(dst, '}', '\n')
}
