package rawcopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// Options configures how logs are copied. The options do not affect existing
// copies.
type Options struct {
	// Zstd compresses copies with zstd, even if the log is compressed in
	// another format. A damaged or truncated log is copied unchanged.
	Zstd bool
	// Month puts each log folder into a folder for its month, YYYY/MM-Mon,
	// unless it is already in one.
	Month bool
}

// ParseOptions parses a destination like DIR?compress=zstd&layout=month. Its
// errors are usage errors.
func ParseOptions(text string) (dir string, opt Options, err error) {
	dir, o, err := dest.ParsePath(text)
	if err == nil {
		err = o.Check("option of copy:", "compress", "layout")
	}
	if err != nil {
		return "", opt, err
	}
	for name, known := range map[string]struct {
		value string
		set   *bool
	}{"compress": {"zstd", &opt.Zstd}, "layout": {"month", &opt.Month}} {
		switch value, has := o[name]; {
		case has && value != known.value:
			return "", opt, hint.Usage(fmt.Sprintf("%s: unknown value %q", name, value), "known: "+known.value)
		case has:
			*known.set = true
		}
	}
	return dir, opt, nil
}

// monthFolder matches a path that ends in a month folder, YYYY/MM-Mon.
var monthFolder = regexp.MustCompile(`^(.+)/\d{4}/\d\d-[A-Z][a-z]{2}$`)

const zstdSuffix = ".zst"

// name returns the path of the copy in the store, PROBE/.../FOLDER/FILE.
func (t *tx) name() string {
	name := t.f.Name
	if t.s.opt.Month {
		folder, file := path.Split(name)
		parent, folder := path.Split(path.Clean(folder))
		parent = path.Clean(parent)
		if m := monthFolder.FindStringSubmatch(parent); m != nil {
			parent = m[1]
		}
		name = path.Join(parent, t.f.Time.Format("2006/01-Jan"), folder, file)
	}
	if t.compressed {
		plain, _ := compression.CutSuffix(name)
		name = plain + zstdSuffix
	}
	return name
}

// compress compresses the temporary file with zstd. It leaves the file unchanged if it is
// already compressed with zstd, or if it cannot be decompressed to the end.
func (t *tx) compress(ctx context.Context) error {
	if _, err := t.tmp.Seek(0, io.SeekStart); err != nil {
		return err
	}
	head := make([]byte, compression.MagicSize)
	n, err := io.ReadFull(t.tmp, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	format, unread := compression.Detect(head[:n])
	isZstd := format != nil && format.Suffix == zstdSuffix
	if unread != nil || isZstd {
		t.compressed = isZstd
		return nil
	}
	if _, err := t.tmp.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var text io.Reader = t.tmp
	if format != nil {
		z := new(compression.Reader)
		z.Reset(format, t.tmp)
		text = z
	}
	info, err := t.tmp.Stat()
	if err != nil {
		return err
	}
	tmp, err := t.s.manifest.Temp(ctx, info.Mode().Perm())
	if err != nil {
		return err
	}
	z := encoders.Get().(*zstd.Encoder)
	defer encoders.Put(z)
	z.Reset(tmp)
	in := &errorReader{r: text}
	_, err = io.Copy(z, in)
	err = errors.Join(err, z.Close())
	old := tmp
	if err == nil {
		old, t.tmp, t.compressed = t.tmp, tmp, true
	}
	if in.err != nil && format != nil {
		err = nil // it is kept unchanged
	}
	return errors.Join(err, os.Remove(old.Name()), old.Close())
}

// errorReader reads from r and keeps any error other than io.EOF.
type errorReader struct {
	r   io.Reader
	err error
}

func (f *errorReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && err != io.EOF {
		f.err = err
	}
	return n, err
}

// encoders holds zstd encoders. All of them encode the same input to the same bytes.
var encoders = sync.Pool{New: func() any {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderCRC(true))
	if err != nil {
		panic(err) // the options are valid
	}
	return z
}}
