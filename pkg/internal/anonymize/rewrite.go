package anonymize

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Source says whether the addresses in a log are already anonymized.
type Source uint8

const (
	// Unknown means that it is not known whether the addresses are anonymized. A Rewriter
	// that needs to know fails with ErrSource.
	Unknown Source = iota
	// Clear means that the addresses are not anonymized.
	Clear
	// Anonymized means that the addresses are anonymized.
	Anonymized
)

// ErrSource is returned if neither the log nor RewriterOptions.Source says whether the
// addresses in the log are already anonymized.
var ErrSource = errors.New("the log does not say whether its addresses are anonymized already")

// RewriterOptions describes the logs that a Rewriter reads.
type RewriterOptions struct {
	Layout   string         // see tstat.ReaderOptions
	Location *time.Location // see tstat.ReaderOptions
	// Source says whether the addresses in lines without an anonymization flag are
	// already anonymized. It is called at the first such line or the first name to
	// encrypt, and not again once it has succeeded. Nil means Unknown.
	Source func() (Source, error)
}

// Rewriter rewrites the lines of one log. It changes only the fields to anonymize and the
// anonymization flags. It is not safe for concurrent use.
type Rewriter struct {
	worker
	typ    *tstat.LogType
	ropt   RewriterOptions
	lines  *tstat.Lines
	source Source // of lines without flags; Unknown until needed

	form  *tstat.Form
	plan  *plan // of form
	plans map[*tstat.Form]*plan
	spans []span // of the planned fields in the current line
	row   []byte // buffer for a line with LF instead of CR LF

	decisions [3]decision      // by side, for the current row
	replaced  []tstat.Replaced // in the last row
}

// span is the position of a field in a line, in bytes.
type span struct{ begin, end uint32 }

// plan lists the fields that may be replaced in lines with the same columns, that is,
// with the same tstat.Form.
type plan struct {
	fields []planned // in the order of the line
	sides  [3]side
	named  bool // some fields hold names
	half   int  // number of fields in the first half of the line
}

// Indexes of the sides of a row.
const (
	clientSide = iota
	serverSide
	resolverSide
)

// planned is a field that may be replaced.
type planned struct {
	index   int // position in the line, counted from 0
	privacy tstat.Privacy
	use     use
	side    int    // whose address or flag it is, unless use is textField
	dashes  bool   // "--" stands for NULL
	name    string // of the column
}

// use says what a planned field holds.
type use uint8

const (
	textField      use = iota // a text that may contain names and addresses
	addressField              // the address of a side
	internalFlag              // whether the address of a side is internal
	anonymizedFlag            // whether Tstat has anonymized the address of a side
)

// isNull reports whether text, a value of field p, stands for NULL.
func (p *planned) isNull(text []byte) bool {
	return len(text) == 0 || len(text) == 1 && text[0] == '-' || p.dashes && string(text) == "--"
}

// side holds the index of an address in plan.fields, and the indexes of its flags. An
// index of -1 means that the lines of the plan have no such field.
type side struct{ addr, internal, anonymized int }

// maxPlans is the maximum number of cached plans. It is limited because each header in
// a log creates a new tstat.Form, which needs a plan.
const maxPlans = 64

// NewRewriter returns a Rewriter for logs of type t.
func (a *Anonymizer) NewRewriter(t *tstat.LogType, opt RewriterOptions) *Rewriter {
	return &Rewriter{worker: a.newWorker(), typ: t, ropt: opt, lines: tstat.NewLines(t, opt.Layout, opt.Location), plans: map[*tstat.Form]*plan{}}
}

// Line rewrites a row or a header, passed with its line end, and appends it to dst. It
// replaces an invalid line with the reason; see tstat.AppendRemoved. After an error, the
// log cannot be rewritten.
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
		return append(dst, line...), nil // the tstat.Reader rejects empty lines
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

// Row implements tstat.RowRewriter. The columns of the row must be those of the last
// row passed to Line.
func (w *Rewriter) Row(dst, row []byte, fields tstat.Fields) (out []byte, replaced []tstat.Replaced, ok bool) {
	if w.form == nil || len(fields) != len(w.form.Fields) {
		return dst, nil, false
	}
	w.spans = w.spans[:len(w.plan.fields)]
	for i := range w.plan.fields {
		f := w.plan.fields[i].index
		w.spans[i] = span{fields.Begin(f), fields[f]}
	}
	out, err := w.replace(dst, row[:len(row)-1])
	if err != nil {
		return dst, nil, false // Line says why
	}
	return append(out, '\n'), w.replaced, true
}

// trimEnd returns line without its line end, which is LF or CR LF.
func trimEnd(line []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte{'\n'}), []byte{'\r'})
}

// rowError says why a row cannot be anonymized, without revealing a value.
type rowError struct{ column, reason string }

func (e *rowError) Error() string { return "column " + e.column + ": " + e.reason }

// setForm prepares w for rows with the form f: it sets w.form and w.plan.
func (w *Rewriter) setForm(f *tstat.Form) {
	w.form = f
	if w.plan = w.plans[f]; w.plan != nil {
		return
	}
	if len(w.plans) == maxPlans {
		clear(w.plans)
	}
	none := side{-1, -1, -1}
	p := &plan{sides: [3]side{none, none, none}}
	columns := w.lines.Columns()
	for i, c := range f.Fields {
		if c < 0 {
			continue // a field that holds no value
		}
		field := planned{index: i, privacy: columns[c].Privacy, dashes: columns[c].Dashes(), name: columns[c].Name}
		switch field.privacy {
		case tstat.Impersonal:
			continue
		case tstat.ClientAddress, tstat.ClientInternal, tstat.ClientAnonymized:
			field.side = clientSide
		case tstat.ServerAddress, tstat.ServerInternal, tstat.ServerAnonymized:
			field.side = serverSide
		case tstat.ResolverAddress, tstat.ResolverAnonymized:
			field.side = resolverSide
		}
		s := &p.sides[field.side]
		switch field.privacy {
		case tstat.ClientAddress, tstat.ServerAddress, tstat.ResolverAddress:
			field.use, s.addr = addressField, len(p.fields)
		case tstat.ClientInternal, tstat.ServerInternal:
			field.use, s.internal = internalFlag, len(p.fields)
		case tstat.ClientAnonymized, tstat.ServerAnonymized, tstat.ResolverAnonymized:
			field.use, s.anonymized = anonymizedFlag, len(p.fields)
		case tstat.HostName, tstat.Content, tstat.Answer:
			p.named = true
		}
		p.fields = append(p.fields, field)
		if i < len(w.form.Fields)/2 {
			p.half++
		}
	}
	w.plan, w.plans[f] = p, p
	w.spans = slices.Grow(w.spans[:0], len(p.fields))
}

func (w *Rewriter) field(row []byte, place int) []byte {
	s := w.spans[place]
	return row[s.begin:s.end]
}

// decision says whether to replace the address of one side of a row.
type decision struct {
	replace bool
	addr    address // if replace is set
}

// replace appends a row, passed without its line end, to dst. It replaces those fields in
// w.plan that must be anonymized.
func (w *Rewriter) replace(dst, row []byte) ([]byte, error) {
	p := w.plan
	anonymized := false // Tstat then also encrypted the names if --enc was set
	for i := range p.sides {
		seen, err := w.decide(row, i)
		if err != nil {
			return dst, err
		}
		anonymized = anonymized || seen && i != resolverSide
	}
	if w.opt.Names == "encrypt" && p.named && !anonymized && !w.keepsNames() {
		// Tstat encrypts the names of all rows, also of those without a flag.
		if err := w.findSource(); err != nil {
			return dst, err
		}
		anonymized = w.source == Anonymized
	}
	keep := w.opt.Names == "keep" || anonymized && w.opt.Names == "encrypt"
	done := uint32(0) // bytes of row in dst
	start := len(dst)
	w.replaced = w.replaced[:0]
	for i := range p.fields {
		f, s := &p.fields[i], w.spans[i]
		old := row[s.begin:s.end]
		switch {
		case f.use == internalFlag:
			continue
		case f.use != textField:
			if !w.decisions[f.side].replace {
				continue
			}
		case f.isNull(old) || (keep && f.privacy != tstat.Unclassified || f.privacy == tstat.FreeText) && !mayHaveAddress(old):
			continue
		}
		dst = append(dst, row[done:s.begin]...)
		begin := len(dst)
		switch f.use {
		case addressField:
			dst = w.appendAddress(dst, w.decisions[f.side].addr)
		case anonymizedFlag:
			dst = append(dst, '1')
		default:
			dst = w.appendText(dst, old, f, anonymized)
		}
		done = s.end
		w.replaced = append(w.replaced, tstat.Replaced{Field: f.index, Begin: uint32(begin - start), End: uint32(len(dst) - start)})
	}
	return append(dst, row[done:]...), nil
}

// decide sets the decision for a side of row. anonymized reports whether Tstat has
// already anonymized the address of that side.
func (w *Rewriter) decide(row []byte, index int) (anonymized bool, err error) {
	s, d := &w.plan.sides[index], &w.decisions[index]
	d.replace = false
	if s.addr < 0 {
		return false, nil
	}
	text := w.field(row, s.addr)
	if s.anonymized >= 0 {
		if flag := w.field(row, s.anonymized); len(flag) == 1 && flag[0] == '1' {
			return true, nil
		}
	} else if index != resolverSide || w.plan.sides[clientSide].anonymized < 0 { // Tstat 3.0 has no flag for the resolver
		if err := w.findSource(); err != nil {
			return false, err
		}
		if w.source == Anonymized {
			return true, nil
		}
	}
	f := &w.plan.fields[s.addr]
	if f.isNull(text) {
		return false, nil
	}
	addr, ok := parseAddress(text)
	if !ok {
		return false, &rowError{f.name, "not an address"}
	}
	where := unknownSide
	if s.internal >= 0 {
		if flag := w.field(row, s.internal); len(flag) == 1 && flag[0] == '0' {
			where = isExternal
		} else {
			where = isInternal
		}
	}
	if w.covers(addr, where) {
		d.replace, d.addr = true, addr
	}
	return false, nil
}

// findSource sets w.source, which says whether the addresses in lines without
// anonymization flags are already anonymized. It returns an error if this is unknown.
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

// appendText appends the replacement of text, which is a value of field f. anonymized
// says whether Tstat has already anonymized the row.
func (w *Rewriter) appendText(dst, text []byte, f *planned, anonymized bool) []byte {
	if f.privacy == tstat.Unclassified {
		return append(dst, '-')
	}
	if f.privacy == tstat.Answer && !(anonymized && w.opt.Names == "drop") {
		if addr, ok := parseAddress(text); ok {
			if !anonymized && w.covers(addr, unknownSide) {
				return w.appendAddress(dst, addr)
			}
			return append(dst, text...)
		}
	}
	name := f.privacy != tstat.FreeText
	switch {
	case name && w.opt.Names == "drop":
		return append(dst, '-')
	case anonymized:
		return append(dst, text...)
	case name && w.opt.Names == "encrypt" && !w.keepsNames():
		return w.appendEncrypted(dst, text)
	default:
		return w.appendLiterals(dst, text)
	}
}

// keepsNames reports whether the mode is tstat and Tstat's --enc does not encrypt the
// names in logs of the type that w rewrites.
func (w *Rewriter) keepsNames() bool {
	return w.opt.Mode == "tstat" && (w.typ.Name == "log_http_complete" || w.typ.Name == "log_dns_complete")
}
