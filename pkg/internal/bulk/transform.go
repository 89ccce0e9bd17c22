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

// The text of a log can be transformed before it is parsed or copied.
// Everything that a store records about the text (rows, fingerprint, head) then
// describes the result. A store never receives two transforms of the same text.

// Transform returns the store.Record.Transform of logs imported with o. It describes the
// anonymization and the selection.
func (o *Options) Transform() string { return o.transform(o.Anonymize) }

// transform is like Transform, but describes the given anonymizer instead of
// o.Anonymize.
func (o *Options) transform(by *anonymize.Anonymizer) string {
	var parts []string
	if by != nil {
		parts = append(parts, by.String())
	}
	if !o.Selection.IsAll() {
		parts = append(parts, o.Selection.String())
	}
	return strings.Join(parts, "; ")
}

// Anonymizes reports whether any store gets anonymized logs.
func (o *Options) Anonymizes() bool {
	return o.Anonymize != nil || slices.ContainsFunc(o.Anonymizers, func(a *anonymize.Anonymizer) bool { return a != nil })
}

// anonymizer returns the anonymizer of the store with the given index, or nil.
func (o *Options) anonymizer(index int) *anonymize.Anonymizer {
	if len(o.Anonymizers) > 0 {
		return o.Anonymizers[index]
	}
	return o.Anonymize
}

// byTransform groups im.targets so that the targets in a group get the same text.
func (im *fileImport) byTransform() (groups [][]*target) {
	for _, g := range im.targets {
		same := func(group []*target) bool { return group[0].transform == g.transform }
		if i := slices.IndexFunc(groups, same); i >= 0 {
			groups[i] = append(groups[i], g)
		} else {
			groups = append(groups, []*target{g})
		}
	}
	return groups
}

// readerOptions adds the options of the run to opt, and returns the options for reading
// t's file.
func (im *fileImport) readerOptions(t *task, opt tstat.ReaderOptions) tstat.ReaderOptions {
	r := im.run
	opt.Location, opt.Layout = r.opt.Location, r.opt.Layout
	opt.Private = r.opt.Anonymizes() // reject files hold no values, whichever text is read
	if a := im.anonymize; a != nil {
		w := a.NewRewriter(t.typ, anonymize.RewriterOptions{
			Location: opt.Location, Layout: opt.Layout,
			Source: func() (anonymize.Source, error) { return r.addressesOf(t) },
		})
		opt.Rewrite, opt.Rows = w.Reader, w
	}
	return opt
}

// addressesOf reports whether the addresses in t's file have already been anonymized. If
// Options.SourceIs is Unknown, it uses the rows of the log of TCP flows in the same
// folder. The result applies to rows that do not themselves record the anonymization.
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

// flagsSize is the maximum number of bytes of a log's text that AddressesIn reads to
// find anonymization flags.
const flagsSize = 16 << 20

// flagsType is the log type whose flags record the anonymization of all logs in
// a folder.
const flagsType = "log_tcp_complete"

// AddressesIn reports whether the addresses in the logs of a folder have already been
// anonymized, according to the flags in its log of TCP flows. See tstat.ReaderOptions for
// the parameters loc and layout. Errors wrap anonymize.ErrSource.
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
		return name == flagsType
	})
	if i < 0 {
		return anonymize.Unknown, errors.New("there is no " + flagsType + " beside it")
	}
	f, err := openPath(filepath.Join(dir, entries[i].Name()))
	if err != nil {
		return anonymize.Unknown, err
	}
	defer f.Close()
	rd := new(tstat.Reader)
	defer rd.Stop()
	isClear, isAnonymized := false, false
	err = readBatches(rd, func(extra []string) error {
		_, err := f.Seek(0, io.SeekStart)
		rd.Reset(f, tstat.TypeByName(flagsType), tstat.ReaderOptions{Location: loc, Layout: layout, Extra: extra})
		return err
	}, func(b *tstat.Batch) bool {
		c, a := countFlags(b)
		isClear, isAnonymized = isClear || c, isAnonymized || a
		return rd.Counts().Text < flagsSize && !(isClear && isAnonymized)
	})
	if err != nil {
		return anonymize.Unknown, fmt.Errorf("%s: %w", entries[i].Name(), err)
	}
	switch {
	case isClear && isAnonymized:
		return anonymize.Unknown, errors.New(flagsType + " has internal addresses of both kinds")
	case isAnonymized:
		return anonymize.Anonymized, nil
	case rd.Counts().Rows == 0:
		return anonymize.Unknown, errors.New(flagsType + " has no rows")
	default:
		return anonymize.Clear, nil
	}
}

// countFlags reports whether the rows of b contain clear internal addresses, and whether
// they contain anonymized addresses. Without anonymization flags, addresses
// count as clear, because a version of Tstat without these flags cannot anonymize.
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

// otherTransform returns a record of t's file whose transform differs from that of the
// store with the given index. It returns nil if there is none, or with Options.Replace.
// Texts of different transforms cannot be compared.
func (r *run) otherTransform(t *task, index int) *store.Record {
	differs := func(rec store.Record) bool { return rec.Transform != r.dests[index].transform }
	if r.opt.Replace || !slices.ContainsFunc(t.records[index], differs) {
		return nil
	}
	own, free, _ := r.recordsFor(t, index)
	for _, rec := range slices.Concat(own, free) {
		if differs(rec) {
			return &rec
		}
	}
	return nil
}

// skipOther marks t as stored under another transform. It logs a warning about the first
// such file of the run.
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
			"wanted", describe(d.transform), "hint", "`replace` of import-bulk stores such logs again")
	}
}

// textWriter is the writer that NewTextWriter returns.
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

// rewrittenName returns the name of the rewritten copy of a file. If the compression format
// of the file cannot be written, the copy has the suffix of zstd instead.
func rewrittenName(name string) string {
	switch plain, suffix := compression.CutSuffix(name); suffix {
	case "", ".gz", ".zst":
		return name
	default:
		return plain + ".zst"
	}
}

// NewTextWriter returns a writer that compresses text in the format of name's
// suffix, or with zstd if that format cannot be written. The same text always
// yields the same bytes. Write returns errors of type tstat.RewriteError. Close
// does not close w.
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
