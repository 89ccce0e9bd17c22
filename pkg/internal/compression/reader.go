package compression

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"
)

// Limits on the memory for decompression. The compressor determines how much is needed,
// so without limits a few bytes from a peer could require gigabytes. The limits admit
// files from the strongest presets of xz and zstd, and all files that the zstd tool
// decompresses by default. The other formats need at most 8 MiB.
const (
	maxZstdWindow = 128 << 20 // bytes; the zstd tool's limit, enough for --ultra -22 and --long
	maxXZDict     = 64 << 20  // bytes; enough for xz -9
)

// bufferSize is the number of bytes read from a compressed file at a time.
const bufferSize = 64 << 10

// ErrGarbage reports that uncompressed bytes follow the compressed content.
var ErrGarbage = errors.New("what follows the compressed text is not compressed")

// Reader reads the content of a compressed file: the concatenated contents of all its
// members, frames or streams. Zeros may follow them, because tape blocks are padded.
// Reset keeps the decoders for reuse. A Reader starts no goroutines.
type Reader struct {
	format *Format
	in     input
	text   io.Reader // decoder of format; nil before the first Read
	err    error     // error that ended the text

	gzip *gzip.Reader
	zstd *zstd.Decoder
	xz   *xz.Reader
	lz4  *lz4.Reader
}

// Reset makes r read src, which has format f, from its start.
func (r *Reader) Reset(f *Format, src io.Reader) {
	r.format, r.text, r.err = f, nil, nil
	r.in.src = errReader{r: src}
	if r.in.Reader == nil {
		r.in.Reader = bufio.NewReaderSize(nil, bufferSize)
	}
	r.in.Reader.Reset(&r.in.src)
	r.in.zeros = 0
}

// Read implements io.Reader. Unless it returns an error, it returns at least one byte if
// p is not empty, even if the file has empty members. At the end of the content it
// returns io.EOF, or io.ErrUnexpectedEOF if the file is truncated. It returns an *Error
// if the file needs too much memory or a dictionary, and src's error if src fails. Any
// other error means that the file is damaged and that the content read so far may be
// wrong.
func (r *Reader) Read(p []byte) (n int, err error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.text == nil {
		err = r.open()
	}
	for n == 0 && err == nil && len(p) > 0 {
		n, err = r.text.Read(p)
		if err == io.EOF && r.format == gzipFormat {
			err = r.nextMember()
		}
	}
	if err != nil {
		r.err = r.reason(err)
	}
	return n, r.err
}

// open starts the decoder for r's format.
func (r *Reader) open() (err error) {
	switch r.format {
	case gzipFormat:
		if r.gzip == nil {
			r.gzip = new(gzip.Reader)
		}
		r.text, err = r.gzip, r.startMember()
	case zstdFormat:
		if r.zstd == nil {
			// With a concurrency of 1 the decoder has no goroutines
			// and need not be closed.
			r.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderMaxMemory(maxZstdWindow))
			if err != nil {
				panic(err) // the options are valid
			}
		}
		r.text, err = r.zstd, r.zstd.Reset(&r.in)
	case xzFormat:
		if r.xz == nil {
			r.xz, err = xz.NewReader(&r.in, maxXZDict)
		} else {
			err = r.xz.Reset(&r.in)
		}
		r.text = r.xz
	case bzip2Format:
		r.text = bzip2.NewReader(&r.in)
	case lz4Format:
		if r.lz4 == nil {
			r.lz4 = lz4.NewReader(nil)
			if err := r.lz4.Apply(lz4.ConcurrencyOption(1)); err != nil {
				panic(err) // the option is valid
			}
		}
		r.lz4.Reset(&r.in)
		r.text = r.lz4
	}
	return err
}

// startMember starts to decode the member of a gzip file at the current position.
func (r *Reader) startMember() error {
	if err := r.gzip.Reset(r.in.Reader); err != nil {
		return err
	}
	r.gzip.Multistream(false)
	return nil
}

// nextMember skips zeros in a gzip file and starts to decode the next member. It
// returns io.EOF after the last member.
func (r *Reader) nextMember() error {
	for zeros := false; ; zeros = true {
		next, err := r.in.Peek(2)
		switch {
		case len(next) > 0 && next[0] == 0:
			r.in.Discard(1)
			continue
		case len(next) == 0:
			return err
		case zeros || next[0] != 0x1f || len(next) == 2 && next[1] != 0x8b:
			return ErrGarbage
		}
		return r.startMember()
	}
}

// reason converts err to one of the errors documented at Read.
func (r *Reader) reason(err error) error {
	if r.in.src.err != nil {
		return r.in.src.err
	}
	switch {
	case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
		return err
	case errors.Is(err, xz.ErrBuf): // the decoder lacks input
		return io.ErrUnexpectedEOF
	case errors.Is(err, xz.ErrMemlimit):
		return &Error{fmt.Sprintf("compressed with xz and a dictionary of more than %d MiB, not read", maxXZDict>>20), "compress it with xz -9 or less"}
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return &Error{fmt.Sprintf("compressed with zstd and a window of more than %d MiB, not read", maxZstdWindow>>20), "compress it with zstd -19 or less"}
	case errors.Is(err, zstd.ErrUnknownDictionary):
		return &Error{"compressed with zstd and a dictionary, not read", "compress it without a dictionary"}
	case errors.Is(err, zstd.ErrMagicMismatch), errors.Is(err, lz4.ErrInvalidFrame):
		err = r.garbage(4)
	case errors.Is(err, bzip2.StructuralError("bad magic value in continuation file")):
		err = r.garbage(2)
	case errors.Is(err, xz.ErrFormat):
		err = ErrGarbage // the xz format itself allows zeros
	}
	if err == io.EOF || err == r.in.src.err || strings.HasPrefix(err.Error(), r.format.Name) {
		return err
	}
	return fmt.Errorf("%s: %w", r.format.Name, err)
}

// garbage returns io.EOF if only zeros follow the compressed content, and ErrGarbage
// otherwise. The parameter is the number of bytes that the decoder has already read past
// the content.
func (r *Reader) garbage(read int) error {
	if r.in.zeros < read {
		return ErrGarbage
	}
	for {
		c, err := r.in.ReadByte()
		if err != nil {
			return err
		}
		if c != 0 {
			return ErrGarbage
		}
	}
}

// input is the decoders' source. It counts the trailing zeros of the bytes read
// so far.
type input struct {
	*bufio.Reader
	src   errReader
	zeros int
}

func (in *input) Read(p []byte) (int, error) {
	n, err := in.Reader.Read(p)
	for i := n - 1; ; i-- {
		switch {
		case i < 0:
			in.zeros += n
		case p[i] != 0:
			in.zeros = n - 1 - i
		default:
			continue
		}
		return n, err
	}
}

func (in *input) ReadByte() (byte, error) {
	c, err := in.Reader.ReadByte()
	if err == nil && c == 0 {
		in.zeros++
	} else {
		in.zeros = 0
	}
	return c, err
}

// errReader records an error from the source, to distinguish a failing disk
// from a truncated file.
type errReader struct {
	r   io.Reader
	err error
}

func (e *errReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && err != io.EOF {
		e.err = err
	}
	return n, err
}
