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

// ErrBusy reports that a file was being written during every attempt to read it. Read
// returns errors that wrap ErrBusy. A later Read may succeed.
var ErrBusy = errors.New("is being written")

// Point is a value at a time.
type Point struct {
	Time  int64 // Unix time in seconds
	Value float64
}

// Series holds the points of one data source, in chronological order. A point's time is
// the end of the step that its value describes.
type Series struct {
	Source string
	Points []Point
}

// Stamp identifies a file's state. If two stamps of a file are equal and the first was
// Settled when it was taken, the file did not change in between.
type Stamp struct {
	Inode uint64
	Size  int64
	Mtime int64 // Unix time in nanoseconds; math.MaxInt64 if writes do not change it
}

// unreliableMtime is the Stamp.Mtime of a file whose real mtime is unreliable. Such a
// stamp is never Settled.
const unreliableMtime = math.MaxInt64

// Settled reports whether the file's last change was long enough ago that any further
// change will result in a different mtime, even if the file system's clock is coarse.
func (s Stamp) Settled(now time.Time) bool { return now.UnixNano()-s.Mtime > int64(2*time.Second) }

// File is the result of Read.
type File struct {
	Stamp   Stamp
	Step    int64 // seconds
	Update  int64 // Unix time of the last update
	Last    int64 // Unix time of the last finished step
	Series  []Series
	Unknown int64 // number of NaN values, which Series omits
}

// Reader reads RRD files, including those of other architectures. It never locks a
// file, because an update by Tstat fails and is lost while a reader holds librrd's
// lock. It never maps a file, because truncating a mapped file kills the processes that
// map it.
//
// A Reader is not safe for concurrent use.
type Reader struct {
	decode decoder
	buf    []byte // the start of the file
	head   int64  // number of bytes of the file in buf
	second []byte // the header, read a second time after the rows
	rows   []byte // rows of an archive
	header header
	file   File // the result of the last Read; its memory is reused
}

// decoder decodes the rows of archives.
type decoder interface {
	// points appends the points in the period of p to the series in f. rows must hold
	// all rows of p's archive.
	points(h *header, p piece, rows []byte, f *File) error
	close() error
}

// NewReader returns a reader that decodes values in Go.
func NewReader() *Reader { return &Reader{decode: native{}} }

// Close frees librrd's memory. It does nothing if the Reader only decodes in Go.
func (r *Reader) Close() error { return r.decode.close() }

// retries is the maximum number of retries while a file is being written. An update by
// Tstat takes about 100 microseconds.
const retries = 10

// Read returns, for all data sources, the points later than the given Unix time. It omits
// the step that is still in progress. Each point comes from the finest archive that still
// covers its time. The result is valid until the next call to Read.
func (r *Reader) Read(path string, after int64) (*File, error) {
	for i := 0; ; i++ {
		f, err := r.read(path, after)
		if err == nil {
			return f, nil
		}
		if i == retries || !errors.Is(err, ErrBusy) && !errors.Is(err, errCut) {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		time.Sleep(time.Duration(i) * time.Millisecond)
	}
}

// StampOf returns the stamp of a file without reading the file.
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
	// RRDtool writes through a memory mapping, which does not change the mtime on
	// in-memory file systems.
	memory, err := inMemory(fd)
	if err != nil {
		return Stamp{}, 0, fmt.Errorf("stat: %w", err)
	}
	if memory {
		s.Mtime = unreliableMtime
	}
	//lint:ignore unconvert another type on other systems
	return s, uint32(st.Mode), nil
}

// locked reports whether another process holds the lock that librrd takes for updates.
// It does not acquire the lock.
func locked(fd int) (bool, error) {
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_GETLK, &lock); err != nil {
		return false, fmt.Errorf("lock: %w", err)
	}
	return lock.Type != unix.F_UNLCK, nil
}

// pread reads len(b) bytes of the file into b, starting at offset.
func pread(fd int, b []byte, offset int64) error {
	for len(b) > 0 {
		n, err := unix.Pread(fd, b, offset)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("read: %w", err)
		case n == 0:
			return errCut
		}
		b, offset = b[max(n, 0):], offset+int64(max(n, 0))
	}
	return nil
}

// firstRead is the size of the first read, in bytes. It covers the header and the
// finest archive of a Tstat file.
const firstRead = 8192

func (r *Reader) read(path string, after int64) (*File, error) {
	// O_NONBLOCK prevents blocking on a named pipe.
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
	// The rows are consistent if no update is running now and none has changed the
	// header since it was read, because librrd writes the time of the update last.
	busy, err := locked(fd)
	if err != nil {
		return nil, err
	}
	if busy {
		return nil, ErrBusy
	}
	if err := pread(fd, r.second[:h.size], 0); err != nil {
		return nil, err
	}
	if !bytes.Equal(r.second[:h.size], r.buf[:h.size]) {
		return nil, ErrBusy
	}
	return f, nil
}

// readHeader reads the header into r.buf and checks it.
func (r *Reader) readHeader(fd int, size int64) (*header, error) {
	n := min(size, firstRead)
	for {
		if int64(len(r.buf)) < n {
			r.buf, r.second = make([]byte, n), make([]byte, n)
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

// readRows returns all rows of p's archive.
func (r *Reader) readRows(fd int, h *header, p piece) ([]byte, error) {
	n := p.rows * int64(len(h.sources)) * doubleSize
	if p.offset+n <= r.head {
		return r.buf[p.offset : p.offset+n], nil
	}
	r.rows = slices.Grow(r.rows[:0], int(n))[:n]
	return r.rows, pread(fd, r.rows, p.offset)
}

// native is a decoder written in Go.
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
