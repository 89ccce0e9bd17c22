//go:build linux && cgo && !norrd

package rrdfile

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/ziutek/rrd"
	"golang.org/x/sys/unix"
)

// Reader reads RRD files with librrd, but gives it no file of Tstat's:
//
// librrd locks a file as it reads it, and Tstat's update at that moment fails
// and is lost. It maps the file, so that who truncates it kills the process,
// and some headers do so too (division by zero, writes past the heap). So a
// Reader reads the bytes itself, checks them, and hands librrd a database in
// memory that has just the archive wanted.
//
// A Reader is for one goroutine. librrd is slower with several.
type Reader struct {
	memory int    // file descriptor of the database for librrd
	name   string // its path
	size   int64
	buf    []byte // the begin of the file
	head   int64  // bytes of the file in buf
	again  []byte
	header header
	db     []byte
	file   File // what the last Read found; its memory is used again
}

// NewReader returns a reader. Close frees its memory.
func NewReader() (*Reader, error) {
	fd, err := unix.MemfdCreate("tstatrepo-rrd", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory for librrd: %w", err)
	}
	return &Reader{memory: fd, name: "/proc/self/fd/" + strconv.Itoa(fd)}, nil
}

// Close frees the memory of r.
func (r *Reader) Close() error { return unix.Close(r.memory) }

// tries is how often a file is read that is written meanwhile. An update of
// Tstat's takes some 100 microseconds.
const tries = 10

// Read returns all finished steps after a unix time in the file, of all data
// sources: those of the finest archive that still holds the time. They are
// good until the next Read.
func (r *Reader) Read(path string, after int64) (*File, error) {
	for i := 0; ; i++ {
		f, err := r.read(path, after)
		if err == nil {
			return f, nil
		}
		if i == tries || !errors.Is(err, ErrBusy) && !errors.Is(err, errCut) {
			return nil, fileError(path, err)
		}
		time.Sleep(time.Duration(i) * time.Millisecond)
	}
}

// StampOf returns the stamp of a file without reading it.
func StampOf(path string) (Stamp, error) {
	var st unix.Stat_t
	var fs unix.Statfs_t
	err := unix.Stat(path, &st)
	if err == nil {
		err = unix.Statfs(path, &fs)
	}
	if err != nil {
		return Stamp{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return stampOf(&st, &fs), nil
}

func stampOf(st *unix.Stat_t, fs *unix.Statfs_t) Stamp {
	s := Stamp{st.Ino, st.Size, st.Mtim.Nano()}
	// RRDtool writes through a mapping, and file systems in memory do not
	// change the mtime then.
	if fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC {
		s.Mtime = never
	}
	return s
}

// locked tells whether someone holds the lock of librrd's updates, without
// taking it.
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
		case err == unix.EINTR:
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
	var st unix.Stat_t
	var fs unix.Statfs_t
	err = unix.Fstat(fd, &st)
	if err == nil {
		err = unix.Fstatfs(fd, &fs)
	}
	if err != nil {
		return nil, fmt.Errorf("stat: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("not a regular file")
	}
	h, err := r.readHeader(fd, st.Size)
	if err != nil {
		return nil, err
	}
	f := &r.file
	*f = File{Stamp: stampOf(&st, &fs), Step: h.step, Update: h.update, Last: h.update - h.update%h.step, Series: f.Series}
	f.Series = slices.Grow(f.Series[:0], len(h.sources))[:len(h.sources)]
	for i, name := range h.sources {
		f.Series[i].Source, f.Series[i].Points = name, f.Series[i].Points[:0]
	}
	for _, p := range h.pieces(after) {
		if err := r.readPiece(fd, h, p, f); err != nil {
			return nil, err
		}
	}
	// What was read is of one moment if no update is at work now and none has
	// changed the header since: the time of the update is what librrd writes
	// last.
	if err := unlocked(fd); err != nil {
		return nil, err
	}
	if err := pread(fd, r.again[:h.size], 0); err != nil {
		return nil, err
	}
	if !bytes.Equal(r.again[:h.size], r.buf[:h.size]) {
		return nil, ErrBusy
	}
	return f, nil
}

func unlocked(fd int) error {
	busy, err := locked(fd)
	if err == nil && busy {
		err = ErrBusy
	}
	return err
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
		if want <= n {
			r.head = n
			if err := r.header.parse(r.buf[:n], size); err != nil {
				return nil, err
			}
			return &r.header, nil
		}
		if want > size {
			return nil, errCut
		}
		n = want
	}
}

// readPiece appends the points of p to f.
func (r *Reader) readPiece(fd int, h *header, p piece, f *File) error {
	db, rows := h.single(p.archive, r.db)
	r.db = db
	if n := p.offset + int64(len(db)) - rows; n <= r.head {
		copy(db[rows:], r.buf[p.offset:n])
	} else if err := pread(fd, db[rows:], p.offset); err != nil {
		return err
	}
	// Before its first day a database has archives, but nothing in them.
	if !h.known(p, db[rows:]) {
		f.Unknown += (p.until - p.after) / h.rowStep(p.archive) * int64(len(h.sources))
		return nil
	}
	if r.size != int64(len(db)) {
		if err := unix.Ftruncate(r.memory, int64(len(db))); err != nil {
			return fmt.Errorf("memory for librrd: %w", err)
		}
		r.size = int64(len(db))
	}
	for b, at := db, int64(0); len(b) > 0; {
		n, err := unix.Pwrite(r.memory, b, at)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("memory for librrd: %w", err)
		}
		b, at = b[max(n, 0):], at+int64(max(n, 0))
	}
	step := h.rowStep(p.archive)
	got, err := rrd.Fetch(r.name, p.function, time.Unix(p.after, 0), time.Unix(p.until, 0), time.Duration(step)*time.Second)
	if err != nil {
		return fmt.Errorf("librrd: %w", err)
	}
	defer got.FreeValues()
	if got.Step != time.Duration(step)*time.Second || len(got.DsNames) != len(h.sources) {
		return fmt.Errorf("librrd: step of %v instead of %d s", got.Step, step)
	}
	for ds := range f.Series {
		f.Series[ds].Points = slices.Grow(f.Series[ds].Points, got.RowCnt)
	}
	// The count of rows that the binding tells is one too many.
	for row := range got.RowCnt - 1 {
		t := got.Start.Unix() + int64(row+1)*step
		if t <= p.after || t > p.until {
			continue
		}
		for ds := range f.Series {
			v := got.ValueAt(ds, row)
			if math.IsNaN(v) {
				f.Unknown++
				continue
			}
			f.Series[ds].Points = append(f.Series[ds].Points, Point{t, v})
		}
	}
	return nil
}
