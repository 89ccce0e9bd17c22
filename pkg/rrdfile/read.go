package rrdfile

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// ErrBusy is wrapped by the errors of files that are being written, or are
// incomplete, at every attempt. They may be complete in the next run.
var ErrBusy = errors.New("is being written")

// Point is a value at a time.
type Point struct {
	Time  int64 // unix, seconds
	Value float64
}

// Series are the points of one data source, by ascending time. The time of a
// point is the end of the step that its value describes.
type Series struct {
	Source string
	Points []Point
}

// Stamp detects changes of a file. If two stamps are equal and the first is
// Settled, the file is unchanged.
type Stamp struct {
	Inode uint64
	Size  int64
	Mtime int64 // nanoseconds; never if writes do not change it
}

// never is the mtime of files whose real mtime is not reliable. Their stamps
// are never settled.
const never = math.MaxInt64

// Settled reports whether, at time now, a file with stamp s cannot have changed
// again within the same tick of the clock that file systems use.
func (s Stamp) Settled(now time.Time) bool { return now.UnixNano()-s.Mtime > int64(2*time.Second) }

// File is the result of Read.
type File struct {
	Stamp   Stamp
	Step    int64 // seconds
	Update  int64 // unix time of the last update
	Last    int64 // unix time of the last finished step
	Series  []Series
	Unknown int64 // values that were NaN
}

// Reader reads RRD files, including those of other architectures. It locks no
// file: if a reader holds the lock of librrd, an update of Tstat fails and is
// lost. It maps no file either: truncating a mapped file kills its readers.
//
// A Reader is not safe for concurrent use.
type Reader struct {
	decode decoder
	buf    []byte // the start of the file
	head   int64  // bytes of the file in buf
	again  []byte // the header, read once more
	rows   []byte // of an archive
	header header
	file   File // the result of the last Read; its memory is reused
}

// decoder appends the points of p to f, given the rows of its archive.
type decoder interface {
	points(h *header, p piece, rows []byte, f *File) error
	close() error
}

// NewReader returns a reader that decodes values in Go.
func NewReader() *Reader { return &Reader{decode: native{}} }

// Close frees the memory of librrd. It does nothing for a reader of NewReader.
func (r *Reader) Close() error { return r.decode.close() }

// tries is how often a file is read that is being written. An update by Tstat
// takes some 100 microseconds.
const tries = 10

// Read returns all finished steps of all data sources after a unix time, from
// the finest archive that still holds each time. The result is valid until the
// next Read.
func (r *Reader) Read(path string, after int64) (*File, error) {
	for i := 0; ; i++ {
		f, err := r.read(path, after)
		if err == nil {
			return f, nil
		}
		if i == tries || !errors.Is(err, ErrBusy) && !errors.Is(err, errCut) {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		time.Sleep(time.Duration(i) * time.Millisecond)
	}
}

// StampOf returns the stamp of a file without reading it.
func StampOf(path string) (Stamp, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return Stamp{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	s, _, err := stampOf(fd)
	if err != nil {
		return Stamp{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// stampOf returns the stamp and the mode of an open file.
func stampOf(fd int) (Stamp, uint32, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Stamp{}, 0, fmt.Errorf("stat: %w", err)
	}
	s := Stamp{st.Ino, st.Size, st.Mtim.Nano()}
	// RRDtool writes through a mapping, which does not change the mtime on
	// file systems in memory.
	memory, err := inMemory(fd)
	if err != nil {
		return Stamp{}, 0, fmt.Errorf("stat: %w", err)
	}
	if memory {
		s.Mtime = never
	}
	//lint:ignore unconvert another type on other systems
	return s, uint32(st.Mode), nil
}

// locked reports whether another process holds the lock of librrd's updates,
// without taking it.
func locked(fd int) (bool, error) {
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_GETLK, &lock); err != nil {
		return false, fmt.Errorf("lock: %w", err)
	}
	return lock.Type != unix.F_UNLCK, nil
}

// pread fills b from the file.
func pread(fd int, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pread(fd, b, at)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("read: %w", err)
		case n == 0:
			return errCut
		}
		b, at = b[max(n, 0):], at+int64(max(n, 0))
	}
	return nil
}

// firstRead holds the header of a file like Tstat's and its finest archive.
const firstRead = 8192

func (r *Reader) read(path string, after int64) (*File, error) {
	// A pipe of that name must not block.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	stamp, mode, err := stampOf(fd)
	if err != nil {
		return nil, err
	}
	if mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("not a regular file")
	}
	h, err := r.readHeader(fd, stamp.Size)
	if err != nil {
		return nil, err
	}
	f := &r.file
	*f = File{Stamp: stamp, Step: h.step, Update: h.update, Last: h.update - h.update%h.step, Series: f.Series}
	f.Series = slices.Grow(f.Series[:0], len(h.sources))[:len(h.sources)]
	for i, name := range h.sources {
		f.Series[i].Source, f.Series[i].Points = name, f.Series[i].Points[:0]
	}
	for _, p := range h.pieces(after) {
		rows, err := r.readRows(fd, h, p)
		if err != nil {
			return nil, err
		}
		if err := r.decode.points(h, p, rows, f); err != nil {
			return nil, err
		}
	}
	// The data belongs to one moment if no update is running now and none
	// has changed the header since: librrd writes the time of the update
	// last.
	busy, err := locked(fd)
	if err != nil {
		return nil, err
	}
	if busy {
		return nil, ErrBusy
	}
	if err := pread(fd, r.again[:h.size], 0); err != nil {
		return nil, err
	}
	if !bytes.Equal(r.again[:h.size], r.buf[:h.size]) {
		return nil, ErrBusy
	}
	return f, nil
}

// readHeader reads the header into r.buf and checks it.
func (r *Reader) readHeader(fd int, size int64) (*header, error) {
	n := min(size, firstRead)
	for {
		if int64(len(r.buf)) < n {
			r.buf, r.again = make([]byte, n), make([]byte, n)
		}
		if err := pread(fd, r.buf[:n], 0); err != nil {
			return nil, err
		}
		want, err := headerSize(r.buf[:n])
		if err != nil {
			return nil, err
		}
		if want <= n || n == size {
			r.head = n
			return &r.header, r.header.parse(r.buf[:n], size)
		}
		n = min(want, size)
	}
}

// readRows returns the rows of the archive of p.
func (r *Reader) readRows(fd int, h *header, p piece) ([]byte, error) {
	n := p.rows * int64(len(h.sources)) * doubleSize
	if p.offset+n <= r.head {
		return r.buf[p.offset : p.offset+n], nil
	}
	r.rows = slices.Grow(r.rows[:0], int(n))[:n]
	return r.rows, pread(fd, r.rows, p.offset)
}

// native decodes rows in Go.
type native struct{}

func (native) close() error { return nil }

func (native) points(h *header, p piece, rows []byte, f *File) error {
	step, last, width := h.rowStep(p.archive), h.last(p.archive), int64(len(h.sources))*doubleSize
	for ds := range f.Series {
		f.Series[ds].Points = slices.Grow(f.Series[ds].Points, int((p.until-p.after)/step)+1)
	}
	for t := p.after - p.after%step + step; t <= p.until; t += step {
		row := (p.current - (last-t)/step + p.rows) % p.rows
		for ds := range f.Series {
			v := h.double(rows[row*width+int64(ds)*doubleSize:])
			if math.IsNaN(v) {
				f.Unknown++
				continue
			}
			f.Series[ds].Points = append(f.Series[ds].Points, Point{Time: t, Value: v})
		}
	}
	return nil
}
