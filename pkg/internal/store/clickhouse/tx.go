package clickhouse

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// tx is the import of one file. It sends everything to one host, because other
// hosts may not have the rows yet.
type tx struct {
	s       *Store
	ctx     context.Context
	cancel  context.CancelFunc
	host    string
	file    store.FileInfo
	id      uint64
	started time.Time
	block   block
	idle    []target // of columns that have had no values so far
	insert  *insert  // nil if none is running
	rows    bool     // at least one row was written
	ended   bool

	rejected int64
}

func newTx(ctx context.Context, s *Store, host string, f store.FileInfo, ts []target, table map[string]string) *tx {
	x := &tx{s: s, host: host, file: f, id: s.newAttempt(), started: time.Now().Round(0), idle: ts}
	x.ctx, x.cancel = context.WithCancel(ctx)
	x.block = block{probe: f.Probe, folder: f.Folder, time: uint32(f.Time.Unix()), id: x.id}
	for i, own := range ownColumns {
		x.block.types[i] = table[own.name]
	}
	return x
}

// Write implements store.FileTx.
func (x *tx) Write(_ context.Context, b *tstat.Batch) error {
	if err := x.start(b); err != nil {
		return err
	}
	skip, skipped := x.reject(b)
	x.block.add(b, skip, skipped)
	if x.block.rows >= blockRows {
		return x.flush()
	}
	return nil
}

// start adds the columns that get their first values from b to the block. Columns without
// values so far are left out, since every value costs the server time.
func (x *tx) start(b *tstat.Batch) error {
	if err := x.s.cfg.columns.CheckLater(x.file, b, x.hasTarget); err != nil {
		return err
	}
	var rest []target
	var found []column
	for _, t := range x.idle {
		if _, ok := b.Column(t.source); ok {
			found = append(found, column{target: t, head: appendHead(nil, t.name, t.typ)})
		} else {
			rest = append(rest, t)
		}
	}
	if len(found) == 0 {
		return nil
	}
	// An INSERT names its columns, so new columns need a new INSERT.
	if err := x.endInsert(); err != nil {
		return err
	}
	x.idle, x.block.columns = rest, append(x.block.columns, found...)
	return nil
}

func (x *tx) hasTarget(source int) bool {
	return slices.ContainsFunc(x.block.columns, func(c column) bool { return c.source == source }) ||
		slices.ContainsFunc(x.idle, func(t target) bool { return t.source == source })
}

// reject finds the rows that the store cannot hold, and reports them to
// store.FileInfo.Reject. It marks and counts them for block.add.
func (x *tx) reject(b *tstat.Batch) (skip []bool, skipped int) {
	skip, reasons := x.block.findUnfit(b)
	for i, bad := range skip {
		if bad {
			x.rejected++
			if x.file.Reject != nil {
				x.file.Reject(b.LineNumber(i), reasons[i], b.Line(i))
			}
		}
	}
	return skip, len(reasons)
}

// Flush implements store.FileTx.
func (x *tx) Flush(context.Context) (int64, error) {
	err := x.endInsert()
	return x.rejected, err
}

// partRows and partBytes limit the parts that the server builds from an INSERT,
// and thus the server's memory.
const (
	partRows  = 1 << 20
	partBytes = 256 << 20
)

// flush passes x.block to the running INSERT. If none is running, it first starts one.
func (x *tx) flush() error {
	if x.block.rows == 0 {
		return nil
	}
	x.rows = true
	if x.insert == nil {
		var cols []string
		for _, own := range ownColumns {
			cols = append(cols, name(own.name))
		}
		for _, c := range x.block.columns {
			cols = append(cols, name(c.name))
		}
		x.insert = x.s.startInsert(x.ctx, x.host, "insert into "+name(x.s.cfg.database, rowsTable(x.file.Type.Name))+" ("+strings.Join(cols, ", ")+") format Native\n")
	}
	block := blocks.Get().(*[]byte)
	*block = x.block.appendTo((*block)[:0])
	return x.check(x.insert.Send(block))
}

// endInsert sends the last block and waits until the server has all rows.
func (x *tx) endInsert() error {
	if err := x.flush(); err != nil {
		return err
	}
	if x.insert == nil {
		return nil
	}
	err := x.insert.Close()
	x.insert = nil
	return x.check(err)
}

// check discards the cached columns of the table if err means that the table has
// changed. It returns err.
func (x *tx) check(err error) error {
	switch codeOf(err) {
	case codeNoSuchColumn, codeUnknownTable, codeNotInBlock, codeUnknownDatabase:
		x.s.forget(x.file.Type.Name)
	}
	return err
}

// Commit implements store.FileTx.
func (x *tx) Commit(ctx context.Context, r store.Record, known, replace []store.Record) error {
	defer x.Abort()
	if err := x.endInsert(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if x.s.cluster && x.rows {
		if err := x.s.awaitReplicas(ctx, x.host, x.file.Type.Name); err != nil {
			return err
		}
	}
	if time.Since(x.started) > maxAttempt {
		return sqlstore.Transient(errTooLong)
	}
	return x.s.commit(ctx, x.host, x.id, r, known, replace)
}

// Abort implements store.FileTx. Rows on the server remain there, invisible, until
// Prune removes them.
func (x *tx) Abort() error {
	if x.ended {
		return nil
	}
	x.ended = true
	x.cancel()
	if x.insert != nil {
		x.insert.Abort()
		x.insert = nil
	}
	return nil
}

// blocks recycles the buffers of encoded blocks.
var blocks = sync.Pool{New: func() any { return new([]byte) }}

// insert is a running INSERT.
type insert = sqlstore.Pipe[*[]byte]

// insertParams returns the settings of all INSERTs. Every row contains the number of an
// attempt or of a claim, so duplicates cannot occur. An asynchronous INSERT would be
// answered before its rows are stored, if the user's profile has wait_for_async_insert=0.
func (s *Store) insertParams() params {
	p := params{"insert_deduplicate": "0"}
	if s.async {
		p["async_insert"] = "0"
	}
	return p
}

// startInsert starts the INSERT statement sql. The request contains the statement and
// then the blocks of rows that the caller sends.
func (s *Store) startInsert(ctx context.Context, host, sql string) *insert {
	p := s.insertParams()
	p["min_insert_block_size_rows"], p["min_insert_block_size_bytes"] = strconv.Itoa(partRows), strconv.Itoa(partBytes)
	if s.cluster {
		p["insert_distributed_sync"] = "1"
	}
	return sqlstore.Start(ctx, 0, func(in *insert) error {
		return s.upload(ctx, host, p, &insertBody{blocks: in, unread: []byte(sql)})
	})
}

// upload sends an INSERT and waits for the response.
func (c *client) upload(ctx context.Context, host string, p params, in *insertBody) error {
	body, err := c.post(ctx, host, p, in, -1)
	if err != nil {
		return err
	}
	defer body.Close()
	answer, err := io.ReadAll(io.LimitReader(body, maxError))
	switch {
	case err != nil:
		return classify(fmt.Errorf("%s: answer: %w", host, err))
	case len(answer) > 0:
		return classify(answerError(host, http.StatusOK, "", string(answer)))
	case !in.sent.Load():
		return sqlstore.Transient(fmt.Errorf("%s: it responded before it had received all rows", host))
	}
	return nil
}

// insertBody is the body of an INSERT request.
type insertBody struct {
	blocks *insert
	unread []byte  // rest of the SQL text or of the current block
	block  *[]byte // the current block; nil before the first one
	sent   atomic.Bool
}

// Read implements io.Reader.
func (in *insertBody) Read(p []byte) (int, error) {
	for len(in.unread) == 0 {
		if in.block != nil {
			blocks.Put(in.block)
			in.block = nil
		}
		block, err := in.blocks.Next()
		if err != nil {
			in.sent.Store(err == io.EOF)
			return 0, err
		}
		in.block, in.unread = block, *block
	}
	n := copy(p, in.unread)
	in.unread = in.unread[n:]
	return n, nil
}
