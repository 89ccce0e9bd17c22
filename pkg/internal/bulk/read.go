package bulk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// interruptible wraps a reader. When ctx ends, Read of the result fails, even while Read
// of the wrapped reader blocks.
func interruptible(ctx context.Context, in io.Reader) io.Reader {
	pr, pw := io.Pipe()
	stop := context.AfterFunc(ctx, func() { pr.CloseWithError(ctx.Err()) })
	go func() {
		defer stop()
		_, err := io.Copy(pw, in)
		pw.CloseWithError(err)
	}()
	return pr
}

// rateBurst is the maximum number of bytes read at a time if Limits restricts the rate.
const rateBurst = 256 << 10

type sourceReader struct {
	ctx      context.Context
	in       io.Reader
	limiter  *rate.Limiter
	progress Progress
}

func (s *sourceReader) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	if s.limiter != nil && len(p) > rateBurst {
		p = p[:rateBurst]
	}
	n, err := s.in.Read(p)
	if n > 0 {
		s.progress.Add(int64(n), 0)
		if s.limiter != nil {
			if werr := s.limiter.WaitN(s.ctx, n); werr != nil {
				return n, werr
			}
		}
	}
	return n, err
}

// readBatches calls f for each batch of rd until f returns false or the file ends. It
// first calls restart, which resets rd to the start of the file with the given
// ReaderOptions.Extra. If a later header has more unknown columns, readBatches calls
// restart again, and then calls f for all rows again.
func readBatches(rd *tstat.Reader, restart func(extra []string) error, f func(*tstat.Batch) (more bool)) error {
	if err := restart(nil); err != nil {
		return err
	}
	for {
		b, err := rd.Next()
		var nc *tstat.NewColumnsError
		switch {
		case err == io.EOF:
			return nil
		case errors.As(err, &nc):
			if err := restart(nc.Extra); err != nil {
				return err
			}
		case err != nil:
			return err
		case !f(b):
			return nil
		}
	}
}

// read reads the file from its start into all stores that lack it. If rawOnly is true,
// it skips the stores that accept rows. See tryFile for the parameter extra.
func (im *fileImport) read(extra []string, rawOnly bool) error {
	t := im.task
	defer func() {
		for _, g := range im.targets {
			g.abort()
		}
	}()
	info := store.FileInfo{Key: t.key, Type: im.typ(), Time: t.time.Time, Name: path.Join(t.key.Probe, t.name), ModTime: t.mtime, ReadOnce: t.stdin, Next: t.next,
		Private: im.opt.Anonymizes()}
	if t.remote != nil {
		info.Name = path.Join(t.remote.Dir, t.name)
	}
	in := &sourceReader{ctx: im.ctx, in: im.in, limiter: im.limits.rate, progress: im.progress}
	if !t.stdin {
		if _, err := im.file.Seek(0, io.SeekStart); err != nil {
			return err
		}
		in.in, info.Mode = im.file, im.file.Mode
	}
	src, copies, typed := im.beginRaw(in, info)
	typed = typed && !rawOnly
	var err error
	if im.selection, err = im.opt.Selection.For(im.typ()); err != nil {
		return fmt.Errorf("%s: %w", t.path, err)
	}
	im.filtered = 0
	opt := im.readerOptions(t, tstat.ReaderOptions{
		Use:   im.selection.Uses(),
		Extra: extra, Marks: im.marks(),
		// Read ahead on another goroutine only for local files that are
		// not copied: a peer's file needs its place, and a copy is
		// written while the file is read.
		Ahead:  im.opt.Jobs > 1 && t.remote == nil && !t.stdin && !im.hasRaw(),
		Reject: im.reject(-1),
		Unknown: func(columns []string) {
			if im.selection.Uses() != nil {
				return // they are not selected
			}
			if im.anonymize != nil {
				im.log.Warn("unknown columns cannot be anonymized, left out", "file", t.path, "columns", strings.Join(columns, ", "))
				return
			}
			im.log.Warn("unknown columns are kept as text", "file", t.path, "columns", strings.Join(columns, ", "))
		},
	})
	if rewrite := opt.Rewrite; rewrite != nil && len(copies) > 0 {
		opt.Rows = nil // the copies need the text
		opt.Rewrite = func(text io.Reader) io.Reader {
			text = rewrite(text)
			for _, w := range copies {
				text = io.TeeReader(text, w)
			}
			return text
		}
	}
	im.rd.Reset(src, im.typ(), opt)
	defer im.rd.Stop()
	if typed {
		err = im.rows(info)
	} else {
		err = cmp.Or(im.rd.Drain(), im.checkDamage())
		if err == nil && im.anonymize != nil { // otherwise nothing is missing in the copies
			err = im.checkRows()
		}
	}
	if err != nil {
		return err
	}
	for _, w := range copies {
		if err := w.Close(); err != nil {
			return err
		}
	}
	// After damaged compressed text, more bytes may remain to be copied.
	if _, err := io.Copy(io.Discard, src); err != nil {
		return err
	}
	return im.commit(typed)
}

// beginRaw starts to copy the file to the stores that accept whole files. If the text is
// not rewritten, reading from src also writes to these stores. Otherwise the caller must
// write the rewritten text to copies. The result typed is true if other stores accept
// rows.
func (im *fileImport) beginRaw(in io.Reader, info store.FileInfo) (src io.Reader, copies []io.WriteCloser, typed bool) {
	src = in
	im.each(func(g *target) error {
		if g.raw == nil {
			typed = true
			return nil
		}
		info := info
		if im.anonymize != nil {
			info.Name = rewrittenName(info.Name)
		}
		tx, err := g.raw.BeginRaw(im.ctx, info)
		if err != nil {
			return err
		}
		g.tx = tx
		if im.anonymize == nil {
			src = io.TeeReader(src, rawWriter{im, g, tx})
			return nil
		}
		w, err := NewTextWriter(rawWriter{im, g, tx}, info.Name)
		copies = append(copies, w)
		return err
	})
	return src, copies, typed
}

// rawWriter writes everything read from the file to a RawTx.
type rawWriter struct {
	im *fileImport
	g  *target
	tx store.RawTx
}

func (w rawWriter) Write(p []byte) (int, error) {
	if w.g.err == nil {
		if err := w.tx.WriteRaw(w.im.ctx, p); err != nil {
			w.im.drop(w.g, err)
		}
	}
	if !w.im.hasTargets() {
		return 0, errNoStore
	}
	return len(p), nil
}

// errNoStore ends the reading of a file when no store is left to receive it.
var errNoStore = errors.New("no store is left")

// rows reads all rows into the stores that accept rows.
func (im *fileImport) rows(info store.FileInfo) error {
	typed := func(f func(g *target) error) {
		im.each(func(g *target) error {
			if g.raw != nil {
				return nil
			}
			return f(g)
		})
	}
	for first := true; ; first = false {
		b, err := im.rd.Next()
		if err != nil && err != io.EOF {
			return err
		}
		if first {
			info.Columns = im.rd.Columns()
			info.Present = make([]bool, len(info.Columns))
			for c := range info.Present {
				if b != nil {
					_, info.Present[c] = b.Column(c)
				}
			}
			info.Kept = im.selection.Kept(info.Columns)
			typed(func(g *target) (err error) {
				info.Reject = im.reject(g.index)
				info.Prefix, info.PrefixLines = g.prefix, g.prefixLines
				g.tx, err = g.st.Begin(im.ctx, info)
				return err
			})
		}
		if b == nil {
			if err := im.checkDamage(); err != nil {
				return err
			}
			typed(func(g *target) (err error) {
				g.rejected, err = g.tx.Flush(im.ctx)
				return err
			})
			return im.checkRows()
		}
		if first {
			im.mu.Lock()
			im.zone.add(im.log, im.task.time, im.opt.Location, b.Ends())
			im.mu.Unlock()
		}
		if im.filtered += int64(im.selection.Apply(b)); b.Len() == 0 {
			continue
		}
		typed(func(g *target) error { return g.tx.Write(im.ctx, b) })
		if !im.hasTargets() {
			return errNoStore
		}
		im.progress.Add(0, int64(b.Len()))
	}
}
