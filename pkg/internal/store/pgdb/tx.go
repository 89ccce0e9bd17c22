package pgdb

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
)

// Tx is the transaction that stores one file: its rows by COPY, and its record.
type Tx struct {
	*Rows
	// ID is the id of the record that Commit writes.
	ID int64

	db      *DB
	conn    *pgxpool.Conn // nil once the transaction has ended
	tx      pgx.Tx
	ctx     context.Context // of the whole file
	cancel  context.CancelFunc
	in      *sqlstore.Pipe[*Batch] // to the COPY; nil before the first row
	flushed bool
	err     error            // of the rows; read once flushed
	refused int64            // rows; read once flushed
	copied  map[string]*Dest // tables with values in binary form
}

// Begin starts a file's transaction. When ctx is done, the transaction fails.
func (d *DB) Begin(ctx context.Context, f store.FileInfo, opt RowOptions) (*Tx, error) {
	conn, err := d.Pool.Acquire(ctx)
	if err != nil {
		return nil, Classify(err)
	}
	pc := conn.Conn().PgConn()
	opt.binary = d.form == AsBinary || d.form == Auto && onThisMachine(pc.Conn())
	t := &Tx{Rows: newRows(f, opt), db: d, conn: conn, copied: map[string]*Dest{}}
	t.ctx, t.cancel = context.WithCancel(ctx)
	d.mu.Lock()
	d.open[t] = true
	d.mu.Unlock()
	t.tx, err = conn.BeginTx(t.ctx, readCommitted)
	if err == nil {
		t.ID, err = d.nextID(t.ctx, t.tx)
	}
	if err != nil {
		t.Abort()
		return nil, Classify(err)
	}
	t.in = sqlstore.Start(t.ctx, waitingBatches, func(in *sqlstore.Pipe[*Batch]) error {
		c := &copier{ctx: t.ctx, conn: pc, in: in, reject: f.Reject, private: f.Private, chunks: f.ReadOnce || d.chunks.Load()}
		err := c.run()
		t.refused = c.refused
		if !c.chunks && isRefusal(err) {
			d.chunks.Store(true)
			err = fmt.Errorf("%w: %w", store.ErrReread, err)
		}
		if CodeOf(err) == wrongLength {
			err = fmt.Errorf("%w: %w", ErrChanged, err)
		}
		return t.check(err)
	})
	return t, nil
}

// NewDest returns a Dest for the given table, with the columns that the last call to
// Rows.Start selected.
func (t *Tx) NewDest(table Ident) *Dest {
	d := &Dest{table: table, columns: t.columns()}
	var names []string
	for _, c := range d.columns {
		names = append(names, c.Name)
	}
	d.sql = "copy " + table.Sanitize() + " (" + List(names) + ") from stdin "
	if t.enc.binary {
		d.sql += "(format binary)"
		d.header, d.trailer = binaryHeader, binaryTrailer
		t.copied[table.Sanitize()] = d
	} else {
		d.sql += "(delimiter '" + string(rune(t.enc.sep)) + "', null '" + null + "')"
	}
	return d
}

// Send queues rows for the server. The transaction then owns the batch.
func (t *Tx) Send(b *Batch) error {
	if len(b.rows) == 0 {
		b.free()
	} else if err := t.in.Send(b); err != nil {
		return err
	}
	return t.checkAddresses(false)
}

// Flush implements store.FileTx.
func (t *Tx) Flush(context.Context) (rejected int64, err error) {
	if err := t.checkAddresses(true); err != nil {
		return 0, err
	}
	if !t.flushed {
		t.flushed, t.err = true, t.in.Close()
	}
	return t.rejected + t.refused, t.err
}

// check passes an error through Classify. If the error shows that the table has
// changed, check calls RowOptions.Forget.
func (t *Tx) check(err error) error {
	err = Classify(err)
	if code := CodeOf(err); strings.HasPrefix(code, "42") || code == "23514" || errors.Is(err, ErrChanged) {
		t.opt.Forget()
		if code == "42P01" || NoPartition(err) { // pruned meanwhile; the next attempt recreates it
			return sqlstore.Transient(&lineError{err})
		}
	}
	return err
}

const wrongLength = "22P03" // SQLSTATE for a binary value whose length is wrong for its type

// Commit makes the rows visible together with the record, see store.FileTx. It calls
// remove to delete the rows of the replaced records, if there are any.
func (t *Tx) Commit(ctx context.Context, r store.Record, known, replace []store.Record, remove func(ctx context.Context, tx pgx.Tx, gone Replaced) error) error {
	defer t.Abort()
	if _, err := t.Flush(ctx); err != nil {
		return err
	}
	err := t.checkTypes(ctx)
	if err == nil {
		err = t.db.checkKnown(ctx, t.tx, r, known, replace)
	}
	if err == nil && len(replace) > 0 {
		var gone Replaced
		if gone, err = t.db.replace(ctx, t.tx, replace); err == nil && len(gone.IDs) > 0 {
			err = remove(ctx, t.tx, gone)
		}
		if err != nil {
			err = fmt.Errorf("replace: %w", err)
		}
	}
	if err == nil {
		err = t.db.record(ctx, t.tx, t.ID, r)
	}
	if err == nil {
		err = t.tx.Commit(ctx) // after an error, only the record shows whether the commit succeeded
	}
	return t.check(err)
}

// ErrChanged reports that the type of a table's column has changed since the
// store read the type. A retry reads the table's columns again.
var ErrChanged = changedError{}

type changedError struct{}

func (changedError) Error() string { return "the columns of the table changed meanwhile" }

// Is reports whether err is store.ErrTransient or store.ErrUnavailable. A changedError
// matches both, so that the import retries.
func (changedError) Is(err error) bool {
	return err == store.ErrTransient || err == store.ErrUnavailable
}

// checkTypes returns ErrChanged if a column to which t sent binary values now has
// another type. The server may have decoded such values wrongly, since eight bytes can
// be an integer or a float. Later changes are impossible, because the COPY of t has
// locked the table.
func (t *Tx) checkTypes(ctx context.Context) error {
	for _, d := range t.copied {
		found, err := FindTable(ctx, t.tx, d.table)
		if err != nil {
			return err
		}
		for _, col := range d.columns {
			if found == nil || found.Columns[col.Name] != col.Type {
				return fmt.Errorf("table %s, column %s: %w", d.table.Sanitize(), Quote(col.Name), ErrChanged)
			}
		}
	}
	return nil
}

// Abort rolls the transaction back. It does nothing if the transaction has already
// ended.
func (t *Tx) Abort() error {
	if t.conn == nil {
		return nil
	}
	if t.in != nil && !t.flushed {
		t.flushed = true
		t.in.Abort()
	}
	// The pool closes a connection that is still inside a transaction;
	// after a rollback the connection stays open.
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
