package source

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/protocol"
)

const (
	// headLength is the number of leading bytes that identify a log. They
	// cover more than the header and Tstat's first block.
	headLength = 4096
)

// followed reads all logs of the same name from a probe's folders. It finishes the
// log of one folder before it opens the log of the next folder.
type followed struct {
	*follower
	name    string
	current int // number of the folder

	resume  position // saved position in the first folder; zero: start of the log
	fromEnd bool     // read the log of the first folder from its end
	// ended is the end of the log that was read and then disappeared from the current
	// folder; zero: none. If a compressed log turns up, only its rest is read.
	ended position

	file   *os.File // nil: not open
	info   fs.FileInfo
	text   io.Reader // file, decompressed
	origin *batch.Origin
	buf    *batch.Buffer
	n      int   // bytes of the incomplete line in buf
	offset int64 // of buf in the decompressed text
	head   []byte
	hash   string // of head once it has headLength bytes; "": not computed yet

	rewriter *anonymize.Rewriter // of the open log; nil leaves lines unchanged

	failed    bool    // the last read failed
	skipping  bool    // skipping the rest of an overlong line
	broken    bool    // the compressed text is damaged or truncated; already counted
	number    int64   // of the last delivered text, see checkpoint.ack
	skippedIn *folder // last folder in which the log was skipped as a link
}

// step reads one block or moves to the next folder. progress is false if there
// was nothing to read.
func (l *followed) step(ctx context.Context) (progress bool, err error) {
	if l.file == nil {
		opened, err := l.open()
		if err != nil {
			l.warnRead.Do(func() { l.log.Warn("log cannot be read, retrying", "err", err) })
			return false, nil
		}
		if !opened {
			return l.advance(), nil
		}
	}
	n, err := l.read(ctx)
	if n > 0 || err != nil || l.failed {
		return n > 0, err
	}
	complete, recreated := l.complete()
	if !complete {
		return false, nil
	}
	// Text written before the log was closed must be read now.
	if n, err := l.read(ctx); n > 0 || err != nil || l.failed {
		return n > 0, err
	}
	if (l.n > 0 || l.skipping) && !l.broken {
		l.set.counts.Cuts.Add(1)
		l.log.Info("log ends with an incomplete line, which is left out", "log", l.origin.Path)
	}
	if l.close(); !recreated {
		l.next()
		return true, nil
	}
	l.ended = l.positionAt(l.offset + int64(l.n))
	delete(l.folder(l.current).unread, l.name)
	return true, nil
}

// next moves to the next folder.
func (l *followed) next() {
	l.current++
	l.ended = position{}
	if d := l.folder(l.current); d != nil {
		l.ck.enter(l.follower.key, l.name, l.number, d.name)
	}
}

// advance moves to the next folder if the log can no longer appear in the current one. If
// the log has just appeared, advance opens it instead. It reports whether it did either.
func (l *followed) advance() bool {
	if l.folder(l.current) == nil || !l.closed(l.current, l.name) {
		return false
	}
	// The log may have been created just before the next folder was.
	if opened, err := l.open(); opened || err != nil {
		return opened
	}
	if d := l.folder(l.current); l.resume.Offset > 0 || d.unread[l.name] && l.skippedIn != d {
		l.set.counts.Vanished.Add(1)
		l.log.Warn("log vanished before it was read to its end", "log", l.name, "folder", d.name)
	}
	l.resume, l.fromEnd = position{}, false
	l.next()
	return true
}

// open opens the log in the current folder. It reports whether the log exists
// and can be read now.
func (l *followed) open() (bool, error) {
	d := l.folder(l.current)
	if d == nil || d.replaced {
		return false, nil
	}
	plain := filepath.Join(d.path, l.name)
	file, err := l.openPath(plain)
	compressed := false
	if l.folder(l.current+1) != nil {
		// The log may have been compressed after Tstat finished it, or by Tstat
		// itself. A compressed log is only read once it is complete.
		for _, suffix := range compression.Suffixes() {
			if !errors.Is(err, fs.ErrNotExist) {
				break
			}
			file, err = l.openPath(plain + suffix)
			compressed = true
		}
	}
	if isLinkOut(err) {
		if l.skippedIn != d {
			l.skippedIn = d
			l.set.counts.Outside.Add(1)
			l.log.Warn("log left out: a link leads out of the folder", "log", plain)
		}
		return false, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", file.Name())
	}
	if err != nil {
		file.Close()
		return false, err
	}
	if compressed && !l.closed(l.current, l.name) {
		file.Close()
		return false, nil
	}
	if id, err := identityOf(d.path); err == nil {
		l.opened[d.name] = id
	}
	l.file, l.info, l.text = file, info, file
	l.offset, l.n, l.skipping, l.broken, l.head, l.hash = 0, 0, false, false, nil, ""
	if l.buf == nil {
		l.buf = batch.NewBuffer(l.set.opt.MaxRead)
	}
	if compressed {
		if l.resume.Offset == 0 {
			l.resume = l.ended
		}
		if err := l.decompress(); err != nil {
			l.close()
			return false, err
		}
	}
	l.origin = &batch.Origin{Probe: l.root.Probe, Path: plain, Type: l.name, Prefix: []byte(plain + " ")}
	if err := l.position(); err != nil {
		l.close()
		return false, err
	}
	l.ended = position{}
	delete(d.unread, l.name)
	return true, l.startRewriter()
}

// decompress sets l.text to a reader of the decompressed content of l.file. The file must
// be positioned at its start.
func (l *followed) decompress() error {
	head := make([]byte, compression.MagicSize)
	n, err := io.ReadFull(l.file, head)
	if isFileError(err) {
		return err
	}
	format, err := compression.Detect(head[:n])
	if format == nil {
		l.set.counts.Cuts.Add(1)
		l.log.Warn("compressed log is damaged, nothing of it can be read", "log", l.file.Name(), "err", cmp.Or(err, errNotCompressed))
		l.text = bytes.NewReader(nil)
		return nil
	}
	z := new(compression.Reader)
	z.Reset(format, io.MultiReader(bytes.NewReader(head[:n]), l.file))
	l.text = z
	return nil
}

// errNotCompressed reports a file that has the suffix of a compressed log but is not
// compressed in any known format.
var errNotCompressed = errors.New("it does not begin like a compressed file")

// position seeks to the position where reading starts. On error, it restores l.resume
// and l.fromEnd, so that open can be retried.
func (l *followed) position() (err error) {
	resume, fromEnd := l.resume, l.fromEnd
	l.resume, l.fromEnd = position{}, false
	defer func() {
		if err != nil {
			l.resume, l.fromEnd = resume, fromEnd
		}
	}()
	switch {
	case fromEnd && l.text != io.Reader(l.file): // a compressed log does not grow
		l.text = bytes.NewReader(nil)
		return nil
	case fromEnd:
		if err := l.seekEnd(); err != nil {
			return err
		}
		// The next run continues here, even if no line arrives in this one.
		l.ck.ack(l.follower.key, l.name, l.number, l.positionAt(l.offset), 0)
		return nil
	case resume.Offset == 0:
		return nil
	}
	head := make([]byte, resume.HeadLength)
	n, err := io.ReadFull(l.text, head)
	switch {
	case err == nil || err == io.EOF || err == io.ErrUnexpectedEOF:
	case isFileError(err):
		return err
	default: // the part before the position is damaged
		l.endText(err)
		return nil
	}
	same := n == len(head) && hashOf(head) == resume.Head
	if same {
		rest := resume.Offset - int64(n)
		if l.text == io.Reader(l.file) {
			var pos int64
			if l.info, err = l.file.Stat(); err != nil {
				return err
			}
			if same = l.info.Size() >= resume.Offset; same {
				pos = resume.Offset
			}
			if _, err := l.file.Seek(pos, io.SeekStart); err != nil {
				return err
			}
		} else if _, err := io.CopyN(io.Discard, l.text, rest); isFileError(err) {
			return err
		} else if err != nil {
			return nil // the text is shorter than before, and now at its end
		}
	}
	if same {
		l.offset, l.head, l.skipping = resume.Offset, head, resume.inOverlong
		return nil
	}
	l.log.Warn("log has other content than before: reading it from its start", "log", l.file.Name())
	if _, err := l.file.Seek(0, io.SeekStart); err != nil || l.text == io.Reader(l.file) {
		return err
	}
	return l.decompress()
}

// seekEnd seeks to the start of the last line, which may be unfinished.
func (l *followed) seekEnd() error {
	size := l.info.Size()
	l.head = make([]byte, min(headLength, size))
	if _, err := l.file.ReadAt(l.head, 0); err != nil && err != io.EOF {
		return err
	}
	tail := make([]byte, min(size, int64(l.set.opt.MaxLine)))
	if _, err := l.file.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return err
	}
	l.offset = size - int64(len(tail)) + int64(bytes.LastIndexByte(tail, '\n')+1)
	_, err := l.file.Seek(l.offset, io.SeekStart)
	return err
}

func (l *followed) close() {
	if l.file != nil {
		l.file.Close()
		l.file, l.text = nil, nil
	}
	if l.buf != nil {
		l.buf.Release()
		l.buf = nil
	}
}

// complete reports whether the open file is complete, and whether the log may
// appear again in the same folder.
func (l *followed) complete() (complete, recreated bool) {
	path := l.file.Name()
	info, err := os.Stat(path)
	switch {
	case err == nil && !os.SameFile(info, l.info):
		l.log.Info("log recreated under the same name", "log", path)
		return true, true
	case errors.Is(err, fs.ErrNotExist):
		// The log was compressed, or removed together with its folder.
		// Tstat may recreate it in a new folder of the same name.
		return true, l.folder(l.current+1) == nil
	}
	return l.closed(l.current, l.name), false
}

// read reads a block and delivers its complete lines. It returns the number of bytes
// read. If reading fails, it logs the error and sets l.failed instead of returning the
// error.
func (l *followed) read(ctx context.Context) (int, error) {
	n, err := l.text.Read(l.buf.Bytes[l.n:])
	_, compressed := l.text.(*compression.Reader)
	// Damage in a compressed log is permanent; other errors are retried.
	if l.failed = err != nil && err != io.EOF && (!compressed || isFileError(err)); l.failed {
		l.warnRead.Do(func() { l.log.Warn("log cannot be read, retrying", "log", l.file.Name(), "err", err) })
		if compressed { // the decompressor cannot continue after an error
			l.resume = l.positionAt(l.offset)
			l.resume.inOverlong = l.skipping
			l.close()
		}
		return 0, nil
	}
	if err != nil && err != io.EOF {
		l.endText(err)
	}
	if n == 0 {
		return 0, nil
	}
	if room := headLength - len(l.head); room > 0 && l.offset+int64(l.n) == int64(len(l.head)) {
		l.head = append(l.head, l.buf.Bytes[l.n:l.n+min(n, room)]...)
	}
	fresh := l.n
	l.n += n
	if l.skipping {
		i := bytes.IndexByte(l.buf.Bytes[:l.n], '\n')
		drop := i + 1
		if i < 0 {
			drop = l.n
		} else {
			l.skipping = false
		}
		l.offset += int64(drop)
		l.n = copy(l.buf.Bytes, l.buf.Bytes[drop:l.n])
		fresh = 0
	}
	whole := fresh + bytes.LastIndexByte(l.buf.Bytes[fresh:l.n], '\n') + 1
	if whole > fresh {
		return n, l.sendLines(ctx, whole)
	}
	if l.n > l.set.opt.MaxLine {
		l.rejectLine()
		l.offset += int64(l.n)
		l.n, l.skipping = 0, true
	}
	if l.n == len(l.buf.Bytes) {
		longer := batch.NewBuffer(2 * l.n)
		copy(longer.Bytes, l.buf.Bytes)
		l.buf.Release()
		l.buf = longer
	}
	return n, nil
}

// endText counts the open log as damaged, logs err, and makes further reads return
// io.EOF.
func (l *followed) endText(err error) {
	l.text, l.broken = bytes.NewReader(nil), true
	l.set.counts.Cuts.Add(1)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		l.log.Warn("compressed log is truncated: its readable part is streamed", "log", l.file.Name())
	case errors.Is(err, compression.ErrGarbage):
		l.log.Warn("data after the compressed log is not compressed, left out", "log", l.file.Name())
	default:
		l.log.Warn("compressed log is damaged: its last lines may be wrong, the rest is left out", "log", l.file.Name(), "err", err)
	}
}

// rejectLine counts the first line in l.buf as rejected, because it is too long.
func (l *followed) rejectLine() {
	l.reject(l.offset, fmt.Sprintf("it is longer than %d bytes", l.set.opt.MaxLine))
}

// sendLines delivers the lines in l.buf.Bytes[:whole], which holds complete lines. It
// rejects lines that are too long.
func (l *followed) sendLines(ctx context.Context, whole int) error {
	for whole > 0 {
		n := protocol.ShortLines(l.buf.Bytes[:whole], l.set.opt.MaxLine)
		if n > 0 {
			if err := l.send(ctx, n); err != nil {
				return err
			}
		} else {
			n = bytes.IndexByte(l.buf.Bytes[:whole], '\n') + 1
			l.rejectLine()
			l.offset += int64(n)
			l.n = copy(l.buf.Bytes, l.buf.Bytes[n:l.n])
		}
		whole -= n
	}
	return nil
}

// send delivers l.buf.Bytes[:whole], which holds complete lines.
func (l *followed) send(ctx context.Context, whole int) error {
	out := l.buf
	l.buf = batch.NewBuffer(max(l.set.opt.MaxRead, 2*(l.n-whole)))
	rest := copy(l.buf.Bytes, out.Bytes[whole:l.n])
	defer out.Release()

	lines := out.Bytes[:whole]
	end := l.offset + int64(whole)
	pos := l.positionAt(end)
	if l.origin.Key == "" {
		// The hash of the head distinguishes logs of the same name.
		o := *l.origin
		o.Key = l.key + "/" + pos.Folder + "/" + l.name + "/"
		if a := l.set.opt.Anonymize; a != nil {
			o.Key += a.Blind(pos.Head)
		} else {
			o.Key += pos.Head[:16]
		}
		l.origin = &o
	}
	l.number++
	number := l.number
	t := batch.Text{Origin: l.origin, Source: l.src, Offset: l.offset, Lines: bytes.Count(lines, []byte{'\n'}), Bytes: lines, Buffer: out}
	if l.rewriter != nil {
		buf, err := l.rewrite(lines)
		if err != nil {
			return err
		}
		defer buf.Release()
		t.Buffer, t.Bytes, t.Removed = buf, buf.Bytes, true
	}
	if err := l.ck.window.Reserve(ctx, int64(whole)); err != nil {
		return err
	}
	t.Acked = func() { l.ck.ack(l.follower.key, l.name, number, pos, int64(whole)) }
	l.offset, l.n = end, rest
	return l.inlet.Deliver(ctx, t)
}

// positionAt returns the checkpoint position for an offset in the open log.
func (l *followed) positionAt(offset int64) position {
	pos := position{Folder: l.folder(l.current).name, Offset: offset, HeadLength: int(min(headLength, offset, int64(len(l.head))))}
	switch {
	case pos.HeadLength < headLength:
		pos.Head = hashOf(l.head[:pos.HeadLength])
	case l.hash == "":
		l.hash = hashOf(l.head)
		fallthrough
	default:
		pos.Head = l.hash
	}
	return pos
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
