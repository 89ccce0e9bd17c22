package console

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
)

// Progress displays the progress of a run; see bulk.Progress.
type Progress interface {
	Total(files int, bytes int64)
	Add(bytes, rows int64)
}

// Progress returns a progress display for a run and a function that ends it. The display
// is a bar if the console is a terminal and log lines are text. Otherwise, it writes a
// log line at the given interval, and is nil if the interval is 0. It is always nil if
// quiet is true.
func (c *Console) Progress(interval time.Duration, quiet bool) (Progress, func()) {
	switch {
	case quiet:
	case c.tty && !c.json:
		b := &barProgress{con: c, started: time.Now()}
		return b, b.stop
	case interval > 0:
		l := &logProgress{log: c.Logger(), started: time.Now(), done: make(chan struct{})}
		l.wait.Go(func() { l.every(interval) })
		return l, l.stop
	}
	return nil, func() {}
}

// barProgress is a progress bar in the last line of the terminal. The console's
// lock keeps the bar and log lines apart.
type barProgress struct {
	con     *Console
	bar     *progressbar.ProgressBar
	rows    int64
	started time.Time
	shown   time.Time
}

func (b *barProgress) Total(files int, bytes int64) {
	b.con.mu.Lock()
	defer b.con.mu.Unlock()
	b.remove()
	if files == 0 {
		return
	}
	if bytes <= 0 {
		bytes = -1 // input from a pipe: the total is unknown
	}
	b.bar = progressbar.NewOptions64(bytes,
		progressbar.OptionSetWriter(b.con.w),
		progressbar.OptionShowBytes(true),
		progressbar.OptionUseIECUnits(true),
		progressbar.OptionShowCount(),
		progressbar.OptionFullWidth(),
		progressbar.OptionThrottle(200*time.Millisecond),
		progressbar.OptionClearOnFinish(),
		// Disable progressbar's goroutine, which would draw without the lock.
		progressbar.OptionSetSpinnerChangeInterval(0),
	)
	b.con.clear = func() { _ = b.bar.Clear() }
}

func (b *barProgress) Add(bytes, rows int64) {
	b.con.mu.Lock()
	defer b.con.mu.Unlock()
	b.rows += rows
	if b.bar == nil {
		return
	}
	if now := time.Now(); now.Sub(b.shown) > 200*time.Millisecond {
		b.shown = now
		b.bar.Describe(Count(int64(float64(b.rows)/now.Sub(b.started).Seconds())) + " rows/s")
	}
	_ = b.bar.Add64(bytes)
}

// remove removes the bar from the screen. The caller must hold the console's lock.
func (b *barProgress) remove() {
	if b.bar != nil {
		b.con.clear()
		b.bar, b.con.clear = nil, nil
	}
}

func (b *barProgress) stop() {
	b.con.mu.Lock()
	defer b.con.mu.Unlock()
	b.remove()
}

// logProgress logs the progress at regular intervals.
type logProgress struct {
	log                *slog.Logger
	started            time.Time
	total, bytes, rows atomic.Int64
	done               chan struct{}
	wait               sync.WaitGroup
}

func (l *logProgress) Total(_ int, bytes int64) { l.total.Store(l.bytes.Load() + bytes) }

func (l *logProgress) Add(bytes, rows int64) {
	l.bytes.Add(bytes)
	l.rows.Add(rows)
}

func (l *logProgress) every(interval time.Duration) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-l.done:
			return
		case <-t.C:
			seconds := time.Since(l.started).Seconds()
			attrs := []any{"read", Bytes(l.bytes.Load()), "total", Bytes(l.total.Load()),
				"rows", l.rows.Load(), "rows_per_second", int64(float64(l.rows.Load()) / seconds)}
			if done, total := float64(l.bytes.Load()), float64(l.total.Load()); done > 0 && total > done {
				left := time.Duration(seconds * (total - done) / done * float64(time.Second))
				attrs = append(attrs, "left", left.Round(time.Second))
			}
			l.log.Info("progress", attrs...)
		}
	}
}

func (l *logProgress) stop() {
	close(l.done)
	l.wait.Wait()
}
