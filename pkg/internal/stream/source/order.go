package source

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
)

const (
	// orderFormat is the format number of the state file.
	orderFormat = 1
	// maxGone limits the removed folders whose names are remembered.
	maxGone = 10_000
	// clockSkew is the tolerated difference between two machines' clocks. A
	// time is ahead of the clock if it is later than now plus clockSkew.
	clockSkew = time.Hour
)

// order is the order in which the log folders of a root appeared. Folder names do
// not show this order, since a new folder gets an older name if the probe's clock or
// time zone is set back. A folder that disappears stays known, since its file system
// may just have been unmounted.
type order struct {
	path  string         // of the state file
	names []string       // oldest first
	index map[string]int // position of each name in names
	dirty bool           // names have changed since the last save
}

// loadOrder returns the saved order of a root, or an empty order. path is the
// path prefix of state files.
func loadOrder(path, root string) (*order, error) {
	sum := sha256.Sum256([]byte(root))
	o := &order{path: path + ".folders-" + hex.EncodeToString(sum[:8])}
	if err := state.Load(o.path, orderFormat, &o.names); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	o.number()
	return o, nil
}

func (o *order) number() {
	o.index = make(map[string]int, len(o.names))
	for i, name := range o.names {
		o.index[name] = i
	}
}

func (o *order) knows(name string) bool {
	_, ok := o.index[name]
	return ok
}

// before reports whether folder a is known to be older than folder b.
func (o *order) before(a, b string) bool {
	i, ok := o.index[a]
	j, known := o.index[b]
	return ok && known && i < j
}

// clear forgets all folders.
func (o *order) clear() {
	o.names, o.dirty = nil, true
	o.number()
}

// insert inserts name at position i.
func (o *order) insert(i int, name string) {
	o.names = slices.Insert(o.names, i, name)
	o.number()
	o.dirty = true
}

// append adds the folders in fresh as the newest ones. If more than maxGone removed
// folders are known, it drops the oldest of them. present lists the existing folders.
func (o *order) append(fresh, present []*folder) {
	if len(fresh) == 0 {
		return
	}
	for _, d := range fresh {
		if i, ok := o.index[d.name]; ok { // Tstat recreated it
			o.names[i] = ""
		}
	}
	o.names = slices.DeleteFunc(o.names, func(name string) bool { return name == "" })
	for _, d := range fresh {
		o.names = append(o.names, d.name)
	}
	if extra := len(o.names) - len(present) - maxGone; extra > 0 {
		isPresent := make(map[string]bool, len(present))
		for _, d := range present {
			isPresent[d.name] = true
		}
		o.names = slices.DeleteFunc(o.names, func(name string) bool {
			if extra == 0 || isPresent[name] {
				return false
			}
			extra--
			return true
		})
	}
	o.number()
	o.dirty = true
}

// save writes the order if it has changed.
func (o *order) save() error {
	if !o.dirty {
		return nil
	}
	if err := state.Save(o.path, orderFormat, o.names); err != nil {
		return err
	}
	o.dirty = false
	return nil
}

// sortFolders sorts folders by the times in their names. However, a folder that seems to
// have appeared before the clock or time zone was set back goes first. Such a folder is
// ahead of the clock. Its modification time is also ahead of the clock, or is older than
// that of a folder that is not ahead.
func sortFolders(list []*folder, now time.Time) {
	former := map[*folder]bool{}
	if slices.ContainsFunc(list, func(d *folder) bool { return d.ahead(now) }) {
		var changed time.Time
		for _, d := range list {
			if t := d.modTime(); !d.ahead(now) && t.After(changed) {
				changed = t
			}
		}
		for _, d := range list {
			if t := d.modTime(); d.ahead(now) && (t.Before(changed) || t.After(now.Add(clockSkew))) {
				former[d] = true
			}
		}
	}
	slices.SortFunc(list, func(a, b *folder) int {
		switch {
		case former[a] && !former[b]:
			return -1
		case former[b] && !former[a]:
			return 1
		}
		if c := a.Time.Compare(b.Time); c != 0 {
			return c
		}
		return strings.Compare(a.name, b.name)
	})
}

// ahead reports whether the time in the folder's name is ahead of the clock; see
// clockSkew.
func (d *folder) ahead(now time.Time) bool { return d.Time.After(now.Add(clockSkew)) }

// modTime returns the modification time of the folder, or the zero time if it
// was removed.
func (d *folder) modTime() time.Time {
	info, err := os.Stat(d.path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
