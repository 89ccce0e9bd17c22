package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/store"
	"github.com/tstatrepo/tstatrepo/pkg/store/pg"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// tx is one file under way. All of it goes to one host: another may not have
// the rows yet.
type tx struct {
	s       *Store
	ctx     context.Context
	cancel  context.CancelFunc
	host    string
	file    store.FileInfo
	id      uint64
	started time.Time
	block   block
	idle    []target // of columns that no batch had so far
	insert  *insert  // nil: none under way
	rows    bool     // there was one
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

// start prepares for the columns of b. Those that no row had so far are left
// out, since the server works on every value.
func (x *tx) start(b *tstat.Batch) error {
	for i, p := range x.file.Present {
		if !p && x.s.cfg.columns != pg.Drop && !x.hasTarget(i) {
			if _, ok := b.Column(i); ok {
				return pg.Hinted(fmt.Errorf("line %d: a later header has a column that the table lacks: %s", b.LineNumber(0), name(x.file.Columns[i].Name)),
					"columns=drop leaves it out")
			}
		}
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
	// An INSERT names its columns, so these need another one.
	if err := x.endInsert(); err != nil {
		return err
	}
	x.idle, x.block.columns = rest, append(x.block.columns, found...)
	return nil
}

func (x *tx) hasTarget(source int) bool {
	for _, c := range x.block.columns {
		if c.source == source {
			return true
		}
	}
	for _, t := range x.idle {
		if t.source == source {
			return true
		}
	}
	return false
}

// reject passes on the rows that the store cannot take.
func (x *tx) reject(b *tstat.Batch) (skip []bool, skipped int) {
	skip, reasons := x.block.unfit(b)
	for i := range b.Len() {
		line := b.LineNumber(i)
		reason, bad := reasons[i]
		if why, ok := x.file.Refused[line]; ok {
			reason, bad = why, true
			if skip == nil {
				skip = make([]bool, b.Len())
			}
			skip[i] = true
		}
		if bad {
			skipped++
			x.rejected++
			if x.file.Reject != nil {
				x.file.Reject(line, reason, b.Line(i))
			}
		}
	}
	return skip, skipped
}

// Rejected implements store.Rejecter.
func (x *tx) Rejected() int64 { return x.rejected }

// Of each INSERT the server makes parts of at most about this many bytes and
// rows: that is its memory.
const (
	partRows  = 1 << 20
	partBytes = 256 << 20
)

// flush gives the block to the INSERT.
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
		x.insert = x.s.newInsert(x.ctx, x.host, "insert into "+name(x.s.cfg.database, rowsTable(x.file.Type.Name))+" ("+strings.Join(cols, ", ")+") format Native\n")
	}
	return x.check(x.insert.send(x.block.take(x.insert.buffer())))
}

// endInsert waits until the server has all rows.
func (x *tx) endInsert() error {
	if err := x.flush(); err != nil {
		return err
	}
	if x.insert == nil {
		return nil
	}
	err := x.insert.end()
	x.insert = nil
	return x.check(err)
}

// check looks at an error for a sign that the table is not what it was.
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
		if err := x.s.replicated(ctx, x.host, x.file.Type.Name); err != nil {
			return err
		}
	}
	if time.Since(x.started) > maxAttempt {
		return &transientError{errTooLong}
	}
	return x.s.commit(ctx, x.host, x.id, r, known, replace)
}

// Abort implements store.FileTx. Rows that the server has stay invisible,
// until Prune removes them.
func (x *tx) Abort() error {
	if x.ended {
		return nil
	}
	x.ended = true
	x.cancel()
	if x.insert != nil {
		x.insert.abort()
		x.insert = nil
	}
	return nil
}

// insert is an INSERT under way, in a goroutine of its own, so that rows are
// prepared while the server takes those before.
type insert struct {
	ctx    context.Context
	cancel context.CancelFunc
	pack   *packer
	raw    []byte // a buffer, if what is sent is another: the compressed text
	feed   chan []byte
	back   chan []byte   // buffers to use again
	done   chan struct{} // closed when it ended
	err    error         // read after done
	cur    []byte        // read, in part
	whole  []byte
	sent   atomic.Bool // all of it
}

// newInsert starts an INSERT, whose rows follow its text in the request.
func (s *Store) newInsert(ctx context.Context, host, sql string) *insert {
	in := &insert{pack: newPacker(s.cfg.compress), feed: make(chan []byte), back: make(chan []byte, 2), done: make(chan struct{})}
	in.ctx, in.cancel = context.WithCancel(ctx)
	in.cur = in.pack.pack(nil, []byte(sql))
	p := params{
		// The number of the attempt is in every row: there are no duplicates.
		"insert_deduplicate":         "0",
		"min_insert_block_size_rows": strconv.Itoa(partRows), "min_insert_block_size_bytes": strconv.Itoa(partBytes),
	}
	if s.cluster {
		p["insert_distributed_sync"] = "1"
	}
	if in.pack.method != 0 {
		p["decompress"] = "1"
	}
	go func() {
		defer close(in.done)
		in.err = in.post(s.client, host, p)
	}()
	return in
}

// post sends the request and waits for the answer.
func (in *insert) post(c *client, host string, p params) error {
	body, err := c.post(in.ctx, host, p, in, -1)
	if err != nil {
		return err
	}
	defer body.Close()
	answer, err := io.ReadAll(io.LimitReader(body, maxError))
	switch {
	case err != nil:
		return mark(fmt.Errorf("%s: answer: %w", host, err))
	case len(answer) > 0:
		return mark(answerError(host, http.StatusOK, "", string(answer)))
	case !in.sent.Load():
		return &transientError{fmt.Errorf("%s: it answered before it had all rows", host)}
	}
	return nil
}

// Read implements io.Reader for the request.
func (in *insert) Read(p []byte) (int, error) {
	for len(in.cur) == 0 {
		if in.whole != nil {
			select {
			case in.back <- in.whole:
			default:
			}
			in.whole = nil
		}
		select {
		case buf, ok := <-in.feed:
			if !ok {
				in.sent.Store(true)
				return 0, io.EOF
			}
			in.cur, in.whole = buf, buf[:0]
		case <-in.ctx.Done():
			return 0, in.ctx.Err()
		}
	}
	n := copy(p, in.cur)
	in.cur = in.cur[n:]
	return n, nil
}

// buffer returns an empty buffer for send.
func (in *insert) buffer() []byte {
	if in.pack.method != 0 {
		return in.raw[:0]
	}
	return in.used()
}

// used returns a buffer that was sent, if there is one.
func (in *insert) used() []byte {
	select {
	case b := <-in.back:
		return b
	default:
		return nil
	}
}

// send gives a block to the INSERT, which owns buf from then on.
func (in *insert) send(buf []byte) error {
	if in.pack.method != 0 {
		in.raw = buf
		buf = in.pack.pack(in.used(), buf)
	}
	select {
	case in.feed <- buf:
		return nil
	case <-in.done:
		if in.err == nil {
			return errors.New("the server ended the insert")
		}
		return in.err
	}
}

// end says that there are no more rows, and returns what the server says.
func (in *insert) end() error {
	close(in.feed)
	<-in.done
	in.cancel()
	return in.err
}

// abort ends an INSERT that is not wanted any more.
func (in *insert) abort() {
	in.cancel()
	<-in.done
}
