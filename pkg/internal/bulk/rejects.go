package bulk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
)

// Limits on the rejected lines that are kept.
const (
	maxRejectFile  = 16 << 20    // bytes, of one run
	maxRejectText  = 1 << 10     // bytes, of one line
	rejectRetry    = time.Minute // after an error, until a line is written again
	keptRejectRuns = 20          // files; more only while more runs write to theirs
)

// rejectFile writes the rejected lines of a run in the form FILE:LINE: reason: "text".
// A nil text is omitted. The first rejected line creates the file.
type rejectFile struct {
	dir string

	mu     sync.Mutex
	f      *os.File
	size   int
	synced int  // bytes that are durable
	broken bool // the last line in the file is not complete
	err    error
	failed time.Time // time of err
	warned bool      // failure has returned err, or an error of an earlier attempt
	lost   error     // the error to return by failure
}

// add writes a rejected line, and reports whether it was written.
func (r *rejectFile) add(path string, line int64, reason string, text []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil && time.Since(r.failed) >= rejectRetry {
		r.err = nil
	}
	if r.f == nil && r.err == nil {
		r.fail(r.open())
	}
	if r.err != nil || r.size > maxRejectFile {
		return false
	}
	more := ""
	if len(text) > maxRejectText {
		text, more = text[:maxRejectText], "…"
	}
	message := fmt.Sprintf("%s:%d: %s", escape(path), line, escape(reason))
	if text != nil {
		message += fmt.Sprintf(": %q%s", text, more)
	}
	if r.broken {
		message = "\n" + message
	}
	n, err := fmt.Fprintln(r.f, message)
	r.fail(err)
	r.broken = err != nil && (r.broken || n > 0)
	r.warned = r.warned && err != nil
	if r.size += n; r.size > maxRejectFile {
		fmt.Fprintf(r.f, "%d bytes are full; further rejects are counted only\n", maxRejectFile)
	}
	return r.err == nil
}

// escape escapes control characters and invalid UTF-8 like %q. Peers choose file names
// and parts of reasons, and could otherwise send control sequences to a terminal.
func escape(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		if strconv.IsPrint(r) && (r != utf8.RuneError || size > 1) {
			b.WriteString(text[:size])
		} else {
			quoted := strconv.Quote(text[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[size:]
	}
	return b.String()
}

// fail records an error unless err is nil. Lines are counted only until rejectRetry has
// passed. The caller must hold r.mu.
func (r *rejectFile) fail(err error) {
	if err == nil {
		return
	}
	r.err, r.failed = err, time.Now()
	if !r.warned {
		r.lost = err
	}
}

// open creates the file. The caller must hold r.mu.
func (r *rejectFile) open() error {
	dir := filepath.Join(r.dir, "rejects")
	if err := durable.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	removeOldRejects(dir)
	name := fmt.Sprintf("%s-%d.txt", time.Now().UTC().Format("20060102T150405Z"), os.Getpid())
	f, err := durable.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_APPEND|syscall.O_NOFOLLOW, 0o640)
	if err != nil {
		return err
	}
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_SH) // not all file systems have locks
	r.f = f
	return nil
}

// removeOldRejects removes the oldest reject files in dir, so that there is room for one
// more. It keeps the files of runs that have not ended, which hold a lock on them.
func removeOldRejects(dir string) {
	old, _ := filepath.Glob(filepath.Join(dir, "*.txt"))
	slices.Sort(old) // names start with the time
	left := len(old)
	for _, name := range old {
		if left < keptRejectRuns {
			return
		}
		if !isLocked(name) {
			os.Remove(name)
			left--
		}
	}
}

// isLocked reports whether a process holds a lock on a file.
func isLocked(name string) bool {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// failure makes the lines written so far durable. If lines are missing because of an
// error, failure returns that error once. It returns another error only after a line has
// been written again. Other goroutines can add lines during the sync.
func (r *rejectFile) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f, size := r.f, r.size; r.err == nil && r.synced < size {
		r.mu.Unlock()
		err := durable.Sync(f)
		r.mu.Lock()
		r.synced = size
		r.fail(err)
	}
	err := r.lost
	r.warned, r.lost = r.warned || err != nil, nil
	return err
}

// path returns the file's name, or "" if nothing was rejected.
func (r *rejectFile) path() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.f == nil {
		return ""
	}
	return r.f.Name()
}

func (r *rejectFile) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.f != nil {
		r.f.Close()
	}
}
