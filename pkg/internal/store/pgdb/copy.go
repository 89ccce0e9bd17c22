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

// A COPY that fails stores nothing, and the server names at most the first row that it
// refuses. Refusals are rare. Values are checked beforehand, so only a site's own
// constraints, triggers and encodings cause refusals. Therefore a table's rows are sent
// in one COPY and not kept.
//
// Once the server has refused a row, the file is read again, and from then on the DB
// copies all files in chunks. Each chunk is a COPY after a savepoint, and its rows are
// kept until the server has accepted them. The rows of a refused chunk are copied again
// without the refused ones.
//
// Chunks cost memory and 5 to 8 % of the speed. Larger chunks need more memory. Smaller
// chunks create more subtransactions; more than 64 of them in one transaction slow down
// concurrent queries.

// chunkSize is the size in bytes at which a chunk ends. Each chunk is a separate COPY.
const chunkSize = 8 << 20

// waitingBatches is the number of batches that may be prepared while the server
// processes the end of a chunk.
const waitingBatches = 8

// maxRefused is the maximum number of rows per file that the server may refuse. If it
// refuses more, the whole file fails.
const maxRefused = 100

// Dest is a table that receives rows with a fixed list of columns.
type Dest struct {
	table   Ident
	columns []sqlstore.Target
	sql     string // of the COPY
	header  string // start of its data
	trailer string // end of its data
	stored  int64  // rows
}

// Stored returns the number of rows copied. Call it after Tx.Flush.
func (d *Dest) Stored() int64 { return d.stored }

// Batch holds encoded rows for one table, and the log lines that they come
// from.
type Batch struct {
	to    *Dest  // nil if all rows are rejected
	data  []byte // the rows, encoded
	lines []byte
	rows  []row
}

// row is a row of a batch.
type row struct {
	number    int64  // of the line in the file
	data, end int    // where the row ends in data, and its line in lines
	reject    string // why it is not stored; a rejected row has no data
}

// batches recycles batches. A new batch has room for 256 rows of 130 columns.
var batches = sync.Pool{New: func() any {
	return &Batch{data: make([]byte, 0, 384<<10), lines: make([]byte, 0, 192<<10), rows: make([]row, 0, 256)}
}}

// NewBatch returns an empty batch for d. If d is nil, only rejected rows may be added to
// the batch.
func (d *Dest) NewBatch() *Batch {
	b := batches.Get().(*Batch)
	b.to = d
	return b
}

// add adds a row whose data the caller has just appended to b.data. line and number are
// the text and the number of its log line. If reject is not empty, it is the reason why
// the row is not stored.
func (b *Batch) add(number int64, line []byte, reject string) {
	b.lines = append(b.lines, line...)
	b.rows = append(b.rows, row{number, len(b.data), len(b.lines), reject})
}

// Split removes the last row of b and returns it in a new batch for another table.
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
	private bool  // reasons have no values
	chunks  bool  // copy in chunks; otherwise a refused row fails the file
	refused int64 // rows
	saved   bool  // a savepoint exists

	// The current COPY.
	to     *Dest
	kept   []*Batch // without chunks, only the batch being sent
	size   int
	unread []byte // of the last batch
	next   *Batch // the first batch of the next COPY
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
				err = c.skipRefused(c.rows(), err)
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

// finish adds the accepted rows in c.kept to Dest.stored, reports the rejected rows,
// and frees the batches.
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

// Read implements io.Reader for a COPY. It returns the rows of consecutive
// batches for the same table. A chunk ends at the first batch for another
// table, or when it reaches chunkSize.
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

// copy runs a COPY of rows to the table c.to. If c.chunks is set, it first sets a new
// savepoint.
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

// endingReader reads from r until end is called. It is needed because pgconn's CopyFrom
// returns when the connection breaks, although a goroutine that CopyFrom has started
// may still be reading rows.
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

// end makes later Reads fail, and waits for a running Read.
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

// rows returns the rows of the current chunk that are not rejected.
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

// copyRows copies the given rows of a refused chunk. It skips rows that the server
// refuses.
func (c *copier) copyRows(rows []keptRow) error {
	if len(rows) == 0 {
		return nil
	}
	var data []byte
	for _, r := range rows {
		data = append(data, r.data...)
	}
	err := c.copy(bytes.NewReader(data))
	if isRefusal(err) {
		return c.skipRefused(rows, err)
	}
	return err
}

// skipRefused copies the given rows after a single COPY of all of them has failed with
// err. It skips rows that the server refuses.
func (c *copier) skipRefused(rows []keptRow, err error) error {
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
		return fmt.Errorf("line %d: refused: %s (and %d rows before it)", rows[bad].number, c.reason(pe), maxRefused)
	}
	if _, err := c.conn.Exec(c.ctx, "rollback to savepoint chunk").ReadAll(); err != nil {
		return err
	}
	before, after := rows[:len(rows)/2], rows[len(rows)/2:]
	if bad >= 0 {
		rows[bad].reject = c.reason(pe)
		c.refused++
		before, after = rows[:bad], rows[bad+1:]
	}
	if err := c.copyRows(before); err != nil {
		return err
	}
	return c.copyRows(after)
}

// tooLong is the SQLSTATE for a limit of the server, like the longest text that an index can
// hold.
const tooLong = "54000"

// reason says why the server refused a row. The server's message may quote values.
func (c *copier) reason(pe *pgconn.PgError) string {
	if c.private {
		return "refused by the server, SQLSTATE " + pe.Code
	}
	return pe.Message
}

// isRefusal reports whether an error means that the server refused the values of
// a row.
func isRefusal(err error) bool {
	code := CodeOf(err)
	return code == tooLong || len(code) == 5 && (code[:2] == "22" || code[:2] == "23") && code != wrongLength && !NoPartition(err)
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

// report reports the rejected rows of the batches in c.kept, and frees the batches.
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
