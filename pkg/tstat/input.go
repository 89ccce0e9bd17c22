package tstat

import (
	"bytes"
	"encoding"
	"errors"
	"io"
	"slices"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
)

// readSize is the maximum size of one read, in bytes.
const readSize = 256 << 10

// errReader records a read error from the file, so that an unreadable disk is not
// mistaken for a truncated compressed file.
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

// fill moves the unread text to the start of the buffer and reads more, until the buffer
// holds at least the given number of bytes or the file ends. Unless r.byRow is set, fill
// hashes the text up to the last newline.
func (r *Reader) fill(enough int) error {
	if !r.byRow {
		r.joinHash()
	}
	if r.pos > 0 {
		r.end = copy(r.buf, r.buf[r.pos:r.end])
		r.pos = 0
	}
	if r.end == len(r.buf) {
		if r.byRow {
			r.rewriteRest()
		} else {
			r.skipLine()
		}
	}
	unhashed := r.end // the unread text: the start of an unfinished line
	var err error
	for err == nil && (r.end == unhashed || r.end < enough) {
		var n int
		n, err = r.read(r.buf[r.end:min(r.end+readSize, len(r.buf))])
		r.end += n
		if !r.byRow {
			r.counts.Text += int64(n)
		}
	}
	if i := bytes.LastIndexByte(r.buf[unhashed:r.end], '\n'); i >= 0 && !r.byRow {
		whole := r.buf[:unhashed+i+1]
		if r.newline = nil; len(whole) < hashBeside {
			r.hash(whole)
		} else {
			r.startHash(whole)
		}
	}
	if err == nil {
		return nil
	}
	if r.raw.err != nil {
		return r.raw.err
	}
	var ce *CompressionError
	var re *RewriteError
	if errors.As(err, &ce) || errors.As(err, &re) {
		return err
	}
	r.eof = true
	r.damage = err
	return nil
}

// CutIsText reports whether an unfinished last line can be the start of a row or header.
// Such a line has no control characters except TAB. Unless it begins with '#', it has no
// more fields than a row can have. CutIsText also returns true if the last line is
// finished.
func (r *Reader) CutIsText() bool {
	rest := r.buf[r.pos:r.end]
	if r.skipping || bytes.ContainsFunc(rest, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
		return false
	}
	return len(rest) == 0 || rest[0] == '#' || countFields(rest, r.typ.sep) <= max(slices.Max(append(r.typ.Counts(), len(r.columns))), 1)
}

// CompressionError reports that Reader cannot read a compressed file because its format
// is not supported or its decompression would need too much memory.
type CompressionError = compression.Error

// RewriteError reports that ReaderOptions.Rewrite or ReaderOptions.Rows failed to rewrite
// the file. The rest of the file cannot be read.
type RewriteError struct{ Err error }

func (e *RewriteError) Error() string { return e.Err.Error() }
func (e *RewriteError) Unwrap() error { return e.Err }

// skipLine discards the start of a line that fills the buffer, but hashes it. If the
// line never ends in a newline, Fingerprint uses the hash state saved here, which
// covers the text before the line.
func (r *Reader) skipLine() {
	if r.newline == nil {
		state, err := r.sum.(encoding.BinaryMarshaler).MarshalBinary()
		if err != nil {
			panic(err) // crypto/sha256 documents that it never fails
		}
		r.newline, r.newlineLength = state, r.length
	}
	r.hash(r.buf[:r.end])
	r.skipping = true
	r.end = 0
}

// read reads text from the file. It decompresses the file if the file starts with the
// signature of a supported format.
func (r *Reader) read(p []byte) (int, error) {
	if r.src == nil {
		r.src = r.raw
		n, err := io.ReadFull(r.raw, p[:compression.MagicSize])
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		format, unread := compression.Detect(p[:n])
		switch {
		case unread != nil && (!r.draining || r.opt.Rewrite != nil):
			return n, unread
		case format == nil && (r.opt.Rewrite == nil || r.raw.err != nil):
			return n, err
		}
		r.src = io.MultiReader(bytes.NewReader(bytes.Clone(p[:n])), r.raw)
		if format != nil {
			r.text.Reset(format, r.src)
			r.src = &r.text
		}
		if r.byRow = r.canRewriteRows(); !r.byRow && r.opt.Rewrite != nil {
			r.src = r.opt.Rewrite(r.src)
		}
		if r.opt.Ahead && !(r.byRow && format == nil) {
			r.ahead.begin(r.src)
			r.src = &r.ahead
		}
	}
	return r.src.Read(p)
}

// Stop waits until no goroutine of r is reading the file or hashing its text.
func (r *Reader) Stop() {
	r.ahead.join()
	r.joinHash()
}

// Damage returns an error if the file is compressed and has a wrong checksum or contains
// data that cannot be decompressed. Any part of the text may then be wrong. A file whose
// end is missing is not damaged; see Truncated. Until the end of the file is reached,
// Damage returns nil.
func (r *Reader) Damage() error {
	if r.damage == io.EOF || errors.Is(r.damage, io.ErrUnexpectedEOF) {
		return nil
	}
	return r.damage
}

// Truncated reports whether the end of a compressed file is missing. Until the end of
// the file is reached, it returns false.
func (r *Reader) Truncated() bool {
	return r.damage != io.EOF && errors.Is(r.damage, io.ErrUnexpectedEOF)
}

// finish counts an unfinished end of the file: a last line without a newline, or
// compressed data that is truncated or damaged.
func (r *Reader) finish() {
	if r.damage != io.EOF || r.end > r.pos || r.skipping {
		r.counts.Lines++
		r.counts.Cuts = 1
	}
}
