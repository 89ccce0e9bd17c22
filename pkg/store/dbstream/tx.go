package dbstream

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/store"
	"github.com/tstatrepo/tstatrepo/pkg/store/pg"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// fileTx is one file under way.
type fileTx struct {
	*pg.Rows
	s    *Store
	st   *stream
	tx   *pg.Tx
	file store.FileInfo

	last    int64           // serial_time of the row before
	latest  int64           // what can be true
	window  int64           // being copied; -1: none
	rows    int64           // of the window being copied
	touched map[int64]int64 // rows of windows
	row     []byte

	series   *series // nil: none
	begun    time.Time
	low      int64 // the earliest row's own time
	earliest int64 // what can be true
}

func (x *fileTx) Write(ctx context.Context, b *tstat.Batch) error {
	changed, err := x.Start(b)
	if err != nil {
		return err
	}
	if changed && x.tx.Copying() {
		if err := x.check(x.tx.EndCopy()); err != nil {
			return err
		}
		x.count()
		x.window = -1 // begin it again with more columns
	}
	buf := x.tx.Buffer()
	for i, own := range b.Serials(x.file.Time) {
		reason := ""
		if own > x.latest {
			reason = "its time, " + time.Unix(own, 0).UTC().Format(time.RFC3339) + ", is in the future, or later than the next folder"
		} else if own < 0 {
			reason = "no time"
		}
		serial := max(own, x.last)
		if serial < x.st.adopted && reason == "" {
			continue // it is there
		}
		from := len(buf)
		buf = x.Begin(buf, pg.Value{Int: serial})
		var ok bool
		buf, ok = x.Append(buf, from, b, i, reason)
		if !ok {
			if old := x.file.Append && b.LineNumber(i) <= x.file.After; old && reason == "" {
				x.last = serial
			}
			continue
		}
		x.last = serial
		if own >= x.earliest {
			x.low = min(x.low, own)
		}
		if window := serial - serial%x.s.cfg.window; window != x.window {
			x.row = append(x.row[:0], buf[from:]...)
			if err := x.turn(ctx, window, buf[:from]); err != nil {
				return err
			}
			buf = append(x.tx.Buffer(), x.row...)
		}
		x.rows++
		x.tx.Line(b.LineNumber(i))
	}
	if err := x.CheckAddresses(false); err != nil {
		return err
	}
	return x.check(x.tx.Send(buf))
}

// turn sends what is left for the window under way, and starts another. Within
// a file windows only go on.
func (x *fileTx) turn(ctx context.Context, window int64, left []byte) error {
	if x.tx.Copying() {
		if err := x.tx.Send(left); err != nil {
			return x.check(err)
		}
		if err := x.tx.EndCopy(); err != nil {
			return x.check(err)
		}
	}
	if err := x.s.ensureWindow(ctx, x.st, window); err != nil {
		return err
	}
	x.count()
	x.window = window
	x.tx.Copy(x.s.part(x.st, window), x.Rows)
	return nil
}

// count adds up the rows of the window under way.
func (x *fileTx) count() {
	if x.rows > 0 {
		x.touched[x.window] += x.rows
		x.rows = 0
	}
}

// check looks at an error for a sign that the stream is not what it was: a
// retention job may have dropped a partition.
func (x *fileTx) check(err error) error {
	code := pg.CodeOf(err)
	if strings.HasPrefix(code, "42") || errors.Is(err, pg.ErrChanged) {
		x.s.mu.Lock()
		delete(x.s.streams, x.st.name)
		x.s.mu.Unlock()
	}
	if code == "42P01" { // dropped meanwhile: the next try makes it again
		return pg.Again(err)
	}
	return err
}

var errReplace = errors.New("rows of dbstream do not tell their file, and cannot be replaced")

func (x *fileTx) Commit(ctx context.Context, r store.Record, known, replace []store.Record) error {
	if len(replace) > 0 && !x.file.Append {
		x.Abort()
		return errReplace
	}
	if err := x.CheckAddresses(true); err != nil {
		return errors.Join(err, x.Abort())
	}
	err := x.tx.Commit(ctx, r, known, replace, func(context.Context, pgx.Tx, pg.Replaced) error { return nil })
	if err != nil {
		return x.check(err)
	}
	x.count()
	if x.series != nil {
		defer x.stored()
	}
	if len(x.touched) == 0 {
		return nil
	}
	x.st.mu.Lock()
	x.st.written = true
	x.st.mu.Unlock()
	for _, w := range slices.Sorted(maps.Keys(x.touched)) {
		switch x.s.cfg.analyze {
		case "light":
			x.s.analyze(ctx, "", x.s.part(x.st, w), " ("+pg.Quote(colSerial)+")")
		case "window":
			x.s.analyze(ctx, "", x.s.part(x.st, w), "")
		}
	}
	return nil
}

// stored tells the scheduler's series what is there now.
func (x *fileTx) stored() {
	f := storedFile{time: x.file.Time, low: x.low, windows: map[int64]work{}}
	rows, took := int64(0), time.Since(x.begun)
	for _, n := range x.touched {
		rows += n
	}
	for start, n := range x.touched {
		f.windows[start] = work{n, time.Duration(float64(took) * float64(n) / float64(rows))}
	}
	x.series.commit(x.file.Key, f)
	x.series = nil
}

func (x *fileTx) Abort() error {
	if x.series != nil {
		x.series.end(x.file.Key)
		x.series = nil
	}
	return x.tx.Abort()
}
