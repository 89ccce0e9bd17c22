package bulk

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// recordUnreadable records that a part of src cannot be read. It counts and logs a part
// again only after a pass that could read it.
func (r *run) recordUnreadable(src string, err error) {
	text, path := reason(err), ""
	var pe *fs.PathError
	if errors.As(err, &pe) {
		path = pe.Path
	}
	r.unreadable[text] = path
	if !r.warned[text] {
		r.warned[text] = true
		r.countProblem()
		r.log.Error("part of the source cannot be read", append([]any{"source", src, "err", text}, hint.Attrs(err)...)...)
	}
}

// unreadableError returns an error about the parts of the sources that this pass could
// not read, or nil.
func (r *run) unreadableError() error {
	if len(r.unreadable) == 0 {
		return nil
	}
	text := slices.Min(slices.Collect(maps.Keys(r.unreadable)))
	if n := len(r.unreadable) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more)", n)
	}
	return fmt.Errorf("part of the source cannot be read: %s", text)
}

// endScan forgets the files that are gone and the problems that are over. It keeps the
// entries in r.examined of files that the scan could not see: their source or their folder
// is unavailable, or their source is empty, like a folder whose file system is not mounted.
func (r *run) endScan() {
	if len(r.sourceErrors) == 0 {
		maps.DeleteFunc(r.warned, func(text string, _ bool) bool { _, still := r.unreadable[text]; return !still })
	}
	if len(r.sourceErrors)+len(r.unreadable)+len(r.empty) == 0 {
		return
	}
	for name, v := range r.examinedBefore {
		if _, seen := r.examined[name]; !seen && (r.sourceErrors[v.from] != nil || r.empty[v.from] || r.isUnreadable(name)) {
			r.examined[name] = v
		}
	}
}

// isUnreadable reports whether the file with this path is inside a folder that this pass
// could not read.
func (r *run) isUnreadable(name string) bool {
	for _, dir := range r.unreadable {
		if dir != "" && strings.HasPrefix(name, dir+"/") {
			return true
		}
	}
	return false
}
