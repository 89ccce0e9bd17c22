package source

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/stats"
)

// closeGrace is how long a newer folder must be unchanged before a log that it
// lacks counts as closed in the older folder. Tstat opens each new log right after
// it closes the old one, but a log that was switched off never appears again.
const closeGrace = 5 * time.Second

// firstFolder is the name of a checkpoint entry that belongs to no log. Until a log is
// found, the entry records the folder from which reading starts.
const firstFolder = "-"

// follower follows the log folders of one probe.
type follower struct {
	set   *Set
	log   *slog.Logger
	ck    *checkpoint
	inlet Inlet
	root  Root
	key   string // of the root in the checkpoint
	src   *stats.Source

	// folders lists the log folders in the order in which they appeared, starting
	// with the oldest one that a log still needs. first is the number of
	// folders[0]. Numbers increase by one and are never reused.
	folders []*folder
	first   int
	logs    map[string]*followed
	resume  map[string]position // saved positions of logs not found yet

	watcher  *fsnotify.Watcher // nil: polling only
	wake     chan struct{}
	scanDue  atomic.Bool // scan is due: the root or a folder may have changed
	warnRead rate.Sometimes
	scanned  bool   // scan has found folders before
	entered  bool   // the checkpoint has unsaved new logs
	order    *order // of all known folders
	warnScan rate.Sometimes
	warnType rate.Sometimes // limits warnings about logs that cannot be anonymized

	opened map[string]identity // folders read in this run, by name

	mu      sync.Mutex
	removed map[string]bool // names of folders whose removal the kernel reported
	gone    []string        // the same names, since the last call of countUnseen
}

// identity distinguishes a file or folder from a later one of the same name.
type identity struct {
	dev, ino uint64
	made     int64 // creation time in Unix ns; 0 if unknown
}

// folder is a log folder.
type folder struct {
	name, path string
	tstat.FolderTime
	replaced bool            // Tstat has recreated the folder under the same name
	unread   map[string]bool // logs seen in the folder and not opened since
}

// Follow returns an Input that follows a root. The root must come from Root.Abs.
func (s *Set) Follow(root Root) Input {
	return &follower{
		set: s, log: s.opt.Log.With("source", root.Dir), ck: s.checkpoint, inlet: s.opt.NewInlet(), root: root,
		key: root.Probe + " " + root.Dir, src: s.counts.Sources.Lookup(root.Probe, root.Dir), logs: map[string]*followed{}, wake: make(chan struct{}, 1),
		opened: map[string]identity{}, removed: map[string]bool{},
		warnRead: rate.Sometimes{First: 1, Interval: time.Minute}, warnScan: rate.Sometimes{First: 1, Interval: time.Minute}, warnType: rate.Sometimes{First: 1, Interval: time.Hour},
	}
}

// Run implements Input.
func (f *follower) Run(ctx, reading context.Context) error {
	if f.set.opt.Start == StartCheckpoint {
		f.resume = f.ck.positions(f.key)
	}
	order, err := loadOrder(f.set.opt.State, f.key)
	if err != nil {
		return err
	}
	f.order = order
	f.watch()
	if f.watcher != nil {
		defer f.watcher.Close()
	}
	defer func() {
		for _, l := range f.logs {
			l.close()
		}
	}()
	poll := time.NewTicker(f.set.opt.Poll)
	defer poll.Stop()
	f.scanDue.Store(true)
	for {
		if f.scanDue.Swap(false) {
			f.scan()
		}
		progress := false
		for _, l := range f.sorted() {
			if reading.Err() != nil {
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
			f.scanDue.Store(true)
		case <-reading.Done():
			return nil
		}
	}
}

func (f *follower) sorted() []*followed {
	return slices.SortedFunc(maps.Values(f.logs), func(a, b *followed) int { return strings.Compare(a.name, b.name) })
}

// watch wakes the follower when the kernel reports a change. Where the kernel
// reports nothing, for example on NFS, the follower only polls.
func (f *follower) watch() {
	w, err := fsnotify.NewWatcher()
	if err == nil {
		if err = w.Add(f.root.Dir); err != nil {
			w.Close()
		}
	}
	if err != nil {
		f.log.Warn("kernel does not report changes, polling only", "err", err, "every", f.set.opt.Poll)
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
					f.scanDue.Store(true)
				}
				if dir, name := filepath.Split(e.Name); filepath.Clean(dir) == f.root.Dir && (e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename)) && tstat.IsFolder(name) {
					f.mu.Lock()
					f.removed[name] = true
					f.gone = append(f.gone, name)
					f.mu.Unlock()
				}
			case _, ok := <-w.Errors: // lost events: check everything
				if !ok {
					return
				}
				f.scanDue.Store(true)
			}
			select {
			case f.wake <- struct{}{}:
			default:
			}
		}
	}()
}

// scan finds new folders, and new logs in the newest folders.
func (f *follower) scan() {
	entries, err := f.readDir(f.root.Dir)
	if err != nil {
		f.warnScan.Do(func() { f.log.Warn("folder cannot be read, retrying", "err", err) })
		return
	}
	var found []*folder
	for _, e := range entries {
		t, err := tstat.ParseFolder(e.Name(), f.set.opt.Location)
		if err != nil {
			continue
		}
		found = append(found, &folder{name: e.Name(), path: filepath.Join(f.root.Dir, e.Name()), FolderTime: t})
	}
	if len(found) == 0 {
		return
	}
	former := len(f.folders)
	if f.scanned {
		f.countUnseen(found)
		f.add(found)
	} else {
		f.begin(found)
	}
	// Logs may also have appeared in the folder that was newest until now.
	for i := max(0, former-1); i < len(f.folders); i++ {
		f.list(i)
	}
	first := !f.scanned
	if first {
		f.scanned = true
		if len(f.resume) == 0 {
			f.ck.enter(f.key, firstFolder, 0, f.folders[0].name)
			f.entered = true
		}
	}
	// Save before the first line is sent. Otherwise a crash could make the
	// next run start with a newer folder.
	if err := f.order.save(); err != nil {
		f.warnScan.Do(func() { f.log.Warn("order of folders cannot be saved", "err", err) })
	}
	if f.entered {
		if err := f.ck.save(); err != nil {
			f.log.Warn("position cannot be saved", "err", err)
		}
		f.entered = false
	}
	if first {
		f.log.Info("following", "first", f.folders[0].name, "last", f.folders[len(f.folders)-1].name)
	}
	if f.watcher != nil {
		f.watcher.Add(f.folders[len(f.folders)-1].path) // if Add fails, polling still finds changes
	}
}

// countUnseen counts the folders that appeared and were removed since the last scan. This
// happens if the sinks accept no lines for so long that the probe removes old logs.
func (f *follower) countUnseen(found []*folder) {
	f.mu.Lock()
	gone := f.gone
	f.gone = nil
	f.mu.Unlock()
	for _, name := range gone {
		if f.order.knows(name) || slices.ContainsFunc(found, func(d *folder) bool { return d.name == name }) {
			continue
		}
		f.set.counts.Vanished.Add(1)
		f.log.Warn("folder vanished before its logs were read", "folder", name)
	}
}

// add appends to f.folders the folders in found that have appeared since the last scan.
// They count as newer than all others even if the times in their names are older.
func (f *follower) add(found []*folder) {
	fresh := f.fresh(found)
	if len(fresh) == 0 {
		return
	}
	// Tstat may just have recreated the last folder. Its logs are then reopened in
	// the new folder, so record the new folder's identity.
	last := f.folders[len(f.folders)-1]
	if id, err := identityOf(last.path); err == nil {
		f.opened[last.name] = id
	}
	sortFolders(fresh, time.Now())
	f.order.append(fresh, found)
	for _, d := range fresh {
		last := f.folders[len(f.folders)-1]
		if d.name == last.name {
			continue
		}
		for _, old := range f.folders {
			old.replaced = old.replaced || old.name == d.name
		}
		if !d.Latest.After(last.Time) {
			f.log.Warn("new folder has an older name than the last one", "folder", d.name, "last", last.name,
				"hint", "check the clock and the time zone of the probe")
		}
		f.folders = append(f.folders, d)
		f.set.counts.Folders.Add(1)
	}
	maps.DeleteFunc(f.opened, func(name string, _ identity) bool { return !f.order.knows(name) })
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.removed, func(name string, _ bool) bool { return !f.order.knows(name) })
}

// fresh returns the folders in found that are not yet known or that Tstat has recreated
// under the same name.
func (f *follower) fresh(found []*folder) (list []*folder) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range found {
		if !f.order.knows(d.name) {
			list = append(list, d)
		} else if f.removed[d.name] {
			id, err := identityOf(d.path)
			if err != nil {
				continue // not recreated yet
			}
			delete(f.removed, d.name)
			if id != f.opened[d.name] { // otherwise a late or repeated event
				list = append(list, d)
			}
		}
	}
	return list
}

// begin sets f.folders to the folders in found that this run must read. Folders that the
// last run did not know count as the newest. If there was no last run, the times in the
// names determine the order.
func (f *follower) begin(found []*folder) {
	now := time.Now()
	sortFolders(found, now)
	if len(f.resume) == 0 {
		f.order.clear()
	}
	f.order.append(slices.DeleteFunc(slices.Clone(found), func(d *folder) bool { return f.order.knows(d.name) }), found)
	if len(f.resume) > 1 {
		delete(f.resume, firstFolder)
	}
	placed := map[string]bool{}
	for _, p := range f.resume {
		if t, err := tstat.ParseFolder(p.Folder, f.set.opt.Location); err == nil && !placed[p.Folder] {
			placed[p.Folder] = true
			f.place(&folder{name: p.Folder, FolderTime: t}, found, now)
		}
	}
	slices.SortFunc(found, func(a, b *folder) int { return f.order.index[a.name] - f.order.index[b.name] })
	from := len(found) - 1
	if f.set.opt.Start == StartBegin {
		from = 0
	}
	for name, p := range f.resume {
		if !f.selects(name) && name != firstFolder {
			continue
		}
		if i := slices.IndexFunc(found, func(d *folder) bool { return !f.order.before(d.name, p.Folder) }); i >= 0 {
			from = min(from, i)
		}
	}
	f.folders = found[from:]
	f.set.counts.Folders.Add(int64(len(f.folders)))
}

// place adds a folder of the checkpoint to the order, unless the order already has it. It
// inserts the folder before the first one with a newer name. If there is none, or if the
// folder is ahead of the clock, the folder goes first, so that no folder is skipped. place
// logs a warning if the folder is ahead of the clock or is missing from found, the list of
// existing folders.
func (f *follower) place(d *folder, found []*folder, now time.Time) {
	if !f.order.knows(d.name) {
		i := 0
		if !d.ahead(now) {
			i = max(0, slices.IndexFunc(f.order.names, func(name string) bool {
				t, err := tstat.ParseFolder(name, f.set.opt.Location)
				return err == nil && !t.Time.Before(d.Time)
			}))
		}
		f.order.insert(i, d.name)
	}
	if !slices.ContainsFunc(found, func(o *folder) bool { return o.name == d.name }) {
		f.log.Warn("folder of the checkpoint vanished: streaming the folders after it", "folder", d.name)
	} else if d.ahead(now) {
		f.log.Warn("folder of the checkpoint is ahead of the clock: streaming every folder that was not streamed", "folder", d.name)
	}
}

// selects reports whether the options select logs of this name.
func (f *follower) selects(name string) bool {
	if f.set.types.Check(name, "") != "" {
		return false
	}
	if f.set.opt.Anonymize != nil && tstat.TypeByName(name) == nil {
		f.warnType.Do(func() { f.log.Warn("log of an unknown type cannot be anonymized, left out", "log", name) })
		return false
	}
	globs := f.set.opt.Types
	return len(globs) == 0 || slices.ContainsFunc(globs, func(g string) bool { ok, _ := path.Match(g, name); return ok })
}

// list adds the new logs of f.folders[i] to f.logs.
func (f *follower) list(i int) {
	d := f.folders[i]
	entries, err := f.readDir(d.path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			f.warnScan.Do(func() { f.log.Warn("folder cannot be read, retrying", "err", err) })
		}
		return
	}
	for _, e := range entries {
		name, _ := compression.CutSuffix(e.Name())
		if f.logs[name] != nil {
			d.see(name)
			continue
		}
		if !f.selects(name) {
			continue
		}
		l := &followed{follower: f, name: name, current: f.first + i}
		if p, ok := f.resume[name]; ok {
			if f.order.before(d.name, p.Folder) {
				continue // finished
			}
			delete(f.resume, name)
			if p.Folder == d.name {
				l.resume = p
			}
		} else {
			// Record the log now, in case none of its lines are acked before
			// the next start.
			f.ck.enter(f.key, name, 0, d.name)
			f.entered = true
		}
		if l.resume.Folder == "" && f.set.opt.Start == StartEnd && !f.scanned && i == len(f.folders)-1 {
			l.fromEnd = true
		}
		f.logs[name] = l
		d.see(name)
	}
}

// see records that the folder has a log that is not open.
func (d *folder) see(name string) {
	if d.unread == nil {
		d.unread = map[string]bool{}
	}
	d.unread[name] = true
}

// folder returns the folder with the given number, or nil if it does not exist
// yet.
func (f *follower) folder(number int) *folder {
	if i := number - f.first; i < len(f.folders) {
		return f.folders[i]
	}
	return nil
}

// forget removes folders from the start of f.folders while no log needs them. It always
// keeps the newest folder.
func (f *follower) forget() {
	least := f.first + len(f.folders) - 1
	for _, l := range f.logs {
		least = min(least, l.current)
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

// closed reports whether Tstat has finished a log in the folder with the given number.
// This is the case if there are two or more newer folders, if the next folder has the
// same log (Tstat closes the old log first), or if the next folder lacks the log and has
// not changed for closeGrace.
func (f *follower) closed(number int, name string) bool {
	next := f.folder(number + 1)
	if next == nil {
		return false
	}
	if f.folder(number+2) != nil {
		return true
	}
	for _, suffix := range append(compression.Suffixes(), "") {
		if _, err := os.Stat(filepath.Join(next.path, name+suffix)); err == nil {
			return true
		}
	}
	info, err := os.Stat(next.path)
	return err == nil && time.Since(info.ModTime()) > closeGrace
}
