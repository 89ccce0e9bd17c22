package tstat

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
)

// MaxLine is the longest line that is read as a row, in bytes. Tstat's
// longest are a few kB; what is longer is rejected as a whole.
const MaxLine = 1 << 20

// blockSize is how much text is read at once. It is the limit of a line too:
// one that fills the buffer is skipped.
const blockSize = MaxLine

// readSize is how much is read by one call.
const readSize = 256 << 10

// maxExtra bounds the columns of a file that are not its type's: each costs
// memory.
const maxExtra = 256

// layoutLines is how many lines are looked at to tell the layout of a file
// without header.
const layoutLines = 100

// ReaderOptions say how a log is read.
type ReaderOptions struct {
	// Location is the probe's zone, for the local dates in log_chat_messages
	// of Tstat up to 3.0. nil means UTC.
	Location *time.Location
	// Layout is one of LogType.Versions, for files without header whose
	// count of columns several versions have.
	Layout string
	// Extra are unknown columns that a later header of the file is known to
	// bring; see NewColumnsError.
	Extra []string
	// Use says what is done with each column; nil: all are kept. What a column
	// holds that is not decoded is not checked either.
	Use func(Column) Use
	// Marks are lengths of text, in bytes, at which the fingerprint is kept;
	// see Reader.Mark.
	Marks []int64
	// Ahead makes a goroutine decompress a file while its rows are parsed.
	// Stop must be called before the file is closed or read by others.
	Ahead bool
	// Reject is called for each line that is no row; text is only valid
	// during the call.
	Reject func(line int64, reason string, text []byte)
	// Warn is called with things about the file that a user should know.
	Warn func(message string)
}

// Use is what is done with a column.
type Use uint8

const (
	Kept    Use = iota // decoded, and returned by Batch.Column
	Decoded            // for Batch.Decoded only
	Skipped            // not decoded, unless other columns are computed from it
)

// Counts is what was read so far. Lines == Rows + Rejects + Cuts at the end.
type Counts struct {
	Lines   int64 // data lines: no headers
	Rows    int64
	Rejects int64
	Cuts    int64 // 1 for an unfinished last line, or a compressed end that is unfinished or damaged
	Escaped int64 // text values with bytes that are not UTF-8, or NUL
	Text    int64 // bytes of text, decompressed, with the cut end
}

// LayoutError is returned for a file without header whose columns no known
// version has, or several have.
type LayoutError struct {
	Type  *LogType
	Line  int64
	Count int      // columns of the lines
	Fits  []string // versions that have as many
}

func (e *LayoutError) Error() string {
	if len(e.Fits) > 1 {
		return fmt.Sprintf("line %d: no header, and several versions of %s have %d columns", e.Line, e.Type.Name, e.Count)
	}
	var known []string
	for _, n := range e.Type.Counts() {
		known = append(known, strconv.Itoa(n))
	}
	return fmt.Sprintf("not a %s of Tstat: line %d: no header, and %d columns are none of %s's (known: %s)",
		e.Type.Name, e.Line, e.Count, e.Type.Name, strings.Join(known, ", "))
}

// Hint says what the user can do.
func (e *LayoutError) Hint() string {
	if len(e.Fits) > 1 {
		return "name the version: `layout` " + strings.Join(e.Fits, " or ")
	}
	return "is it a " + e.Type.Name + "? if so, its first line may be damaged"
}

// NewColumnsError is returned when a later header of the file has columns
// that are unknown and not in Extra. Read the file again with
// ReaderOptions.Extra set to Extra.
type NewColumnsError struct{ Extra []string }

func (e *NewColumnsError) Error() string {
	return "a later header has further unknown columns: " + strings.Join(e.Extra, ", ")
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
	eof      bool  // there is no more
	damage   error // what ended the text: io.EOF, or an error of text
	finished bool
	draining bool
	skipping bool // inside a line longer than MaxLine

	// A goroutine hashes the text while it is parsed. It owns the fields from
	// hashPanic to head until joinHash returns.
	hashing       chan struct{} // closed when the goroutine has ended; nil: none runs
	hashPanic     any           // the value that it panicked with
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
	begun   bool // a batch was returned: columns cannot change any more
	columns []Column
	uses    []Use // of columns; nil: all are kept
	extra   []string
	layout  string
	forms   map[string]map[int]*mapping // part -> count of fields -> mapping
	current *mapping                    // of types with one form
	batch   Batch
}

// errReader remembers the error of the file, to tell an unreadable disk from a
// compressed file that is unfinished.
type errReader struct {
	r   io.Reader
	err error
}

func (e *errReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && err != io.EOF {
		e.err = err
	}
	return n, err
}

// NewReader returns a Reader of a log of type t. A compressed log is recognized by
// its first bytes.
func NewReader(src io.Reader, t *LogType, opt ReaderOptions) *Reader {
	r := new(Reader)
	r.Reset(src, t, opt)
	return r
}

// Reset makes r read another file.
func (r *Reader) Reset(src io.Reader, t *LogType, opt ReaderOptions) {
	opt.Marks = slices.Sorted(slices.Values(opt.Marks))
	if opt.Location == nil {
		opt.Location = time.UTC
	}
	if opt.Reject == nil {
		opt.Reject = func(int64, string, []byte) {}
	}
	if opt.Warn == nil {
		opt.Warn = func(string) {}
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

// setColumns makes the batch's vectors follow the type's columns and extra.
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

// setUses finds out what is done with each column. Those are decoded of which
// others are computed, and those that tell when a row ended.
func (r *Reader) setUses() {
	if r.uses = nil; r.opt.Use == nil {
		return
	}
	for _, c := range r.columns {
		r.uses = append(r.uses, r.opt.Use(c))
	}
	needed := []string{"kind"} // that of log_http_complete is set in each row
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

// use returns what is done with a column.
func (r *Reader) use(column int) Use {
	if r.uses == nil {
		return Kept
	}
	return r.uses[column]
}

// Columns returns the columns of the batches: the type's, then unknown ones
// of the file's header. It is complete after the first call of Next.
func (r *Reader) Columns() []Column { return r.columns }

// Layout describes the columns of the file: "header 130 (#15#)", or a version
// and its count of columns for files without header.
func (r *Reader) Layout() string { return r.layout }

// Counts returns what was read so far.
func (r *Reader) Counts() Counts { return r.counts }

// Fingerprint returns the SHA-256 and the length of the text up to its last
// newline, of what was read so far.
func (r *Reader) Fingerprint() (sha string, length int64) {
	r.joinHash()
	sum, length := r.sum, r.length
	if r.newline != nil {
		sum = sha256.New()
		if err := sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(r.newline); err != nil {
			panic(err) // the state is our own
		}
		length = r.newlineLength
	}
	return hex.EncodeToString(sum.Sum(nil)), length
}

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
				return r.take(), nil // its columns may differ
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
	r.opt.Reject(r.line, reason, bytes.TrimSuffix(text, []byte{'\n'}))
}

// readHeader follows a header line. Tstat opens files for appending, so one
// may stand in the middle of a file.
func (r *Reader) readHeader(text []byte) error {
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
			r.opt.Warn("unknown columns are kept as text: " + strings.Join(unknown, ", "))
		}
		r.extra = extra
		r.setColumns()
	}
	m := r.newMapping(columns, h.part)
	switch r.typ.rows {
	case httpForm:
		if len(r.forms) == 0 { // the other kind's header may be missing
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

// fill reads more text behind what is left, until there are at least enough
// bytes, and hashes up to the last newline.
func (r *Reader) fill(enough int) error {
	r.joinHash()
	if r.pos > 0 {
		r.end = copy(r.buf, r.buf[r.pos:r.end])
		r.pos = 0
	}
	if r.end == len(r.buf) {
		r.skipLine()
	}
	unhashed := r.end // the beginning of a line that is not all here yet
	var err error
	for err == nil && (r.end == unhashed || r.end < enough) {
		var n int
		n, err = r.read(r.buf[r.end:min(r.end+readSize, len(r.buf))])
		r.end += n
		r.counts.Text += int64(n)
	}
	if i := bytes.LastIndexByte(r.buf[unhashed:r.end], '\n'); i >= 0 {
		whole := r.buf[:unhashed+i+1]
		if r.newline = nil; len(whole) < hashBeside {
			r.hash(whole)
		} else {
			r.startHash(whole)
		}
	}
	if err == nil {
		return nil
	}
	if r.raw.err != nil {
		return r.raw.err
	}
	var ce *CompressionError
	if errors.As(err, &ce) {
		return err
	}
	r.eof = true
	r.damage = err
	return nil
}

// hashBeside is the size of the smallest text that a goroutine hashes, in bytes.
const hashBeside = 64 << 10

// startHash starts a goroutine that adds text to the fingerprint. The text must
// not change before joinHash returns.
func (r *Reader) startHash(text []byte) {
	done := make(chan struct{})
	r.hashing = done
	go func() {
		defer close(done)
		defer func() { r.hashPanic = recover() }()
		r.hash(text)
	}()
}

// joinHash waits until the text is hashed. It repeats a panic of the goroutine,
// because the caller recovers from panics and fails the import of this file only.
func (r *Reader) joinHash() {
	if r.hashing == nil {
		return
	}
	<-r.hashing
	r.hashing = nil
	if p := r.hashPanic; p != nil {
		r.hashPanic = nil
		panic(p)
	}
}

// hash adds text to the fingerprint.
func (r *Reader) hash(text []byte) {
	r.head.find(text, r.length)
	for {
		stop := r.head.next(r.length)
		for _, m := range r.opt.Marks {
			if m > r.length {
				stop = min(stop, m)
				break
			}
		}
		n := min(stop-r.length, int64(len(text)))
		r.sum.Write(text[:n])
		r.length += n
		if len(r.opt.Marks) > 0 {
			r.newlines += int64(bytes.Count(text[:n], []byte{'\n'}))
		}
		if r.length < stop {
			return
		}
		text = text[n:]
		sum := hex.EncodeToString(r.sum.Sum(nil))
		r.head.add(stop, sum)
		if _, ok := slices.BinarySearch(r.opt.Marks, stop); ok {
			r.marks[stop], r.markLines[stop] = sum, r.newlines
		}
	}
}

// MarkLine returns how many lines the first length bytes of text are, see
// Mark.
func (r *Reader) MarkLine(length int64) int64 {
	r.joinHash()
	return r.markLines[length]
}

// Mark returns the SHA-256 of the first length bytes of text, one of
// ReaderOptions.Marks, or "" if the text is shorter.
func (r *Reader) Mark(length int64) string {
	if length == 0 {
		return emptySHA256
	}
	r.joinHash()
	return r.marks[length]
}

const emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// Drain reads the file and only counts: every line that is no header as a
// row. It is for stores that keep the file as it is, and takes the place of
// Next: never call both.
func (r *Reader) Drain() error {
	r.draining = true
	for !r.eof {
		if err := r.fill(0); err != nil { // while it is in the CPU's cache
			return err
		}
		n := bytes.LastIndexByte(r.buf[:r.end], '\n') + 1
		if n == 0 {
			continue
		}
		whole := r.buf[:n]
		lines := bytes.Count(whole, []byte{'\n'}) - bytes.Count(whole, []byte("\n#"))
		if whole[0] == '#' && !r.skipping {
			lines--
		}
		r.counts.Lines += int64(lines)
		r.counts.Rows += int64(lines)
		r.skipping = false
		r.pos = n
	}
	r.finish()
	return nil
}

// CutIsText reports whether an unfinished last line can be the start of a row
// or header: it has no control characters but TAB, and no more columns than a
// line of the type. CutIsText returns true if the last line is finished.
func (r *Reader) CutIsText() bool {
	rest := r.buf[r.pos:r.end]
	if r.skipping || bytes.ContainsFunc(rest, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
		return false
	}
	return len(rest) == 0 || rest[0] == '#' || countFields(rest, r.typ.sep) <= max(slices.Max(append(r.typ.Counts(), len(r.columns))), 1)
}

// CompressionError reports a file that is compressed in a way that Reader does not
// read: with another format, or so that it needs too much memory.
type CompressionError = compression.Error

// skipLine forgets the beginning of a line that fills the buffer. It is
// hashed all the same; should the line never end, the fingerprint is that of
// the text before it.
func (r *Reader) skipLine() {
	if r.newline == nil {
		state, err := r.sum.(encoding.BinaryMarshaler).MarshalBinary()
		if err != nil {
			panic(err) // crypto/sha256 documents that it never fails
		}
		r.newline, r.newlineLength = state, r.length
	}
	r.hash(r.buf[:r.end])
	r.skipping = true
	r.end = 0
}

// read reads text from the file, decompressed if its first bytes say so.
func (r *Reader) read(p []byte) (int, error) {
	if r.src == nil {
		r.src = r.raw
		n, err := io.ReadFull(r.raw, p[:compression.MagicSize])
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		format, unread := compression.Detect(p[:n])
		switch {
		case unread != nil && !r.draining:
			return n, unread
		case format == nil:
			return n, err
		}
		r.text.Reset(format, io.MultiReader(bytes.NewReader(bytes.Clone(p[:n])), r.raw))
		r.src = &r.text
		if r.opt.Ahead {
			r.ahead.begin(r.src)
			r.src = &r.ahead
		}
	}
	return r.src.Read(p)
}

// Stop waits until no goroutine of r reads the file or hashes its text.
func (r *Reader) Stop() {
	r.ahead.join()
	r.joinHash()
}

// Damage returns what is wrong with a compressed file besides an unfinished
// end: a checksum that does not fit, data that cannot be decompressed. Any of
// the text read may be wrong then. It is nil before the end of the file.
func (r *Reader) Damage() error {
	if r.damage == io.EOF || errors.Is(r.damage, io.ErrUnexpectedEOF) {
		return nil
	}
	return r.damage
}

// Truncated reports whether the end of a compressed file is missing. It is
// false before the end of the file.
func (r *Reader) Truncated() bool {
	return r.damage != io.EOF && errors.Is(r.damage, io.ErrUnexpectedEOF)
}

// finish accounts for the end of the file: a last line without newline, a
// compressed end that is unfinished or damaged.
func (r *Reader) finish() {
	if r.damage != io.EOF || r.end > r.pos || r.skipping {
		r.counts.Lines++
		r.counts.Cuts = 1
	}
}
