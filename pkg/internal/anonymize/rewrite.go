package anonymize

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Source says whether the addresses of a log are anonymized already.
type Source uint8

const (
	// Unknown makes it an error if it matters.
	Unknown Source = iota
	// Clear: the addresses are not anonymized.
	Clear
	// Anonymized: the addresses are anonymized.
	Anonymized
)

// ErrSource is wrapped by errors about a log that does not say whether its addresses
// are anonymized already.
var ErrSource = errors.New("the log does not say whether its addresses are anonymized already")

// RewriterOptions configures how the lines of a log are read.
type RewriterOptions struct {
	Layout   string         // see tstat.ReaderOptions
	Location *time.Location // see tstat.ReaderOptions
	// Source is called once, for the first line that has no flag that says whether
	// its addresses are anonymized, or whose names are to be encrypted.
	Source func() (Source, error)
}

// Rewriter rewrites the lines of one log. It changes only fields that are to be
// anonymized, and the flags that say so. It is not safe for concurrent use.
type Rewriter struct {
	worker
	typ    *tstat.LogType
	ropt   RewriterOptions
	lines  *tstat.Lines
	source Source // of lines without flags; Unknown until it is needed

	form  *tstat.Form
	plan  *plan // of form
	plans map[*tstat.Form]*plan
	spans []span
	row   []byte // with LF instead of CR LF
}

// span is where a field begins and ends in a line.
type span struct{ begin, end uint32 }

// plan says what is to be done with the fields of lines of one form.
type plan struct {
	fields []planned
	// Places in fields; -1 for what the lines do not have.
	client, server, resolver side
	named                    bool // there are names
	half                     int  // fields that are in the first half of the line
}

// planned is a field that may be replaced.
type planned struct {
	index   int // in the line
	privacy tstat.Privacy
	dashes  bool // "--" is NULL
	name    string
}

// isNull reports whether a text of the field is NULL.
func (p *planned) isNull(text []byte) bool {
	return len(text) == 0 || len(text) == 1 && text[0] == '-' || p.dashes && string(text) == "--"
}

// side are the fields of one address.
type side struct{ addr, internal, anonymized int }

// maxPlans bounds the forms that are remembered: each header of a log makes one.
const maxPlans = 64

// NewRewriter returns a Rewriter of logs of a type.
func (a *Anonymizer) NewRewriter(t *tstat.LogType, opt RewriterOptions) *Rewriter {
	return &Rewriter{worker: a.newWorker(), typ: t, ropt: opt, lines: tstat.NewLines(t, opt.Layout, opt.Location), plans: map[*tstat.Form]*plan{}}
}

// Line appends the rewritten line, a row or a header, to dst with its line end. A line
// that cannot be read is replaced by the reason, see tstat.AppendRemoved. An error
// concerns the whole log.
func (w *Rewriter) Line(dst, line []byte) ([]byte, error) {
	if line[0] == '#' {
		if _, err := w.lines.Header(trimEnd(line)); err != nil {
			return tstat.AppendRemoved(dst, "line begins with '#' but is not a header"), nil
		}
		w.form = nil
		return append(dst, line...), nil
	}
	row, end := line, line[len(line)-1:]
	if n := len(line); n > 1 && line[n-2] == '\r' {
		w.row = append(append(w.row[:0], line[:n-2]...), '\n')
		row, end = w.row, line[n-2:]
	}
	if len(row) == 1 {
		return append(dst, line...), nil // for the reader to reject
	}
	f, _, err := w.lines.Form(row)
	if err != nil {
		return tstat.AppendRemoved(dst, err.Error()), nil
	}
	if f != w.form {
		w.setForm(f)
	}
	if len(w.plan.fields) == 0 {
		return append(dst, line...), nil
	}
	w.split(row)
	before := len(dst)
	dst, err = w.replace(dst, row[:len(row)-1])
	var re *rowError
	if errors.As(err, &re) {
		return tstat.AppendRemoved(dst[:before], re.Error()), nil
	}
	if err != nil {
		return dst[:before], err
	}
	return append(dst, end...), nil
}

// trimEnd removes the line end.
func trimEnd(line []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte{'\n'}), []byte{'\r'})
}

// rowError says why a row cannot be anonymized. It holds no value.
type rowError struct{ column, reason string }

func (e *rowError) Error() string { return "column " + e.column + ": " + e.reason }

// setForm finds the plan of a form.
func (w *Rewriter) setForm(f *tstat.Form) {
	w.form = f
	if w.plan = w.plans[f]; w.plan != nil {
		return
	}
	if len(w.plans) == maxPlans {
		clear(w.plans)
	}
	none := side{-1, -1, -1}
	p := &plan{client: none, server: none, resolver: none}
	columns := w.lines.Columns()
	for i, c := range f.Fields {
		if c < 0 {
			continue // a field that holds no value
		}
		place := len(p.fields)
		switch columns[c].Privacy {
		case tstat.Impersonal:
			continue
		case tstat.ClientAddress:
			p.client.addr = place
		case tstat.ServerAddress:
			p.server.addr = place
		case tstat.ResolverAddress:
			p.resolver.addr = place
		case tstat.ClientInternal:
			p.client.internal = place
		case tstat.ServerInternal:
			p.server.internal = place
		case tstat.ClientAnonymized:
			p.client.anonymized = place
		case tstat.ServerAnonymized:
			p.server.anonymized = place
		case tstat.ResolverAnonymized:
			p.resolver.anonymized = place
		case tstat.HostName, tstat.Content, tstat.Answer:
			p.named = true
		}
		p.fields = append(p.fields, planned{i, columns[c].Privacy, columns[c].Dashes(), columns[c].Name})
		if i < len(f.Fields)/2 {
			p.half++
		}
	}
	w.plan, w.plans[f] = p, p
	w.spans = slices.Grow(w.spans[:0], len(p.fields))
}

// split finds the planned fields of a row, which ends in its newline and has as many
// fields as its form says: those of its first half from its start, the others from its
// end.
func (w *Rewriter) split(row []byte) {
	w.spans = w.spans[:len(w.plan.fields)]
	sep := w.typ.Separator()
	pattern := uint64(sep) * 0x0101010101010101
	w.splitFront(row, sep, pattern)
	w.splitBack(row, sep, pattern)
}

func (w *Rewriter) splitFront(row []byte, sep byte, pattern uint64) {
	p := w.plan
	at, seen := 0, 0 // seen is how many separators row[:at] has
	for i := range p.fields[:p.half] {
		index, begin := p.fields[i].index, 0
		if i > 0 && p.fields[i-1].index == index-1 { // often a flag beside another
			begin = int(w.spans[i-1].end) + 1
			index = 0
		}
		for index > 0 && at+32 <= len(row) {
			n := count32(row[at:at+32], pattern)
			if seen+n >= index {
				break
			}
			seen += n
			at += 32
		}
		for index > 0 {
			if at+8 > len(row) {
				begin = at
				for n := seen; n < index; begin++ {
					if row[begin] == sep {
						n++
					}
				}
				break
			}
			mask := separators(binary.LittleEndian.Uint64(row[at:]), pattern)
			if n := bits.OnesCount64(mask); seen+n < index {
				seen += n
				at += 8
				continue
			}
			for range index - seen - 1 {
				mask &= mask - 1
			}
			begin = at + bits.TrailingZeros64(mask)>>3 + 1
			break
		}
		end := begin
		for row[end] != sep && row[end] != '\n' {
			end++
		}
		w.spans[i] = span{uint32(begin), uint32(end)}
	}
}

func (w *Rewriter) splitBack(row []byte, sep byte, pattern uint64) {
	p := w.plan
	at, seen := len(row)-1, 0 // seen is how many separators row[at:] has
	for i := len(p.fields) - 1; i >= p.half; i-- {
		behind := len(w.form.Fields) - 1 - p.fields[i].index // separators behind the field
		end := len(row) - 1
		if i+1 < len(p.fields) && p.fields[i+1].index == p.fields[i].index+1 {
			end = int(w.spans[i+1].begin) - 1
			behind = 0
		}
		for behind > 0 && at >= 32 {
			n := count32(row[at-32:at], pattern)
			if seen+n >= behind {
				break
			}
			seen += n
			at -= 32
		}
		for behind > 0 {
			if at < 8 {
				end = at
				for n := seen; n < behind; {
					if end--; row[end] == sep {
						n++
					}
				}
				break
			}
			mask := separators(binary.LittleEndian.Uint64(row[at-8:]), pattern)
			if n := bits.OnesCount64(mask); seen+n < behind {
				seen += n
				at -= 8
				continue
			}
			for range behind - seen - 1 {
				mask &^= 1 << (63 - bits.LeadingZeros64(mask))
			}
			end = at - 8 + (63-bits.LeadingZeros64(mask))>>3
			break
		}
		begin := end
		for begin > 0 && row[begin-1] != sep {
			begin--
		}
		w.spans[i] = span{uint32(begin), uint32(end)}
	}
}

// separators returns a word with the highest bit of each byte set that equals the
// byte of the pattern.
func separators(word, pattern uint64) uint64 {
	const low = 0x7f7f7f7f7f7f7f7f
	x := word ^ pattern
	return ^((x&low + low) | x | low)
}

// count32 returns how many of 32 bytes equal the byte of the pattern.
func count32(text []byte, pattern uint64) int {
	text = text[:32]
	return bits.OnesCount64(separators(binary.LittleEndian.Uint64(text), pattern)>>7 | separators(binary.LittleEndian.Uint64(text[8:]), pattern)>>6 |
		separators(binary.LittleEndian.Uint64(text[16:]), pattern)>>5 | separators(binary.LittleEndian.Uint64(text[24:]), pattern)>>4)
}

func (w *Rewriter) field(row []byte, place int) []byte {
	s := w.spans[place]
	return row[s.begin:s.end]
}

// decision is what happens to an address.
type decision struct {
	replace bool
	addr    address
}

// replace appends a row with its planned fields replaced.
func (w *Rewriter) replace(dst, row []byte) ([]byte, error) {
	p := w.plan
	client, seen1, err := w.decide(row, p.client)
	if err != nil {
		return dst, err
	}
	server, seen2, err := w.decide(row, p.server)
	if err != nil {
		return dst, err
	}
	resolver, _, err := w.decide(row, p.resolver)
	if err != nil {
		return dst, err
	}
	anonymized := seen1 || seen2 // then the source also encrypted the names, if it was to
	if w.opt.Names == "encrypt" && p.named && !anonymized && !w.keepsNames() {
		// Tstat encrypts the names of all rows, also of those without a flag.
		if err := w.findSource(); err != nil {
			return dst, err
		}
		anonymized = w.source == Anonymized
	}
	keep := w.opt.Names == "keep" || anonymized && w.opt.Names == "encrypt"
	done := uint32(0) // of row
	for i := range p.fields {
		f, s := &p.fields[i], w.spans[i]
		old := row[s.begin:s.end]
		var d decision
		switch f.privacy {
		case tstat.ClientInternal, tstat.ServerInternal:
			continue
		case tstat.ClientAddress, tstat.ClientAnonymized:
			d = client
		case tstat.ServerAddress, tstat.ServerAnonymized:
			d = server
		case tstat.ResolverAddress, tstat.ResolverAnonymized:
			d = resolver
		}
		switch f.privacy {
		case tstat.ClientAddress, tstat.ServerAddress, tstat.ResolverAddress:
			if d.replace {
				dst = w.appendAddress(append(dst, row[done:s.begin]...), d.addr)
				done = s.end
			}
		case tstat.ClientAnonymized, tstat.ServerAnonymized, tstat.ResolverAnonymized:
			if d.replace {
				dst = append(append(dst, row[done:s.begin]...), '1')
				done = s.end
			}
		default:
			if f.isNull(old) || keep && f.privacy != tstat.Unclassified && !mayHaveAddress(old) {
				continue
			}
			dst = w.appendText(append(dst, row[done:s.begin]...), old, f, anonymized)
			done = s.end
		}
	}
	return append(dst, row[done:]...), nil
}

// decide returns what happens to an address of a row. anonymized reports whether
// the source has anonymized it.
func (w *Rewriter) decide(row []byte, s side) (d decision, anonymized bool, err error) {
	if s.addr < 0 {
		return decision{}, false, nil
	}
	text := w.field(row, s.addr)
	if s.anonymized >= 0 {
		if flag := w.field(row, s.anonymized); len(flag) == 1 && flag[0] == '1' {
			return decision{}, true, nil
		}
	} else if s != w.plan.resolver || w.plan.client.anonymized < 0 { // 3.0 has no flag for the resolver
		if err := w.findSource(); err != nil {
			return decision{}, false, err
		}
		if w.source == Anonymized {
			return decision{}, true, nil
		}
	}
	f := &w.plan.fields[s.addr]
	if f.isNull(text) {
		return decision{}, false, nil
	}
	addr, ok := parseAddress(text)
	if !ok {
		return decision{}, false, &rowError{f.name, "not an address"}
	}
	where := unknownSide
	if s.internal >= 0 {
		if flag := w.field(row, s.internal); len(flag) == 1 && flag[0] == '0' {
			where = isExternal
		} else {
			where = isInternal
		}
	}
	return decision{w.covers(addr, where), addr}, false, nil
}

// findSource asks for the source of lines without flags.
func (w *Rewriter) findSource() error {
	if w.source != Unknown {
		return nil
	}
	source, err := Unknown, error(nil)
	if w.ropt.Source != nil {
		source, err = w.ropt.Source()
	}
	if err != nil {
		return err
	}
	if source == Unknown {
		return hint.Add(ErrSource, "say so with `source-is` clear or anonymized")
	}
	w.source = source
	return nil
}

// appendText appends the rewritten text of a field.
func (w *Rewriter) appendText(dst, text []byte, f *planned, anonymized bool) []byte {
	if f.privacy == tstat.Unclassified {
		return append(dst, '-')
	}
	if f.privacy == tstat.Answer {
		if addr, ok := parseAddress(text); ok {
			if !anonymized && w.covers(addr, unknownSide) {
				return w.appendAddress(dst, addr)
			}
			return append(dst, text...)
		}
	}
	switch {
	case w.opt.Names == "drop":
		return append(dst, '-')
	case anonymized:
		return append(dst, text...)
	case w.opt.Names == "encrypt" && !w.keepsNames():
		return w.appendEncrypted(dst, text)
	default:
		return w.appendLiterals(dst, text)
	}
}

// keepsNames reports whether Tstat's --enc keeps the names of the log type clear, and
// the mode is Tstat's.
func (w *Rewriter) keepsNames() bool {
	return w.opt.Mode == "tstat" && (w.typ.Name == "log_http_complete" || w.typ.Name == "log_dns_complete")
}
