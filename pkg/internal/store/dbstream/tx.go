package dbstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/pgdb"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// fileTx is the import of one file.
type fileTx struct {
	*pgdb.Tx
	s    *Store
	st   *stream
	file store.FileInfo

	last    int64      // serial_time of the previous row
	latest  int64      // latest plausible time
	window  int64      // window being copied, or -1
	to      *pgdb.Dest // table of the window
	windows []windowRows
	prefix  []byte // the encoded own column of the current row

	series   *series // may be nil
	begun    time.Time
	low      int64 // earliest time of a row
	earliest int64 // earliest plausible time
}

func (x *fileTx) Write(ctx context.Context, b *tstat.Batch) error {
	changed, err := x.Start(b)
	if err != nil {
		return err
	}
	if changed {
		x.window = -1 // start a new COPY with more columns
	}
	batch := x.to.NewBatch()
	for i, own := range b.Serials(x.file.Time) {
		reason := ""
		if own > x.latest {
			at := ", " + time.Unix(own, 0).UTC().Format(time.RFC3339) + ","
			if x.file.Private {
				at = ""
			}
			reason = "its time" + at + " is in the future, or later than the next folder"
		} else if own < 0 {
			reason = "no time"
		}
		serial := max(own, x.last)
		if serial < x.st.adopted && reason == "" {
			continue // the row is adopted
		}
		x.prefix = x.Begin(x.prefix[:0], pgdb.Value{Int: serial})
		if !x.Append(batch, x.prefix, b, i, reason) {
			if old := b.LineNumber(i) <= x.file.PrefixLines; old && reason == "" {
				x.last = serial
			}
			continue
		}
		x.last = serial
		if own >= x.earliest {
			x.low = min(x.low, own)
		}
		if window := serial - serial%x.s.cfg.window; window != x.window {
			if batch, err = x.startWindow(ctx, window, batch); err != nil {
				return err
			}
		}
	}
	return x.Send(batch)
}

// windowRows is a window and the pgdb.Dest that counts the rows stored in it.
type windowRows struct {
	window int64
	rows   *pgdb.Dest
}

// startWindow switches to the window of the last row of the batch. It sends the other
// rows, and returns a new batch with only the last row. The windows of a file are in
// ascending order.
func (x *fileTx) startWindow(ctx context.Context, window int64, batch *pgdb.Batch) (*pgdb.Batch, error) {
	if err := x.s.ensureWindow(ctx, x.st, window); err != nil {
		return nil, err
	}
	x.window, x.to = window, x.NewDest(x.s.part(x.st, window))
	x.windows = append(x.windows, windowRows{window, x.to})
	next := batch.Split(x.to)
	return next, x.Send(batch)
}

// rowsByWindow returns how many of the file's rows are stored in each window.
func (x *fileTx) rowsByWindow() map[int64]int64 {
	rows := map[int64]int64{}
	for _, w := range x.windows {
		if n := w.rows.Stored(); n > 0 {
			rows[w.window] += n
		}
	}
	return rows
}

// checkReplace returns an error if the file would replace stored rows other than those
// of its own prefix; see store.FileInfo.Prefix. Such rows cannot be removed, since
// rows do not say which file they come from.
func (x *fileTx) checkReplace(r store.Record, replace []store.Record) error {
	if len(replace) == 0 || x.file.Prefix != nil && slices.ContainsFunc(replace, x.file.Prefix.Same) {
		return nil
	}
	old := replace[0]
	if _, agree := tstat.CompareHeads(old.Head, r.Head); x.file.ModTime.IsZero() && agree && old.Length < r.Length {
		return hint.New("the beginning of it is stored already", "import the file itself, not '-'")
	}
	return hint.New(fmt.Sprintf("the log changed other than by growing, and the rows stored before cannot be removed: %d of %s, read from %s",
		old.Rows, old.Imported.UTC().Format(time.RFC3339), old.Path), "keep the file that was stored, or import into another stream")
}

func (x *fileTx) Commit(ctx context.Context, r store.Record, known, replace []store.Record) error {
	if err := x.checkReplace(r, replace); err != nil {
		return errors.Join(err, x.Abort())
	}
	if err := x.Tx.Commit(ctx, r, known, replace, func(context.Context, pgx.Tx, pgdb.Replaced) error { return nil }); err != nil {
		if x.series != nil && store.IsTransient(err) { // the server may have stored the file
			x.series.commitUnknown(x.file.Key, x.storedFile(x.rowsByWindow()))
		}
		return err
	}
	byWindow := x.rowsByWindow()
	if x.series != nil {
		defer x.reportStored(byWindow)
	}
	if len(byWindow) == 0 {
		return nil
	}
	x.s.mu.Lock()
	x.s.written[x.st.name] = true
	x.s.mu.Unlock()
	for _, w := range slices.Sorted(maps.Keys(byWindow)) {
		switch x.s.cfg.analyze {
		case "light":
			x.s.analyze(ctx, "", x.s.part(x.st, w), " ("+pgdb.Quote(colSerial)+")")
		case "window":
			x.s.analyze(ctx, "", x.s.part(x.st, w), "")
		}
	}
	return nil
}

// reportStored tells x.series how many of the file's rows are stored in each window.
func (x *fileTx) reportStored(byWindow map[int64]int64) {
	x.series.commit(x.file.Key, x.storedFile(byWindow))
	x.series = nil
}

// storedFile describes the file for x.series. byWindow is the result of rowsByWindow.
func (x *fileTx) storedFile(byWindow map[int64]int64) storedFile {
	f := storedFile{time: x.file.Time, low: x.low, windows: map[int64]work{}}
	rows, took := int64(0), time.Since(x.begun)
	for _, n := range byWindow {
		rows += n
	}
	for start, n := range byWindow {
		f.windows[start] = work{n, time.Duration(float64(took) * float64(n) / float64(rows))}
	}
	return f
}

func (x *fileTx) Abort() error {
	if x.series != nil {
		x.series.end(x.file.Key)
		x.series = nil
	}
	return x.Tx.Abort()
}
