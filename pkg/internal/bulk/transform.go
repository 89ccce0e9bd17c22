package bulk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// The text of a log can be transformed before it is parsed or copied. Everything that
// a store knows of the text is then about the result: rows, fingerprint, head. A store
// never gets two transforms of one text.

// Transform describes what is done to the text of logs, and what is stored of it, as
// store.Record has it.
func (o *Options) Transform() string {
	var parts []string
	if o.Anonymize != nil {
		parts = append(parts, o.Anonymize.String())
	}
	if !o.Selection.IsAll() {
		parts = append(parts, o.Selection.String())
	}
	return strings.Join(parts, "; ")
}

// readerOptions completes the options for the reader of a task's file.
func (r *run) readerOptions(t *task, opt tstat.ReaderOptions) tstat.ReaderOptions {
	opt.Location, opt.Layout = r.opt.Location, r.opt.Layout
	if a := r.opt.Anonymize; a != nil {
		opt.Private = true
		opt.Rewrite = func(text io.Reader) io.Reader {
			return a.NewRewriter(t.typ, anonymize.RewriterOptions{
				Location: opt.Location, Layout: opt.Layout,
				Source: func() (anonymize.Source, error) { return r.addressesOf(t) },
			}).Reader(text)
		}
	}
	return opt
}

// addressesOf says whether the addresses in a file are anonymized already, for types
// and versions whose rows do not: by the rows of the log of TCP flows beside it.
func (r *run) addressesOf(t *task) (anonymize.Source, error) {
	if r.opt.SourceIs != anonymize.Unknown || t.stdin || t.remote != nil {
		return r.opt.SourceIs, nil
	}
	dir := filepath.Dir(t.path)
	r.mu.Lock()
	source, known := r.addresses[dir]
	r.mu.Unlock()
	if known {
		return source, nil
	}
	source, err := AddressesIn(dir, r.opt.Location, r.opt.Layout)
	if err != nil {
		return anonymize.Unknown, err
	}
	r.mu.Lock()
	r.addresses[dir] = source
	r.mu.Unlock()
	return source, nil
}

// flagsSize is how much text of a log is read for its flags, in bytes.
const flagsSize = 16 << 20

// flagged is the log type whose flags say what Tstat did to all logs of a folder.
const flagged = "log_tcp_complete"

// AddressesIn says whether the addresses in the logs of a folder are anonymized
// already, by the flags of its log of TCP flows. loc and layout are those of
// tstat.ReaderOptions. The error wraps anonymize.ErrSource.
func AddressesIn(dir string, loc *time.Location, layout string) (anonymize.Source, error) {
	source, err := addressesIn(dir, loc, layout)
	if err != nil {
		err = hint.Add(fmt.Errorf("%w: %w", anonymize.ErrSource, err), "say so with `source-is` clear or anonymized")
	}
	return source, err
}

func addressesIn(dir string, loc *time.Location, layout string) (anonymize.Source, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return anonymize.Unknown, err
	}
	i := slices.IndexFunc(entries, func(e os.DirEntry) bool {
		name, _ := compression.CutSuffix(e.Name())
		return name == flagged
	})
	if i < 0 {
		return anonymize.Unknown, errors.New("there is no " + flagged + " beside it")
	}
	f, err := openPath(filepath.Join(dir, entries[i].Name()))
	if err != nil {
		return anonymize.Unknown, err
	}
	defer f.Close()
	rd := tstat.NewReader(f, tstat.TypeByName(flagged), tstat.ReaderOptions{Location: loc, Layout: layout})
	defer rd.Stop()
	isClear, isAnonymized := false, false
	for rd.Counts().Text < flagsSize && !(isClear && isAnonymized) {
		b, err := rd.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return anonymize.Unknown, fmt.Errorf("%s: %w", entries[i].Name(), err)
		}
		c, a := countFlags(b)
		isClear, isAnonymized = isClear || c, isAnonymized || a
	}
	switch {
	case isClear && isAnonymized:
		return anonymize.Unknown, errors.New(flagged + " has internal addresses of both kinds")
	case isAnonymized:
		return anonymize.Anonymized, nil
	case rd.Counts().Rows == 0:
		return anonymize.Unknown, errors.New(flagged + " has no rows")
	default:
		return anonymize.Clear, nil
	}
}

// countFlags reports whether rows have internal addresses that are clear, and
// addresses that are anonymized. A Tstat without flags cannot anonymize.
func countFlags(b *tstat.Batch) (isClear, isAnonymized bool) {
	value := func(v tstat.Vector, has bool) func(row int) bool {
		next := 0
		return func(row int) bool {
			if !has || v.Def[row] == 0 {
				return false
			}
			next++
			return v.Bools[next-1]
		}
	}
	for _, side := range []string{"c", "s"} {
		internal := value(b.Column(b.Type.Column(side + "_isint")))
		anonymized := value(b.Column(b.Type.Column(side + "_iscrypto")))
		for row := range b.Len() {
			in, is := internal(row), anonymized(row)
			isAnonymized = isAnonymized || is
			isClear = isClear || in && !is
		}
	}
	return isClear, isAnonymized
}

// hasOther returns the record of a task's file in a store that has it under
// another transform, or nil. Then the texts cannot be compared.
func (r *run) hasOther(t *task, index int) *store.Record {
	if r.opt.Replace {
		return nil
	}
	own, free, _ := r.recordsFor(t, index)
	for _, rec := range slices.Concat(own, free) {
		if rec.Transform != r.opt.Transform() {
			return &rec
		}
	}
	return nil
}

// skipOther counts a file that a store has under another transform, and warns once.
func (r *run) skipOther(t *task, d *dest, rec *store.Record) {
	t.other = true
	r.mu.Lock()
	first := !r.warnedOther
	r.warnedOther = true
	r.mu.Unlock()
	if first {
		describe := func(transform string) string {
			if transform == "" {
				return "none"
			}
			return transform
		}
		r.log.Warn("stored under another transform, skipped", "file", t.path, "store", d.String(), "stored", describe(rec.Transform),
			"wanted", describe(r.opt.Transform()), "hint", "`replace` stores such logs again")
	}
}

// textWriter writes rewritten text, compressed as its name says.
type textWriter struct {
	io.WriteCloser
}

// Write implements io.Writer.
func (w textWriter) Write(p []byte) (int, error) {
	n, err := w.WriteCloser.Write(p)
	if err != nil {
		err = &tstat.RewriteError{Err: err}
	}
	return n, err
}

type plainText struct{ io.Writer }

func (plainText) Close() error { return nil }

// rewrittenName returns the name of a copy whose text was rewritten. Formats that
// cannot be written become zstd.
func rewrittenName(name string) string {
	switch plain, suffix := compression.CutSuffix(name); suffix {
	case "", ".gz", ".zst":
		return name
	default:
		return plain + ".zst"
	}
}

// NewTextWriter returns a writer of text that compresses it as the suffix of a name
// says: with gzip, or with zstd in place of formats that cannot be written. The same
// text always has the same bytes. Errors of Write are a tstat.RewriteError. Close does
// not close w.
func NewTextWriter(w io.Writer, name string) (io.WriteCloser, error) {
	switch _, suffix := compression.CutSuffix(name); suffix {
	case "":
		return textWriter{plainText{w}}, nil
	case ".gz":
		return textWriter{gzip.NewWriter(w)}, nil
	default:
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
		return textWriter{z}, err
	}
}
