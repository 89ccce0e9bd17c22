package tstat

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"slices"
)

// Fingerprint returns the SHA-256 (in hex) and the length (in bytes) of the text read
// so far, up to its last newline.
func (r *Reader) Fingerprint() (sha string, length int64) {
	r.flush(1)
	r.joinHash()
	sum, length := r.sum, r.length
	if r.newline != nil {
		sum = sha256.New()
		if err := sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(r.newline); err != nil {
			panic(err) // skipLine wrote the state
		}
		length = r.newlineLength
	}
	return hex.EncodeToString(sum.Sum(nil)), length
}

// hashBeside is the minimum size, in bytes, of text that is hashed in a goroutine.
const hashBeside = 64 << 10

// startHash starts a goroutine that adds text to the fingerprint. The text must
// not change before joinHash returns.
func (r *Reader) startHash(text []byte) {
	done := make(chan struct{})
	r.hashing = done
	go func() {
		defer close(done)
		defer func() { r.hashPanic = recover() }()
		r.hash(text)
	}()
}

// joinHash waits for the goroutine that startHash started, if any. If that goroutine
// panicked, joinHash panics too, because the caller recovers from panics and then fails
// only this file's import.
func (r *Reader) joinHash() {
	if r.hashing == nil {
		return
	}
	<-r.hashing
	r.hashing = nil
	if p := r.hashPanic; p != nil {
		r.hashPanic = nil
		panic(p)
	}
}

// hash adds text to the fingerprint. It also records the hashes that Mark and Head
// return.
func (r *Reader) hash(text []byte) {
	r.head.find(text, r.length)
	for {
		stop := r.head.next(r.length)
		for _, m := range r.opt.Marks {
			if m > r.length {
				stop = min(stop, m)
				break
			}
		}
		n := min(stop-r.length, int64(len(text)))
		r.sum.Write(text[:n])
		r.length += n
		if len(r.opt.Marks) > 0 {
			r.newlines += int64(bytes.Count(text[:n], []byte{'\n'}))
		}
		if r.length < stop {
			return
		}
		text = text[n:]
		sum := hex.EncodeToString(r.sum.Sum(nil))
		r.head.add(stop, sum)
		if _, ok := slices.BinarySearch(r.opt.Marks, stop); ok {
			r.marks[stop], r.markLines[stop] = sum, r.newlines
		}
	}
}

// MarkLine returns the number of lines in a prefix of the text. The length of the prefix,
// in bytes, must be one of ReaderOptions.Marks; see Mark.
func (r *Reader) MarkLine(length int64) int64 {
	r.flush(1)
	r.joinHash()
	return r.markLines[length]
}

// Mark returns the SHA-256, in hex, of a prefix of the text, or "" if the text read so
// far is shorter than the prefix. The length of the prefix, in bytes, must be 0 or one of
// ReaderOptions.Marks.
func (r *Reader) Mark(length int64) string {
	if length == 0 {
		return emptySHA256
	}
	r.flush(1)
	r.joinHash()
	return r.marks[length]
}

const emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// Drain reads the whole file and counts its lines without parsing them. A line that
// AppendRemoved wrote is passed to ReaderOptions.Reject and counts as a reject. Any
// other line counts as a row, unless it begins with '#'. Drain is meant for a store that
// keeps the file unchanged. The caller must not call both Drain and Next.
func (r *Reader) Drain() error {
	r.draining = true
	for !r.eof {
		if err := r.fill(0); err != nil { // read small parts, so that the text is counted while it is in the CPU's cache
			return err
		}
		n := bytes.LastIndexByte(r.buf[:r.end], '\n') + 1
		if n == 0 {
			continue
		}
		whole := r.buf[:n]
		comments := bytes.Count(whole, []byte("\n#"))
		if whole[0] == '#' && !r.skipping {
			comments++
		}
		lines := bytes.Count(whole, []byte{'\n'})
		if comments > 0 {
			r.rejectRemoved(whole)
		}
		r.line += int64(lines)
		r.counts.Lines += int64(lines - comments)
		r.counts.Rows += int64(lines - comments)
		r.skipping = false
		r.pos = n
	}
	r.finish()
	return nil
}

// rejectRemoved rejects the lines in text that AppendRemoved wrote. If r.skipping is set,
// text begins inside a line.
func (r *Reader) rejectRemoved(text []byte) {
	before := r.line
	for line := range bytes.Lines(text) {
		r.line++
		if reason, ok := RemovedReason(line); ok && !(r.skipping && r.line == before+1) {
			r.counts.Lines++
			r.reject(reason, line)
		}
	}
	r.line = before
}
