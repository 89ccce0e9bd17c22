package stream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// closeGrace is how long a newer folder may lack a log until the older one's
// counts as closed. Tstat opens the new log right after it has closed the old
// one; a log that was switched off never comes.
const closeGrace = 5 * time.Second

// firstFolder stands in the checkpoint for a log: the folder that was the
// first, which counts until a log was met.
const firstFolder = "-"

// follower follows the log folders of one probe.
type follower struct {
	hub  *hub
	log  *slog.Logger
	ck   *checkpoint
	enc  *encoder
	root Root
	key  string // of the root in the checkpoint
	src  *source

	// folders are the log folders from the oldest that a log still needs, in
	// their order; first is the number of the first one. Numbers go up by
	// one and are never used again.
	folders []*folder
	first   int
	logs    map[string]*followed
	resume  map[string]position // of logs not met yet

	watcher  *fsnotify.Watcher // nil: only polling
	wake     chan struct{}
	look     atomic.Bool // folders may have come or gone, or logs in them
	unread   rate.Sometimes
	scanned  bool
	entered  bool            // the checkpoint has logs that are not saved
	seen     map[string]bool // names of folders at the last scan
	complain rate.Sometimes
}

// folder is a log folder.
type folder struct {
	name, path string
	tstat.FolderTime
}

func newFollower(h *hub, ck *checkpoint, root Root) *follower {
	return &follower{
		hub: h, log: h.log.With("folder", root.Dir), ck: ck, enc: newEncoder(h), root: root,
		key: root.Probe + " " + root.Dir, src: h.sources.of(root.Probe, root.Dir), logs: map[string]*followed{}, wake: make(chan struct{}, 1),
		unread: rate.Sometimes{First: 1, Interval: time.Minute}, complain: rate.Sometimes{First: 1, Interval: time.Minute},
	}
}

// run follows until stop ends. Lines that are read are handed over until ctx
// ends.
func (f *follower) run(stop, ctx context.Context) error {
	if f.hub.opt.Start == StartCheckpoint {
		f.resume = f.ck.of(f.key)
	}
	f.watch(stop)
	if f.watcher != nil {
		defer f.watcher.Close()
	}
	defer func() {
		for _, l := range f.logs {
			l.close()
		}
	}()
	poll := time.NewTicker(f.hub.opt.Poll)
	defer poll.Stop()
	f.look.Store(true)
	for {
		if f.look.Swap(false) {
			f.scan()
		}
		progress := false
		for _, l := range f.sorted() {
			if stop.Err() != nil {
				return nil
			}
			p, err := l.step(ctx)
			if err != nil {
				return err
			}
			progress = progress || p
		}
		f.forget()
		if progress {
			continue
		}
		select {
		case <-f.wake:
		case <-poll.C:
			f.look.Store(true)
		case <-stop.Done():
			return nil
		}
	}
}

func (f *follower) sorted() []*followed {
	list := make([]*followed, 0, len(f.logs))
	for _, l := range f.logs {
		list = append(list, l)
	}
	slices.SortFunc(list, func(a, b *followed) int { return strings.Compare(a.name, b.name) })
	return list
}

// watch wakes the follower when the kernel tells of a change. Without that,
// as on NFS, it polls.
func (f *follower) watch(ctx context.Context) {
	w, err := fsnotify.NewWatcher()
	if err == nil {
		if err = w.Add(f.root.Dir); err != nil {
			w.Close()
		}
	}
	if err != nil {
		f.log.Warn("changes are found by polling only", "err", err, "poll", f.hub.opt.Poll)
		return
	}
	f.watcher = w
	go func() {
		for {
			select {
			case e, ok := <-w.Events:
				if !ok {
					return
				}
				if !e.Has(fsnotify.Write) {
					f.look.Store(true)
				}
			case _, ok := <-w.Errors: // lost events: look at everything
				if !ok {
					return
				}
				f.look.Store(true)
			}
			select {
			case f.wake <- struct{}{}:
			default:
			}
		}
	}()
}

// scan looks for new folders, and for logs in the newest ones.
func (f *follower) scan() {
	entries, err := os.ReadDir(f.root.Dir)
	if err != nil {
		f.complain.Do(func() { f.log.Warn("folder cannot be read; it is tried again", "err", err) })
		return
	}
	var found []*folder
	for _, e := range entries {
		t, err := tstat.ParseFolder(e.Name(), f.hub.opt.Location)
		if err != nil {
			continue
		}
		found = append(found, &folder{e.Name(), filepath.Join(f.root.Dir, e.Name()), t})
	}
	slices.SortFunc(found, func(a, b *folder) int {
		if c := a.Time.Compare(b.Time); c != 0 {
			return c
		}
		return strings.Compare(a.name, b.name)
	})
	seen := f.seen
	f.seen = map[string]bool{}
	for _, d := range found {
		f.seen[d.name] = true
	}
	fresh := slices.DeleteFunc(found, func(d *folder) bool { return seen[d.name] })
	if !f.scanned {
		fresh = f.begin(fresh)
	}
	former := len(f.folders)
	for _, d := range fresh {
		if n := len(f.folders); n > 0 && !d.Latest.After(f.folders[n-1].Time) {
			if d.name != f.folders[n-1].name {
				f.log.Warn("a folder older than the newest one has come: it is not streamed", "name", d.name)
			}
			continue
		}
		f.folders = append(f.folders, d)
	}
	// Logs may have appeared in the folder that was the newest so far, too.
	for i := max(0, former-1); i < len(f.folders); i++ {
		f.list(i)
	}
	first := !f.scanned && len(f.folders) > 0
	if first {
		f.scanned = true
		if len(f.resume) == 0 {
			f.ck.enter(f.key, firstFolder, 0, f.folders[0].name)
			f.entered = true
		}
	}
	// Before a line is sent: a crash must not begin with a newer folder.
	if f.entered {
		if err := f.ck.save(); err != nil {
			f.log.Warn("the position cannot be saved", "err", err)
		}
		f.entered = false
	}
	if first {
		f.log.Info("following", "from", f.folders[0].name, "newest", f.folders[len(f.folders)-1].name)
	}
	if n := len(f.folders); n > 0 && f.watcher != nil {
		f.watcher.Add(f.folders[n-1].path) // again if it was made anew; else the poll finds out
	}
}

// begin chooses the folders to start with.
func (f *follower) begin(found []*folder) []*folder {
	if len(found) == 0 || f.hub.opt.Start == StartBegin {
		return found
	}
	from := len(found) - 1
	for name, p := range f.resume {
		t, err := tstat.ParseFolder(p.Folder, f.hub.opt.Location)
		if err != nil || !f.wants(name) && (name != firstFolder || len(f.resume) > 1) {
			continue
		}
		i := slices.IndexFunc(found, func(d *folder) bool { return !d.Time.Before(t.Time) })
		if i < 0 {
			i = len(found) // all are older; wait for new ones
		}
		from = min(from, i)
		if i == len(found) || found[i].name != p.Folder {
			f.log.Info("the folder that the last run read has gone", "log", name, "was", p.Folder)
		}
	}
	return found[from:]
}

// wants reports whether a log is to be followed.
func (f *follower) wants(name string) bool {
	if !f.hub.types.ok(name) {
		return false
	}
	globs := f.hub.opt.Types
	return len(globs) == 0 || slices.ContainsFunc(globs, func(g string) bool { ok, _ := path.Match(g, name); return ok })
}

// list finds logs in folder i that were not met before.
func (f *follower) list(i int) {
	d := f.folders[i]
	entries, err := os.ReadDir(d.path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			f.complain.Do(func() { f.log.Warn("folder cannot be read; it is tried again", "err", err) })
		}
		return
	}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".gz")
		if f.logs[name] != nil || !f.wants(name) {
			continue
		}
		l := &followed{follower: f, name: name, at: f.first + i}
		if p, ok := f.resume[name]; ok {
			if t, err := tstat.ParseFolder(p.Folder, f.hub.opt.Location); err == nil && d.Time.Before(t.Time) {
				continue // done with
			}
			delete(f.resume, name)
			if p.Folder == d.name {
				l.resume = p
			}
		} else {
			// Should nothing of it be confirmed before the next start.
			f.ck.enter(f.key, name, 0, d.name)
			f.entered = true
		}
		if l.resume.Folder == "" && f.hub.opt.Start == StartEnd && !f.scanned && i == len(f.folders)-1 {
			l.fromEnd = true
		}
		f.logs[name] = l
	}
}

// folder returns the folder of that number, or nil if there is none yet.
func (f *follower) folder(number int) *folder {
	if i := number - f.first; i < len(f.folders) {
		return f.folders[i]
	}
	return nil
}

// forget drops folders that no log needs any more.
func (f *follower) forget() {
	least := f.first + len(f.folders) - 1
	for _, l := range f.logs {
		least = min(least, l.at)
	}
	if n := least - f.first; n > 0 {
		if f.watcher != nil {
			for _, d := range f.folders[:n] {
				f.watcher.Remove(d.path) // it may not be watched
			}
		}
		f.folders = slices.Delete(f.folders, 0, n)
		f.first = least
	}
}

// closed reports whether Tstat does not write to a log in the folder of that
// number any more: the same log is in the next folder, since Tstat closes the
// old one first; or it is not there and should be.
func (f *follower) closed(number int, name string) bool {
	next := f.folder(number + 1)
	if next == nil {
		return false
	}
	if f.folder(number+2) != nil {
		return true
	}
	for _, n := range []string{name, name + ".gz"} {
		if _, err := os.Stat(filepath.Join(next.path, n)); err == nil {
			return true
		}
	}
	info, err := os.Stat(next.path)
	return err == nil && time.Since(info.ModTime()) > closeGrace
}

func (r Root) check() error {
	if strings.ContainsAny(r.Dir, " \n") {
		return &UsageError{fmt.Sprintf("folder %q: a blank in a path cannot be told from the one before the line", r.Dir), "follow it by a symbolic link without a blank"}
	}
	return nil
}
