package pgdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
)

// A COPY that fails stores nothing, and the server names at most the first row
// that it refuses. Servers hardly ever refuse a row: values are checked before,
// so only constraints, triggers and encodings of a site's own do. The rows of a
// table therefore go in one COPY, and none of them is kept. Once the server has
// refused a row, the file is read once more, and from then on the DB copies in
// chunks: each is a COPY behind a savepoint, and its rows are kept until the
// server has taken them. Rows of a refused chunk are copied again without the
// refused ones.
//
// Chunks cost 5 to 8 % of the speed, and memory. Larger ones take more memory.
// Smaller ones make more subtransactions, which slow down queries that run at
// the same time if a transaction has more than 64 of them.

// chunkSize is how many bytes of the current file are kept.
const chunkSize = 8 << 20

// waitingBatches are prepared while the server works on the end of a chunk.
const waitingBatches = 8

// maxRefused is how many rows of a file the server may refuse. If it refuses
// more, the whole file fails.
const maxRefused = 100

// Dest is a table that receives rows, in a fixed list of columns.
type Dest struct {
	table   Ident
	columns []sqlstore.Target
	sql     string // of the COPY
	header  string // start of its data
	trailer string // end of its data
	stored  int64  // rows
}

// Stored returns how many rows were copied. It must be called after Tx.Flush.
func (d *Dest) Stored() int64 { return d.stored }

// Batch holds rows for one table, and the lines from which they were made.
type Batch struct {
	to    *Dest  // nil: only rejected rows
	data  []byte // the rows, encoded
	lines []byte
	rows  []row
}

// row is a row of a batch.
type row struct {
	number    int64  // of the line in the file
	data, end int    // where row and line end in the batch
	reject    string // why it is not stored; a rejected row has no data
}

// batches have room for 256 rows of 130 columns.
var batches = sync.Pool{New: func() any {
	return &Batch{data: make([]byte, 0, 384<<10), lines: make([]byte, 0, 192<<10), rows: make([]row, 0, 256)}
}}

// NewBatch returns an empty batch of rows for d. If d is nil, it may get
// rejected rows only.
func (d *Dest) NewBatch() *Batch {
	b := batches.Get().(*Batch)
	b.to = d
	return b
}

// add adds a row, whose data is at the end of the batch's.
func (b *Batch) add(number int64, line []byte, reject string) {
	b.lines = append(b.lines, line...)
	b.rows = append(b.rows, row{number, len(b.data), len(b.lines), reject})
}

// Split moves the last row to a new batch for another table.
func (b *Batch) Split(to *Dest) *Batch {
	n := len(b.rows) - 1
	var data, line int
	if n > 0 {
		data, line = b.rows[n-1].data, b.rows[n-1].end
	}
	next := to.NewBatch()
	next.data = append(next.data, b.data[data:]...)
	next.add(b.rows[n].number, b.lines[line:], b.rows[n].reject)
	b.data, b.lines, b.rows = b.data[:data], b.lines[:line], b.rows[:n]
	return next
}

// free recycles a batch.
func (b *Batch) free() {
	*b = Batch{data: b.data[:0], lines: b.lines[:0], rows: b.rows[:0]}
	batches.Put(b)
}

// copier copies the rows of a file. It runs in the goroutine of its pipe.
type copier struct {
	ctx     context.Context
	conn    *pgconn.PgConn
	in      *sqlstore.Pipe[*Batch]
	reject  func(line int64, reason string, text []byte)
	chunks  bool  // copy in chunks; otherwise rows that the server refuses fail the file
	refused int64 // rows
	saved   bool  // a savepoint exists

	// The current COPY.
	to     *Dest
	kept   []*Batch // without chunks, only the batch being sent
	size   int
	unread []byte // of the last batch
	next   *Batch // the first of the next COPY
}

// run copies the rows from the pipe.
func (c *copier) run() error {
	defer c.report() // rows rejected before an error
	for {
		b := c.next
		if c.next = nil; b == nil {
			var err error
			if b, err = c.in.Next(); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
		}
		c.to, c.size = b.to, 0
		c.keep(b)
		if len(b.data) > 0 {
			err := c.copy(c)
			if c.chunks && isRefusal(err) {
				err = c.leaveOut(c.rows(), err)
			}
			if err != nil {
				return err
			}
		}
		c.finish()
	}
}

func (c *copier) keep(b *Batch) {
	c.kept, c.unread = append(c.kept, b), b.data
	c.size += len(b.data) + len(b.lines)
}

// finish counts and frees the kept rows.
func (c *copier) finish() {
	for _, b := range c.kept {
		for _, r := range b.rows {
			if r.reject == "" {
				b.to.stored++
			}
		}
	}
	c.report()
}

// Read implements io.Reader for a COPY: it returns the rows of the first batch,
// and of later ones for the same table; for a chunk, until it is large enough.
func (c *copier) Read(p []byte) (int, error) {
	for len(c.unread) == 0 {
		if c.next != nil || c.chunks && c.size >= chunkSize {
			return 0, io.EOF
		}
		b, err := c.in.Next()
		if err != nil {
			return 0, err
		}
		if !c.chunks {
			c.finish()
		}
		if b.to != c.to && len(b.data) > 0 {
			c.next = b
		} else {
			c.keep(b)
		}
	}
	n := copy(p, c.unread)
	c.unread = c.unread[n:]
	return n, nil
}

// copy copies rows, in chunks behind a new savepoint.
func (c *copier) copy(rows io.Reader) error {
	sql := c.to.sql
	if c.chunks {
		sql = "savepoint chunk; " + sql
	}
	if c.saved {
		sql = "release savepoint chunk; " + sql
	}
	c.saved = c.chunks
	r := &endingReader{r: io.MultiReader(strings.NewReader(c.to.header), rows, strings.NewReader(c.to.trailer))}
	defer r.end()
	_, err := c.conn.CopyFrom(c.ctx, r, sql)
	return err
}

// endingReader returns data until it is ended. When a connection breaks,
// CopyFrom returns before its goroutine that reads the rows has finished.
type endingReader struct {
	mu    sync.Mutex
	r     io.Reader
	ended bool
}

func (e *endingReader) Read(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return 0, io.ErrClosedPipe
	}
	return e.r.Read(p)
}

// end waits for a running Read.
func (e *endingReader) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
}

// keptRow is a row of the current chunk.
type keptRow struct {
	*row
	data []byte
}

// rows returns the rows of the chunk that must be stored.
func (c *copier) rows() (rows []keptRow) {
	for _, b := range c.kept {
		from := 0
		for i := range b.rows {
			if r := &b.rows[i]; r.reject == "" {
				rows = append(rows, keptRow{r, b.data[from:r.data]})
			}
			from = b.rows[i].data
		}
	}
	return rows
}

// copyAgain copies rows of a refused chunk.
func (c *copier) copyAgain(rows []keptRow) error {
	if len(rows) == 0 {
		return nil
	}
	var data []byte
	for _, r := range rows {
		data = append(data, r.data...)
	}
	err := c.copy(bytes.NewReader(data))
	if isRefusal(err) {
		return c.leaveOut(rows, err)
	}
	return err
}

// leaveOut copies rows without those that the server refuses, after a COPY of
// all of them failed.
func (c *copier) leaveOut(rows []keptRow, err error) error {
	var pe *pgconn.PgError
	errors.As(err, &pe)
	bad := refusedRow(pe)
	switch {
	case bad >= 0 && bad < len(rows):
	case len(rows) == 1:
		bad = 0
	default: // refused at the end of the COPY, by a trigger or foreign key
		bad = -1
	}
	if bad >= 0 && c.refused == maxRefused {
		return fmt.Errorf("line %d: refused: %s (and %d rows before it)", rows[bad].number, pe.Message, maxRefused)
	}
	if _, err := c.conn.Exec(c.ctx, "rollback to savepoint chunk").ReadAll(); err != nil {
		return err
	}
	before, after := rows[:len(rows)/2], rows[len(rows)/2:]
	if bad >= 0 {
		rows[bad].reject = pe.Message
		c.refused++
		before, after = rows[:bad], rows[bad+1:]
	}
	if err := c.copyAgain(before); err != nil {
		return err
	}
	return c.copyAgain(after)
}

// isRefusal reports whether an error concerns the values of a row.
func isRefusal(err error) bool {
	code := CodeOf(err)
	return len(code) == 5 && (code[:2] == "22" || code[:2] == "23") && code != wrongLength && !NoPartition(err)
}

var copyLine = regexp.MustCompile(`^COPY .*?, line ([0-9]+)`)

// refusedRow returns the index of the row that an error names, or -1.
func refusedRow(pe *pgconn.PgError) int {
	m := copyLine.FindStringSubmatch(pe.Where)
	if m == nil {
		return -1
	}
	n, _ := strconv.Atoi(m[1])
	return n - 1
}

// report reports the rejected rows among the kept ones, and frees their
// batches.
func (c *copier) report() {
	for _, b := range c.kept {
		from := 0
		for _, r := range b.rows {
			if r.reject != "" && c.reject != nil {
				c.reject(r.number, r.reject, b.lines[from:r.end])
			}
			from = r.end
		}
		b.free()
	}
	clear(c.kept)
	c.kept = c.kept[:0]
}
