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

// MaxLine is the length of the longest line that can be a row, in bytes.
// Tstat's longest lines have a few kB; longer lines are rejected as a whole.
const MaxLine = 1 << 20

// blockSize is how much text is read at once, in bytes. It also limits a line:
// a line that fills the buffer is skipped.
const blockSize = MaxLine

// maxExtra limits the columns of a file beyond those of its type: each costs
// memory.
const maxExtra = 256

// layoutLines is the number of lines examined to find the layout of a file
// without header.
const layoutLines = 100

// ReaderOptions configures how a log is read.
type ReaderOptions struct {
	// Location is the probe's zone, for the local dates in log_chat_messages
	// of Tstat up to 3.0. nil means UTC.
	Location *time.Location
	// Layout is one of LogType.Versions, for files without header if
	// several versions have their number of columns.
	Layout string
	// Extra are unknown columns of a later header of the file; see
	// NewColumnsError.
	Extra []string
	// Use returns how each column is used; nil keeps all columns. Values
	// that are not decoded are not checked.
	Use func(Column) Use
	// Marks are lengths of text, in bytes, whose fingerprint is kept; see
	// Reader.Mark.
	Marks []int64
	// Ahead makes a goroutine decompress and rewrite a file while its rows are parsed.
	// Stop must be called before the file is closed or read by others.
	Ahead bool
	// Reject is called for each malformed line; text is only valid during
	// the call.
	Reject func(line int64, reason string, text []byte)
	// Rewrite returns a reader of other text, made from the decompressed text of
	// the file. Rows, counts and fingerprints are those of the other text. Errors
	// of the given reader must be passed on; others are a RewriteError. nil: the text is read as it is.
	Rewrite func(text io.Reader) io.Reader
	// Private keeps values of the file out of the reasons of rejects, and their
	// text out of Reject.
	Private bool
	// Unknown is called with the columns of the header that no layout has. They
	// are kept as text.
	Unknown func(columns []string)
}

// Use is how a column is used.
type Use uint8

// The uses of a column.
const (
	Kept    Use = iota // decoded, and returned by Batch.Column
	Decoded            // only for Batch.Decoded
	Skipped            // not decoded, unless other columns are computed from it
)

// Counts describes the text read so far. Lines == Rows + Rejects + Cuts at the
// end.
type Counts struct {
	Lines   int64 // data lines, without headers
	Rows    int64
	Rejects int64
	Cuts    int64 // 1 for an unfinished last line, or a truncated or damaged compressed end
	Escaped int64 // text values with NUL or bytes that are not UTF-8
	Text    int64 // bytes of decompressed text, with an unfinished end
}

// Reader reads the rows of a log, plain or compressed with gzip, zstd, xz, bzip2
// or lz4. It keeps its buffers when it is Reset.
type Reader struct {
	typ *LogType
	opt ReaderOptions

	raw *errReader
	src io.Reader // raw, text or ahead; nil before the first read
	// Of compressed files. The goroutine of ahead owns raw and text while it runs.
	text  compression.Reader
	ahead ahead

	buf      []byte
	pos, end int   // unread text in buf
	eof      bool  // the end of the file was read
	damage   error // why the text ended: io.EOF, or an error of text
	finished bool
	draining bool
	skipping bool // inside a line longer than MaxLine

	// A goroutine hashes the text while it is parsed. It owns the fields
	// from hashPanic to head until joinHash returns.
	hashing       chan struct{} // closed when the goroutine has ended; nil: none runs
	hashPanic     any           // the value that the goroutine panicked with
	sum           hash.Hash
	length        int64  // bytes in sum
	newline       []byte // state of sum at the last newline, while skipping
	newlineLength int64
	marks         map[int64]string // of ReaderOptions.Marks, as far as reached
	markLines     map[int64]int64  // lines up to each mark
	newlines      int64            // in sum; counted only if there are marks
	head          head

	line    int64 // lines read
	counts  Counts
	begun   bool // a batch was returned, so columns cannot change
	columns []Column
	uses    []Use // of columns; nil keeps all
	extra   []string
	layout  string
	forms   map[string]map[int]*mapping // part -> count of fields -> mapping
	current *mapping                    // of types with one form
	batch   Batch
}

// NewReader returns a Reader of a log of type t. A compressed log is recognized by
// its first bytes.
func NewReader(src io.Reader, t *LogType, opt ReaderOptions) *Reader {
	r := new(Reader)
	r.Reset(src, t, opt)
	return r
}

// Reset switches r to another file.
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
	r.sum, r.length, r.newline = sha256.New(), 0, nil
	r.marks, r.markLines, r.newlines = map[int64]string{}, map[int64]int64{}, 0
	r.head = head{rungs: r.head.rungs[:0]}
	r.line, r.counts, r.begun, r.layout = 0, Counts{}, false, ""
	r.forms, r.current = map[string]map[int]*mapping{}, nil
	r.extra = slices.Clone(opt.Extra)
	r.batch.Type = t
	r.setColumns()
}

// setColumns adapts the batch's vectors to the type's columns and extra.
func (r *Reader) setColumns() {
	r.columns = append(slices.Clip(slices.Clone(r.typ.Columns)), make([]Column, len(r.extra))...)
	for i, name := range r.extra {
		r.columns[len(r.typ.Columns)+i] = r.typ.extraColumn(name)
	}
	r.setUses()
	b := &r.batch
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

// setUses determines how each column is used. It decodes columns from which
// others or the end of a row are computed.
func (r *Reader) setUses() {
	if r.uses = nil; r.opt.Use == nil {
		return
	}
	for _, c := range r.columns {
		r.uses = append(r.uses, r.opt.Use(c))
	}
	needed := []string{"kind"} // kind of log_http_complete is set in each row
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

// use returns how a column is used.
func (r *Reader) use(column int) Use {
	if r.uses == nil {
		return Kept
	}
	return r.uses[column]
}

// Columns returns the columns of the batches: the type's, followed by unknown
// ones of the file's header. It is complete after the first call of Next.
func (r *Reader) Columns() []Column { return r.columns }

// Layout describes the columns of the file: "header 130 (#15#)", or a version
// and its number of columns for files without header.
func (r *Reader) Layout() string { return r.layout }

// Counts returns the counts of the text read so far.
func (r *Reader) Counts() Counts { return r.counts }

// Next returns the next rows, at least one, or io.EOF.
func (r *Reader) Next() (*Batch, error) {
	b := &r.batch
	b.reset()
	if b.lines == nil {
		b.lines = make([][]byte, batchRows)
		b.line = make([]int64, batchRows)
		b.rows = make([][]byte, batchRows)
		b.maps = make([]*mapping, batchRows)
		b.odd = make([]bool, batchRows)
		b.fields = make([]Fields, batchRows)
	}
	for {
		for r.pos < r.end && b.n < batchRows {
			i := bytes.IndexByte(r.buf[r.pos:r.end], '\n')
			if i < 0 {
				break
			}
			text := r.buf[r.pos : r.pos+i+1]
			if text[0] == '#' && b.n > 0 {
				return r.take(), nil // the header may change the columns
			}
			if err := r.readLine(text); err != nil {
				return nil, err
			}
			r.pos += i + 1
		}
		if b.n > 0 {
			return r.take(), nil
		}
		if r.eof {
			if !r.finished {
				r.finished = true
				r.finish()
			}
			r.begun = true
			return nil, io.EOF
		}
		if err := r.fill(len(r.buf) / 2); err != nil {
			return nil, err
		}
	}
}

// take counts the batch's rows as read.
func (r *Reader) take() *Batch {
	r.begun = true
	r.counts.Rows += int64(r.batch.n)
	r.counts.Escaped += r.batch.escaped
	return &r.batch
}

// readLine reads a whole line, with its newline, from r.buf at r.pos. A CR
// before the newline belongs to the line end. It is overwritten, but only after
// the line is hashed.
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
	b.lines[b.n] = text
	b.rows[b.n], b.maps[b.n], b.odd[b.n] = row, m, b.slow != slow
	b.line[b.n] = r.line
	b.n++
	return nil
}

func (r *Reader) reject(reason string, text []byte) {
	r.counts.Rejects++
	if r.opt.Private {
		text = nil
	}
	r.opt.Reject(r.line, reason, bytes.TrimSuffix(text, []byte{'\n'}))
}

// readHeader adopts a header line. Tstat appends to existing files, so a header
// may be in the middle of a file.
func (r *Reader) readHeader(text []byte) error {
	if reason, ok := removedReason(text); ok {
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
		if r.begun {
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
