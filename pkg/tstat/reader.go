package tstat

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
)

// MaxLine is the maximum length of a line, in bytes. A longer line is rejected as a
// whole. Tstat's longest lines are only a few kB long.
const MaxLine = 1 << 20

// blockSize is the size of the text buffer, in bytes. A line that fills the buffer is
// skipped.
const blockSize = MaxLine

// maxExtra is the maximum number of columns in a file that are unknown to its log type. A
// limit is needed because each column costs memory.
const maxExtra = 256

// layoutLines is the number of lines that are examined to determine the layout of a file
// without header.
const layoutLines = 100

// ReaderOptions configures how a log is read.
type ReaderOptions struct {
	// Location is the probe's time zone, which is needed for the local dates in
	// log_chat_messages of Tstat up to 3.0. nil means UTC.
	Location *time.Location
	// Layout is one of LogType.Versions. For a file without header, the Reader
	// considers only the layouts of that version.
	Layout string
	// Extra lists the unknown columns in later headers of the file; see
	// NewColumnsError.
	Extra []string
	// Use determines how each column is used; nil keeps all columns. Values that are
	// not decoded are not checked either.
	Use func(Column) Use
	// Marks lists the lengths of text, in bytes, at which the fingerprint is recorded;
	// see Reader.Mark.
	Marks []int64
	// Ahead makes a goroutine decompress the file while the caller parses its rows. The
	// goroutine also reads from the reader that Rewrite returned, unless Rows is in
	// use. The caller must call Stop before it closes the file or lets anything else
	// read it.
	Ahead bool
	// Reject is called for each malformed line. text is only valid during the call.
	Reject func(line int64, reason string, text []byte)
	// Rewrite is given the file's decompressed text and returns a reader of modified
	// text. Rows, counts and fingerprints are those of the modified text. The returned
	// reader must pass on errors from text, and must report its own errors as a
	// RewriteError. If Rewrite is nil, the text is read unchanged.
	Rewrite func(text io.Reader) io.Reader
	// Rows rewrites single lines as Rewrite does, but faster; see RowRewriter. If Rows
	// is set, Rewrite must be set too. If Rows is nil, Rewrite rewrites the whole text.
	Rows RowRewriter
	// Private withholds the file's values from Reject: the reason does not quote
	// values, and text is nil.
	Private bool
	// Unknown is called with the names of the header's columns that are neither in
	// LogType.Columns nor in LogType.Optional. These columns are read as text.
	Unknown func(columns []string)
}

// Use says what a Reader does with the values of a column.
type Use uint8

// The uses of a column.
const (
	Kept    Use = iota // decoded, and returned by Batch.Column
	Decoded            // decoded, but returned only by Batch.Decoded
	Skipped            // not decoded, unless other columns are computed from it
)

// Counts holds the numbers of lines, rows and other items read so far. At the end of the
// file, Lines == Rows + Rejects + Cuts.
type Counts struct {
	Lines   int64 // data lines, without headers
	Rows    int64
	Rejects int64
	Cuts    int64 // 1 for an unfinished last line, or for truncated or damaged compressed data
	Escaped int64 // text values that contain NUL or bytes that are not UTF-8
	Text    int64 // bytes of decompressed text, including an unfinished last line
}

// Reader reads the rows of a log, plain or compressed with gzip, zstd, xz, bzip2 or
// lz4. Reset reuses its buffers.
type Reader struct {
	typ *LogType
	opt ReaderOptions

	raw *errReader
	src io.Reader // raw, text or ahead; nil before the first read
	// While ahead's goroutine runs, it owns raw and text. text decompresses the file.
	text  compression.Reader
	ahead ahead

	buf      []byte
	pos, end int   // unread text in buf
	eof      bool  // the end of the file was read
	damage   error // the error that ended the text; io.EOF at a regular end
	finished bool
	draining bool
	skipping bool // inside a line longer than MaxLine

	// See RowRewriter.
	byRow     bool   // rows are rewritten after they are parsed; buf holds the original text
	rewritten []byte // rewritten text that is not hashed yet
	hashed    []byte // the rewritten text that was hashed before

	// A goroutine hashes the text while the text is parsed. The goroutine owns the
	// fields from hashPanic to head until joinHash returns.
	hashing       chan struct{} // closed when the goroutine ends; nil if it is not running
	hashPanic     any           // the value that the goroutine panicked with
	sum           hash.Hash
	length        int64  // number of bytes hashed into sum
	newline       []byte // state of sum at the last newline, while skipping
	newlineLength int64
	marks         map[int64]string // length -> hash, for the ReaderOptions.Marks reached
	markLines     map[int64]int64  // length -> number of lines, for the same marks
	newlines      int64            // hashed into sum; counted only if there are marks
	head          head

	line    int64 // lines read
	counts  Counts
	started bool // a batch was returned, so columns cannot change
	columns []Column
	uses    []Use // by column; nil keeps all
	extra   []string
	layout  string
	forms   map[string]map[int]*mapping // part -> count of fields -> mapping
	current *mapping                    // for log types with one form
	batch   Batch
}

// NewReader returns a Reader for a log of type t. It detects the log's compression from
// the first bytes of src.
func NewReader(src io.Reader, t *LogType, opt ReaderOptions) *Reader {
	r := new(Reader)
	r.Reset(src, t, opt)
	return r
}

// Reset makes r read another log, with the same arguments as NewReader. It reuses the
// buffers of r.
func (r *Reader) Reset(src io.Reader, t *LogType, opt ReaderOptions) {
	opt.Marks = slices.Sorted(slices.Values(opt.Marks))
	if opt.Location == nil {
		opt.Location = time.UTC
	}
	if opt.Reject == nil {
		opt.Reject = func(int64, string, []byte) {}
	}
	if opt.Unknown == nil {
		opt.Unknown = func([]string) {}
	}
	r.Stop()
	r.typ, r.opt = t, opt
	r.raw = &errReader{r: src}
	r.src = nil
	if r.buf == nil {
		r.buf = make([]byte, blockSize)
	}
	r.pos, r.end = 0, 0
	r.eof, r.damage, r.finished, r.draining, r.skipping = false, nil, false, false, false
	r.byRow, r.rewritten = false, r.rewritten[:0]
	r.sum, r.length, r.newline = sha256.New(), 0, nil
	r.marks, r.markLines, r.newlines = map[int64]string{}, map[int64]int64{}, 0
	r.head = head{rungs: r.head.rungs[:0]}
	r.line, r.counts, r.started, r.layout = 0, Counts{}, false, ""
	r.forms, r.current = map[string]map[int]*mapping{}, nil
	r.extra = slices.Clone(opt.Extra)
	r.batch.Type = t
	r.setColumns()
}

// setColumns sets r.columns to the columns of the log type, followed by those in r.extra,
// and prepares a vector for each.
func (r *Reader) setColumns() {
	r.columns = append(slices.Clip(slices.Clone(r.typ.Columns)), make([]Column, len(r.extra))...)
	for i, name := range r.extra {
		r.columns[len(r.typ.Columns)+i] = r.typ.extraColumn(name)
	}
	r.setUses()
	b := &r.batch
	b.columns = r.columns
	b.n = 0
	b.reset()
	if n := len(r.columns) - len(b.cols); n > 0 {
		b.cols = append(b.cols, make([]vector, n)...)
	}
	for i, c := range r.columns {
		b.cols[i].init(c)
		b.cols[i].slow = &b.slow
		b.cols[i].hidden = r.use(i) != Kept
	}
}

// setUses determines how each column is used. A column is always decoded if other
// columns or a row's end are computed from it.
func (r *Reader) setUses() {
	if r.uses = nil; r.opt.Use == nil {
		return
	}
	for _, c := range r.columns {
		r.uses = append(r.uses, r.opt.Use(c))
	}
	needed := []string{"kind"} // log_http_complete: parseRow sets kind in each row
	for _, e := range endColumns {
		needed = append(needed, e.start, e.durat)
	}
	if r.typ.Column("first_abs") >= 0 {
		needed = append(needed, "first_abs", "durat", "first", "last")
	}
	for _, name := range needed {
		if c := r.typ.Column(name); c >= 0 {
			r.uses[c] = min(r.uses[c], Decoded)
		}
	}
}

// use returns the Use of a column; see ReaderOptions.Use.
func (r *Reader) use(column int) Use {
	if r.uses == nil {
		return Kept
	}
	return r.uses[column]
}

// Columns returns the columns of the batches: the type's columns, followed by the unknown
// columns in the file's header. The list is complete after the first call to Next.
func (r *Reader) Columns() []Column { return r.columns }

// Layout describes the columns of the file: "header 130 (#15#)", or, for files without
// header, a version and the number of its columns.
func (r *Reader) Layout() string { return r.layout }

// Counts returns the counts of what r has read so far.
func (r *Reader) Counts() Counts { return r.counts }

// Next returns a batch of at least one row, or io.EOF at the end of the file.
func (r *Reader) Next() (*Batch, error) {
	b := &r.batch
	if b.lines == nil {
		b.lines = make([][]byte, batchRows)
		b.line = make([]int64, batchRows)
		b.rows = make([][]byte, batchRows)
		b.maps = make([]*mapping, batchRows)
		b.odd = make([]bool, batchRows)
		b.fields = make([]Fields, batchRows)
		b.moved = make([][]Replaced, batchRows)
	}
	for {
		b.reset() // also drops what malformed lines have left
		r.flush(rewrittenSize)
		for r.pos < r.end && b.n < batchRows {
			i := bytes.IndexByte(r.buf[r.pos:r.end], '\n')
			if i < 0 {
				break
			}
			text := r.buf[r.pos : r.pos+i+1]
			unusual := r.byRow && r.isUnusual(text)
			if (text[0] == '#' || unusual) && b.n > 0 {
				return r.countRows(), nil // the header may change the columns
			}
			if unusual {
				r.rewriteRest()
				break
			}
			read := r.readLine
			if r.byRow {
				read = r.rewriteLine
			}
			if err := read(text); err != nil {
				return nil, err
			}
			r.pos += i + 1
		}
		if b.n > 0 {
			return r.countRows(), nil
		}
		if r.eof && r.byRow && (r.end > r.pos || r.damage != io.EOF) {
			r.rewriteRest()
		}
		if r.eof {
			if !r.finished {
				r.finished = true
				r.flush(1)
				r.finish()
			}
			r.started = true
			return nil, io.EOF
		}
		if err := r.fill(len(r.buf) / 2); err != nil {
			return nil, err
		}
	}
}

// countRows adds the batch's rows to the counts and returns the batch.
func (r *Reader) countRows() *Batch {
	r.started = true
	r.counts.Rows += int64(r.batch.n)
	r.counts.Escaped += r.batch.escaped
	return &r.batch
}

// readLine processes a whole line, with its newline. A CR before the newline is part of
// the line ending. readLine overwrites the CR, but only after the line has been hashed.
func (r *Reader) readLine(text []byte) error {
	r.line++
	if n := len(text); n > 1 && text[n-2] == '\r' {
		r.joinHash()
		text = text[:n-1]
		text[n-2] = '\n'
	}
	if r.skipping {
		r.skipping = false
		r.counts.Lines++
		r.reject(fmt.Sprintf("line is longer than %d bytes", MaxLine), text[:0])
		return nil
	}
	if text[0] == '#' {
		return r.readHeader(text[:len(text)-1])
	}
	r.counts.Lines++
	if len(text) == 1 {
		r.reject("empty line", text[:0])
		return nil
	}
	b := &r.batch
	m, row := r.current, text
	if m == nil {
		var err error
		if m, row, err = r.form(text); err != nil {
			var re *rowError
			if !errors.As(err, &re) {
				return err
			}
			r.reject(re.Error(), text)
			return nil
		}
	}
	escaped := b.escaped
	slow := b.slow
	if err := b.parseRow(row, m, r.columns); err != nil {
		b.escaped = escaped
		var re *rowError
		if errors.As(err, &re) && r.opt.Private {
			re.private = true
		}
		r.reject(err.Error(), text)
		return nil
	}
	r.addRow(text, row, m, b.slow != slow, nil)
	return nil
}

// addRow adds the current row to the batch.
func (r *Reader) addRow(line, row []byte, m *mapping, odd bool, moved []Replaced) {
	b := &r.batch
	b.lines[b.n] = line
	b.rows[b.n], b.maps[b.n], b.odd[b.n] = row, m, odd
	b.line[b.n], b.moved[b.n] = r.line, moved
	b.n++
}

func (r *Reader) reject(reason string, text []byte) {
	r.counts.Rejects++
	if r.opt.Private {
		text = nil
	}
	r.opt.Reject(r.line, reason, bytes.TrimSuffix(text, []byte{'\n'}))
}

// readHeader parses a header line and uses its columns for later lines. Tstat appends
// to existing files, so there may be a header in the middle of a file.
func (r *Reader) readHeader(text []byte) error {
	if reason, ok := RemovedReason(text); ok {
		r.counts.Lines++
		r.reject(reason, text)
		return nil
	}
	h, err := parseHeader(text, r.typ.sep)
	if err == nil && (r.typ.rows == httpForm) != (h.part != "row") {
		err = errHeader
	}
	if err != nil {
		r.counts.Lines++
		r.reject(err.Error(), text)
		return nil
	}
	columns, extra := r.typ.resolve(h, r.extra)
	if len(extra) > maxExtra {
		r.counts.Lines++
		r.reject(fmt.Sprintf("header brings more than %d unknown columns", maxExtra), text)
		return nil
	}
	if len(extra) > len(r.extra) {
		if r.started {
			return &NewColumnsError{extra}
		}
		unknown := slices.DeleteFunc(slices.Clone(extra[len(r.extra):]), func(name string) bool {
			return slices.ContainsFunc(r.typ.Optional, func(c Column) bool { return c.Name == name })
		})
		if len(unknown) > 0 {
			r.opt.Unknown(unknown)
		}
		r.extra = extra
		r.setColumns()
	}
	m := r.newMapping(columns, h.part)
	switch r.typ.rows {
	case httpForm:
		if len(r.forms) == 0 { // the header of the other kind may be missing
			r.addLayouts(r.typ.layouts)
		}
		r.forms[h.part] = map[int]*mapping{len(columns): m}
	case oneForm:
		r.forms["row"] = map[int]*mapping{len(columns): m}
		r.current = m
	default:
		if r.forms["row"] == nil {
			r.addLayouts(r.typ.layouts)
		}
		if r.typ.rows == byCount {
			r.forms["row"][len(columns)] = m
		}
	}
	r.activate()
	if r.layout == "" {
		r.layout = "header " + strconv.Itoa(len(columns))
		if h.levels != "" {
			r.layout += " #" + h.levels + "#"
		}
	}
	return nil
}
