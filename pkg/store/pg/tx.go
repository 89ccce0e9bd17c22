package pg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tstatrepo/tstatrepo/pkg/store"
)

// Tx is the transaction of one file: rows by COPY, and the record.
type Tx struct {
	// ID is the id that the record will have.
	ID int64

	db     *DB
	conn   *pgxpool.Conn // nil once it ended
	tx     pgx.Tx
	ctx    context.Context // of the whole file
	cancel context.CancelFunc
	copy   *copyStream
	free   [][]byte // buffers
	copied []copied // in binary form
}

// copied says of which types the values were that a table got.
type copied struct {
	table Ident
	rows  *Rows
}

// Begin starts a transaction, which lives as long as ctx at most.
func (d *DB) Begin(ctx context.Context) (*Tx, error) {
	conn, err := d.Pool.Acquire(ctx)
	if err != nil {
		return nil, Mark(err)
	}
	t := &Tx{db: d, conn: conn}
	t.ctx, t.cancel = context.WithCancel(ctx)
	d.mu.Lock()
	d.open[t] = true
	d.mu.Unlock()
	t.tx, err = conn.Begin(t.ctx)
	if err == nil {
		t.ID, err = d.nextID(t.ctx, t.tx)
	}
	if err != nil {
		t.Abort()
		return nil, Mark(err)
	}
	return t, nil
}

// copyStream is a COPY under way, in a goroutine of its own, so that rows are
// prepared while the server takes those before.
type copyStream struct {
	feed  chan []byte
	back  chan []byte   // buffers to use again
	done  chan struct{} // closed when COPY ended
	err   error         // of COPY; read after done
	abort bool          // read after feed is closed
	cur   []byte        // read, in part
	tail  []byte        // what comes after all rows
	whole []byte
	rows  int64
	lines []span
}

// span says which lines of the source file rows of a COPY are.
type span struct{ row, line int64 }

// Read implements io.Reader for COPY.
func (c *copyStream) Read(p []byte) (int, error) {
	for len(c.cur) == 0 {
		if c.whole != nil {
			select {
			case c.back <- c.whole:
			default:
			}
			c.whole = nil
		}
		buf, ok := <-c.feed
		switch {
		case !ok && c.abort:
			return 0, errAborted
		case !ok && c.tail == nil:
			return 0, io.EOF
		case !ok:
			c.cur, c.tail = c.tail, nil
			continue
		}
		c.cur, c.whole = buf, buf[:0]
	}
	n := copy(p, c.cur)
	c.cur = c.cur[n:]
	return n, nil
}

var errAborted = errors.New("aborted")

// Copy starts a COPY of rows into a table. The one before must have ended.
func (t *Tx) Copy(table Ident, rows *Rows) {
	c := &copyStream{feed: make(chan []byte), back: make(chan []byte, 2), done: make(chan struct{})}
	t.copy = c
	var names []string
	for _, col := range rows.columns() {
		names = append(names, col.Name)
	}
	sql := "copy " + table.Sanitize() + " (" + List(names) + ") from stdin "
	if rows.enc.binary {
		sql += "(format binary)"
		c.cur, c.tail = []byte(binaryHeader), []byte(binaryTrailer)
		t.copied = append(t.copied, copied{table, rows})
	} else {
		sql += "(delimiter '" + string(rune(rows.enc.sep)) + "', null '" + null + "')"
	}
	go func() {
		defer close(c.done)
		_, c.err = t.conn.Conn().PgConn().CopyFrom(t.ctx, c, sql)
	}()
}

// Copying reports whether a COPY is under way.
func (t *Tx) Copying() bool { return t.copy != nil }

// Buffer returns an empty buffer for Send.
func (t *Tx) Buffer() []byte {
	if t.copy != nil {
		select {
		case b := <-t.copy.back:
			return b
		default:
		}
	}
	if n := len(t.free); n > 0 {
		b := t.free[n-1]
		t.free = t.free[:n-1]
		return b
	}
	return nil
}

// Line notes that the next row of the COPY is a line of the source file, for
// the case that the server refuses it.
func (t *Tx) Line(line int64) {
	c := t.copy
	c.rows++
	if n := len(c.lines); n == 0 || line-c.lines[n-1].line != c.rows-c.lines[n-1].row {
		c.lines = append(c.lines, span{c.rows, line})
	}
}

// Send gives rows to the COPY, which owns buf from then on.
func (t *Tx) Send(buf []byte) error {
	if len(buf) == 0 {
		if buf != nil {
			t.free = append(t.free, buf)
		}
		return nil
	}
	select {
	case t.copy.feed <- buf:
		return nil
	case <-t.copy.done:
		return t.copyError()
	case <-t.ctx.Done():
		return t.ctx.Err()
	}
}

// EndCopy waits until the server has taken all rows.
func (t *Tx) EndCopy() error {
	if t.copy == nil {
		return nil
	}
	close(t.copy.feed)
	<-t.copy.done
	for {
		select {
		case b := <-t.copy.back:
			if len(t.free) < 2 {
				t.free = append(t.free, b)
			}
			continue
		default:
		}
		break
	}
	err := t.copyError()
	t.copy = nil
	return err
}

var copyLine = regexp.MustCompile(`^COPY .*?, line ([0-9]+)`)

// copyError returns why a COPY that ended failed. A row that the server
// refused becomes a store.RefusedError.
func (t *Tx) copyError() error {
	c := t.copy
	if c.err == nil {
		return nil
	}
	var pe *pgconn.PgError
	if errors.As(c.err, &pe) && pe.Code == "22P03" { // not of the type's length
		return fmt.Errorf("%w: %w", ErrChanged, c.err)
	}
	if errors.As(c.err, &pe) && len(pe.Code) == 5 && (pe.Code[:2] == "22" || pe.Code[:2] == "23") {
		if m := copyLine.FindStringSubmatch(pe.Where); m != nil {
			row, _ := strconv.ParseInt(m[1], 10, 64)
			if line := c.line(row); line > 0 {
				return &store.RefusedError{Line: line, Reason: pe.Message}
			}
		}
	}
	return Mark(c.err)
}

// line returns the line in the source file of a row, 0 if there is none.
func (c *copyStream) line(row int64) int64 {
	var line int64
	for _, s := range c.lines {
		if s.row > row {
			break
		}
		line = s.line + row - s.row
	}
	return line
}

// Commit ends the COPY, and makes the rows visible together with the record,
// as store.FileTx says. remove removes the rows of the records of replace, by
// the ids that they carry.
func (t *Tx) Commit(ctx context.Context, r store.Record, known, replace []store.Record, remove func(ctx context.Context, tx pgx.Tx, gone Replaced) error) error {
	defer t.Abort()
	if err := t.EndCopy(); err != nil {
		return err
	}
	if err := t.checkTypes(ctx); err != nil {
		return Mark(err)
	}
	if err := t.db.checkKnown(ctx, t.tx, r, known, replace); err != nil {
		return Mark(err)
	}
	if len(replace) > 0 {
		gone, err := t.db.replace(ctx, t.tx, replace)
		if err == nil && len(gone.IDs) > 0 {
			err = remove(ctx, t.tx, gone)
		}
		if err != nil {
			return Mark(fmt.Errorf("replace: %w", err))
		}
	}
	if err := t.db.record(ctx, t.tx, t.ID, r); err != nil {
		return Mark(err)
	}
	if err := t.tx.Commit(ctx); err != nil {
		// Whether it was committed, only the record will tell.
		return Mark(err)
	}
	return nil
}

// ErrChanged says that a column of a table is of another type than it was when
// the store looked at it. The file can be stored once it looks again.
var ErrChanged = changedError{}

type changedError struct{}

func (changedError) Error() string { return "the columns of the table changed meanwhile" }

// Is makes the import try again.
func (changedError) Is(err error) bool {
	return err == store.ErrTransient || err == store.ErrUnavailable
}

// checkTypes makes sure that values in binary form were read as what they
// are: eight bytes are an integer as well as a number with decimals. Since
// they were copied nobody can change the table.
func (t *Tx) checkTypes(ctx context.Context) error {
	seen := map[string]bool{}
	for _, c := range t.copied {
		if name := c.table.Sanitize(); seen[name] {
			continue
		} else {
			seen[name] = true
		}
		found, err := FindTable(ctx, t.tx, c.table)
		if err != nil {
			return err
		}
		for _, col := range c.rows.columns() {
			if found == nil || found.Columns[col.Name] != col.Type {
				return fmt.Errorf("table %s, column %s: %w", c.table.Sanitize(), Quote(col.Name), ErrChanged)
			}
		}
	}
	return nil
}

// Abort takes everything back. It does nothing after the end.
func (t *Tx) Abort() error {
	if t.conn == nil {
		return nil
	}
	if c := t.copy; c != nil {
		c.abort = true
		close(c.feed)
		<-c.done
		t.copy = nil
	}
	// A connection that is still inside the transaction is closed by the
	// pool; a rollback just keeps it.
	if t.tx != nil && t.ctx.Err() == nil {
		t.tx.Rollback(t.ctx)
	}
	t.cancel()
	t.conn.Release()
	t.conn = nil
	t.db.mu.Lock()
	delete(t.db.open, t)
	t.db.mu.Unlock()
	return nil
}
