package source

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// openPath opens the root, or a file or folder below it. If the option Confined is set,
// openPath fails for links that lead out of the root; see isLinkOut.
func (f *follower) openPath(path string) (*os.File, error) {
	if !f.set.opt.Confined {
		return os.Open(path)
	}
	rel, err := filepath.Rel(f.root.Dir, path)
	if err != nil {
		return nil, err
	}
	return os.OpenInRoot(f.root.Dir, rel)
}

// readDir returns the entries of the root or of a folder below it, sorted by
// name.
func (f *follower) readDir(path string) ([]fs.DirEntry, error) {
	d, err := f.openPath(path)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, err
}

// isLinkOut reports whether openPath failed because of a link that leads out of
// the root. Package os exports no error value for this case.
func isLinkOut(err error) bool {
	var pe *fs.PathError
	return errors.As(err, &pe) && pe.Err.Error() == "path escapes from parent"
}

// isFileError reports whether err came from the file system, not from
// decompression.
func isFileError(err error) bool {
	var pe *fs.PathError
	return errors.As(err, &pe)
}
