package sink

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
)

const (
	// Pending lines are written, synced and acked after syncEvery or
	// syncBytes. Compressed files use syncEveryZstd, since each write adds a
	// frame.
	syncEvery     = 50 * time.Millisecond
	syncEveryZstd = time.Second
	syncBytes     = 4 << 20
	// maxOpen is the maximum number of open files.
	maxOpen = 128
	// diskRetry is the interval between retries of a failed write, for example
	// on a full disk.
	diskRetry = time.Second
)

// files is a sink that writes files DIR/PROBE/LOG/YYYY_MM_DD_HH.EXT. Each is named after
// the hour (UTC) in which its lines are written.
type files struct {
	q        *batch.Queue
	dir, ext string
	zstd     *zstd.Encoder // nil: plain
	now      func() time.Time

	open    map[string]*outFile // by folder
	pending []*batch.Batch      // not written yet
	bytes   int                 // cost of pending
	writing retry.Alarm
}

// outFile is a file that is being written.
type outFile struct {
	*os.File
	hour  string
	size  int64  // bytes that are complete and synced
	text  []byte // not compressed yet
	dirty bool   // may have bytes after size
}

func newFiles(q *batch.Queue, dir string, format batch.Format, compress bool) (*files, error) {
	f := &files{q: q, dir: dir, ext: ".log", now: time.Now, open: map[string]*outFile{}}
	if format == batch.JSON {
		f.ext = ".json"
	}
	if compress {
		f.ext += ".zst"
		var err error
		if f.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(syncBytes)); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// Run implements Sink.
func (f *files) Run(ctx context.Context) error {
	defer f.closeAll()
	every := syncEvery
	if f.zstd != nil {
		every = syncEveryZstd
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case b, ok := <-f.q.Batches():
			if !ok {
				return f.flush(ctx)
			}
			f.pending = append(f.pending, b)
			f.bytes += int(f.q.Cost(b))
			if f.bytes < min(syncBytes, int(f.q.Size/2)) {
				continue
			}
		case <-t.C:
			f.closeOld()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := f.flush(ctx); err != nil {
			return err
		}
	}
}

// flush writes and acks the pending batches. If writing fails, it retries until ctx is
// done, since space may become free on a full disk.
func (f *files) flush(ctx context.Context) error {
	for len(f.pending) > 0 {
		err := f.write()
		if f.writing.Set(err, f.q.Log.With("sink", f.q.Name), "files cannot be written: the stream pauses", "files writable again") {
			f.q.Trouble(err)
		}
		if err == nil {
			break
		}
		if err := retry.Sleep(ctx, diskRetry); err != nil {
			return err
		}
	}
	for _, b := range f.pending {
		f.q.Ack(b)
	}
	clear(f.pending)
	f.pending, f.bytes = f.pending[:0], 0
	return nil
}

// write writes and syncs all pending batches, or none of them.
func (f *files) write() (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, f.rollBack())
		}
	}()
	if err := durable.MkdirAll(f.dir, 0o755); err != nil {
		return err
	}
	if err := durable.CheckSpace(f.dir); err != nil {
		return err
	}
	hour := f.now().UTC().Format("2006_01_02_15")
	for _, b := range f.pending {
		if len(b.Out) == 0 {
			continue
		}
		o, err := f.file(filepath.Join(f.dir, b.Probe, b.Type), hour)
		if err != nil {
			return err
		}
		o.dirty = true
		if f.zstd != nil {
			o.text = append(o.text, b.Out...)
		} else if _, err := o.Write(b.Out); err != nil {
			return err
		}
	}
	for _, o := range f.open {
		if !o.dirty {
			continue
		}
		if f.zstd != nil {
			if _, err := o.Write(f.zstd.EncodeAll(o.text, nil)); err != nil {
				return err
			}
			o.text = o.text[:0]
		}
		if err := durable.Sync(o.File); err != nil {
			return err
		}
	}
	for _, o := range f.open {
		if !o.dirty {
			continue
		}
		if o.size, err = o.Seek(0, io.SeekCurrent); err != nil {
			return err
		}
		o.dirty = false
	}
	return nil
}

// rollBack removes what a failed write has added to the files, and closes all files.
func (f *files) rollBack() error {
	var errs []error
	for _, o := range f.open {
		if o.dirty {
			errs = append(errs, o.Truncate(o.size))
		}
		if o.dirty && o.size == 0 && f.zstd != nil {
			errs = append(errs, os.Remove(o.Name())) // the next attempt creates another file
		}
	}
	f.closeAll()
	return errors.Join(errs...)
}

// file returns the file for the given hour in the folder dir, and opens it if necessary.
func (f *files) file(dir, hour string) (*outFile, error) {
	if o := f.open[dir]; o != nil {
		if o.hour == hour || o.dirty {
			return o, nil
		}
		o.Close()
		delete(f.open, dir)
	}
	if len(f.open) >= maxOpen {
		for old, o := range f.open {
			if !o.dirty {
				o.Close()
				delete(f.open, old)
				break
			}
		}
	}
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	name, err := f.fileName(dir, hour)
	if err != nil {
		return nil, err
	}
	file, err := durable.OpenFile(name, os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	o := &outFile{File: file, hour: hour}
	if err := o.toLineEnd(); err != nil {
		file.Close()
		return nil, err
	}
	f.open[dir] = o
	return o, nil
}

// fileName returns the path of the file for the given hour in the folder dir. A compressed
// file is always a new one, because appending after a frame that a crash has truncated
// would make the rest unreadable.
func (f *files) fileName(dir, hour string) (string, error) {
	name := filepath.Join(dir, hour+f.ext)
	if f.zstd == nil {
		return name, nil
	}
	for n := 2; ; n++ {
		_, err := os.Stat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return name, nil
		case err != nil: // other names would fail too
			return "", err
		}
		name = filepath.Join(dir, hour+"."+strconv.Itoa(n)+f.ext)
	}
}

// toLineEnd removes an unfinished last line, which a crash may have left, and seeks to
// the end of the file.
func (o *outFile) toLineEnd() error {
	size, err := o.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	end, block := size, make([]byte, 64<<10)
	for end > 0 {
		from := max(0, end-int64(len(block)))
		part := block[:end-from]
		if _, err := o.ReadAt(part, from); err != nil {
			return err
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			end = from + int64(i) + 1
			break
		}
		end = from
	}
	if end < size {
		if err := o.Truncate(end); err != nil {
			return err
		}
	}
	o.size, err = o.Seek(end, io.SeekStart)
	return err
}

// closeOld closes the files of past hours, except dirty ones.
func (f *files) closeOld() {
	hour := f.now().UTC().Format("2006_01_02_15")
	for dir, o := range f.open {
		if o.hour != hour && !o.dirty {
			o.Close()
			delete(f.open, dir)
		}
	}
}

func (f *files) closeAll() {
	for dir, o := range f.open {
		o.Close()
		delete(f.open, dir)
	}
}
