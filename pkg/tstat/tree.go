package tstat

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
)

// maxDepth is the maximum number of levels of folders that a scan searches below the
// root.
const maxDepth = 64

// Folder is a log folder on disk.
type Folder struct {
	Path string // path for opening it
	Rel  string // below the root, slash separated; "." for the root itself
	Name string
	FolderTime
	Files   []*File   // its logs, by name
	ModTime time.Time // the latest change of the folder or one of its logs

	parent   string
	siblings *[]*Folder // the folders of the same parent, by time
}

// File is a log in a log folder.
type File struct {
	Path    string
	Rel     string   // below the root, slash separated
	Name    string   // the log type's name; for unknown types the file name without compression suffix
	Type    *LogType // nil if unknown
	Size    int64    // bytes on disk
	ModTime time.Time
}

// Tree is the result of a scan.
type Tree struct {
	Folders []*Folder // by time, then path
	// Loose lists the files that ScanOptions.Match accepts outside of log folders,
	// sorted by path.
	Loose []*File
	// Errors holds errors about unreadable folders, broken links and ambiguous files.
	Errors []error
	// Passed lists ignored files that look like logs, and ignored folders with logs.
	Passed []Passed
}

// Passed is a file or folder that a scan ignored although it resembles a log or a log
// folder. It is either an entry of a log folder whose name begins with "log_", although
// the entry is not a log, or a folder that contains logs but is not named like a log
// folder.
type Passed struct {
	Path       string
	Rel        string // below the root, slash separated
	Folder     bool
	Types      []string // the log types that the files' names start with
	FolderTime          // time of the log folder; zero if Folder is true
}

// ScanOptions selects the files that a scan treats as logs.
type ScanOptions struct {
	// Location is the time zone of folder names.
	Location *time.Location
	// Match returns the log type of a file that does not have a log's name, or is not
	// in a log folder. rel is the file's path below the root. Match returns nil for a
	// file that is not a log. A nil Match ignores all such files.
	Match func(rel string) *LogType
	// Exclude reports whether the caller ignores a file. Such a file does not make
	// other files ambiguous. If Exclude is nil, the caller ignores no files.
	Exclude func(*File) bool
}

// AmbiguousError reports files in one log folder that belong to the same log according
// to ScanOptions.Match. The tree keeps only the file that has the log's own name, if
// there is one.
type AmbiguousError struct {
	Type  *LogType
	Paths []string
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%s are all taken for %s of one folder: none but a file with this name is read", strings.Join(e.Paths, ", "), e.Type.Name)
}

// Hint returns a possible remedy.
func (e *AmbiguousError) Hint() string { return "match one of them, or exclude the others" }

// Scan is ScanWith without Match: it finds only logs with Tstat's own names.
func Scan(ctx context.Context, root string, loc *time.Location) (*Tree, error) {
	return ScanWith(ctx, root, ScanOptions{Location: loc})
}

// ScanWith finds the log folders below root, at any depth, and the logs in them. It
// follows symbolic links and visits each folder once. It ignores folders whose names
// begin with a dot (like .snapshot), histogram folders inside log folders, and files that
// are not logs. Tree.Passed lists ignored files that look like logs. A plain log hides
// compressed files of the same log, because the compressed files are still being written.
// If a log has several compressed files, the oldest one hides the others.
func ScanWith(ctx context.Context, root string, opt ScanOptions) (*Tree, error) {
	s := &scanner{ctx: ctx, opt: opt, tree: &Tree{}, seen: map[fileID]bool{}}
	info, err := os.Stat(root)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a folder", root)
	}
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if err := s.dir(root, ".", filepath.Base(abs), info, 0); err != nil {
		return nil, err
	}
	// Visit links last, so that a log folder is found by its own name if possible.
	for len(s.links) > 0 {
		l := s.links[0]
		s.links = s.links[1:]
		if err := s.link(l); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(s.tree.Loose, func(a, b *File) int { return strings.Compare(a.Path, b.Path) })
	fs := s.tree.Folders
	slices.SortFunc(fs, func(a, b *Folder) int {
		if c := a.Time.Compare(b.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Path, b.Path)
	})
	siblings := map[string]*[]*Folder{}
	for _, f := range fs {
		if siblings[f.parent] == nil {
			siblings[f.parent] = new([]*Folder)
		}
		f.siblings = siblings[f.parent]
		*f.siblings = append(*f.siblings, f)
	}
	return s.tree, nil
}

// Finished reports whether Tstat no longer writes to the folder. This is the case if
// nothing in the folder has changed for the duration given by settle, or if Tstat has
// opened a newer folder with the same parent.
func (f *Folder) Finished(now time.Time, settle time.Duration) bool {
	if now.Sub(f.ModTime) >= settle {
		return true
	}
	for _, n := range slices.Backward(*f.siblings) {
		if !n.Time.After(f.Latest) {
			break
		}
		if n.follows(f, now, settle) {
			return true
		}
	}
	return false
}

// follows reports whether Tstat really opened n after f, given that n's name is newer.
// Names mislead if the probe's clock or time zone was set back, so the time in n's name
// must be neither in the future nor later than n's last change. Until the duration given
// by settle has passed since the time in n's name, f must also not have changed after n's
// last change.
func (n *Folder) follows(f *Folder, now time.Time, settle time.Duration) bool {
	return !n.Time.After(now) && !n.Time.After(n.ModTime) &&
		(now.Sub(n.Time) >= settle || !f.ModTime.After(n.ModTime))
}

type fileID struct{ dev, ino uint64 }

type scanner struct {
	ctx  context.Context
	opt  ScanOptions
	tree *Tree
	seen map[fileID]bool

	links []link // links to visit; they may point to folders
}

// link is a symbolic link found by the scan.
type link struct {
	path, rel string
	depth     int
}

// link visits the target of a link. It uses the target's name if only the target, and
// not the link, has the name of a log folder.
func (s *scanner) link(l link) error {
	info, err := os.Stat(l.path)
	if err != nil {
		s.tree.Errors = append(s.tree.Errors, err)
		return nil
	}
	if !info.IsDir() {
		return nil
	}
	name := path.Base(l.rel)
	if target, err := filepath.EvalSymlinks(l.path); err == nil && !IsFolder(name) && IsFolder(filepath.Base(target)) {
		name = filepath.Base(target)
		l.rel = path.Join(path.Dir(l.rel), name)
	}
	return s.dir(l.path, l.rel, name, info, l.depth)
}

func (s *scanner) dir(p, rel, name string, info fs.FileInfo, depth int) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		//lint:ignore unconvert another type on other systems
		id := fileID{uint64(st.Dev), st.Ino}
		if s.seen[id] {
			return nil // a loop, or a second path to the folder
		}
		s.seen[id] = true
	}
	if depth > maxDepth {
		s.tree.Errors = append(s.tree.Errors, fmt.Errorf("%s: more than %d folders deep", p, maxDepth))
		return nil
	}
	entries, err := os.ReadDir(p)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted by Tstat or a clean-up
		}
		s.tree.Errors = append(s.tree.Errors, err)
	}
	if t, err := ParseFolder(name, s.opt.Location); err == nil {
		s.folder(p, rel, name, t, info, entries)
		return nil
	}
	var types []string
	var loose forms
	for _, e := range entries {
		if s.addLoose(&loose, filepath.Join(p, e.Name()), path.Join(rel, e.Name()), e) {
			continue
		}
		if t := typeOf(e.Name()); !e.IsDir() && TypeByName(t) != nil && !slices.Contains(types, t) {
			types = append(types, t)
		}
	}
	s.tree.Loose = append(s.tree.Loose, loose.files...)
	if types != nil {
		s.tree.Passed = append(s.tree.Passed, Passed{Path: p, Rel: rel, Folder: true, Types: types})
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		sub, subRel := filepath.Join(p, e.Name()), path.Join(rel, e.Name())
		if e.Type()&fs.ModeSymlink != 0 {
			s.links = append(s.links, link{sub, subRel, depth + 1})
		}
		if !e.IsDir() {
			continue
		}
		info, err := os.Stat(sub)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				s.tree.Errors = append(s.tree.Errors, err)
			}
			continue
		}
		if err := s.dir(sub, subRel, e.Name(), info, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// forms collects one file for each log in a folder. If a log has several forms, it keeps
// the plain file, or else the oldest compressed one. Files must be added in the order of
// their names.
type forms struct {
	files []*File
	plain map[string]*File // by path without compression suffix
}

func (f *forms) add(file *File) {
	plain, suffix := compression.CutSuffix(file.Path)
	switch other := f.plain[plain]; {
	case other == nil:
		f.files = append(f.files, file)
		if f.plain == nil {
			f.plain = map[string]*File{}
		}
		f.plain[plain] = file
	case suffix != "" && other.Path != plain && file.ModTime.Before(other.ModTime):
		*other = *file
	}
}

// match returns the log type that ScanOptions.Match assigns to a file.
func (s *scanner) match(rel string) *LogType {
	if s.opt.Match == nil || strings.HasPrefix(path.Base(rel), ".") {
		return nil
	}
	return s.opt.Match(rel)
}

// addLoose adds a file outside of log folders if Match accepts it. It returns true if
// it has added the file, or if the file cannot be examined.
func (s *scanner) addLoose(found *forms, p, rel string, e fs.DirEntry) bool {
	if e.IsDir() {
		return false
	}
	t := s.match(rel)
	if t == nil {
		return false
	}
	info, err := os.Stat(p)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		s.tree.Errors = append(s.tree.Errors, err)
	case err == nil && info.Mode().IsRegular():
		found.add(&File{Path: p, Rel: rel, Name: t.Name, Type: t, Size: info.Size(), ModTime: info.ModTime()})
	default:
		return false
	}
	return true
}

func (s *scanner) folder(p, rel, name string, t FolderTime, info fs.FileInfo, entries []fs.DirEntry) {
	f := &Folder{Path: p, Rel: rel, Name: name, FolderTime: t, ModTime: info.ModTime(), parent: filepath.Dir(p)}
	var found forms
	pass := func(name string) {
		if strings.HasPrefix(name, "log_") {
			s.tree.Passed = append(s.tree.Passed, Passed{Path: filepath.Join(p, name), Rel: path.Join(rel, name), Types: []string{typeOf(name)}, FolderTime: t})
		}
	}
	for _, e := range entries {
		base, _ := compression.CutSuffix(e.Name())
		name, typ := base, TypeByName(base)
		if !IsLog(e.Name()) && !e.IsDir() {
			if typ = s.match(path.Join(rel, e.Name())); typ != nil {
				name = typ.Name
			}
		}
		if !IsLog(e.Name()) && typ == nil || e.IsDir() {
			pass(e.Name())
			continue
		}
		full := filepath.Join(p, e.Name())
		info, err := os.Stat(full)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				s.tree.Errors = append(s.tree.Errors, err)
			}
			continue
		}
		if !info.Mode().IsRegular() {
			pass(e.Name())
			continue
		}
		found.add(&File{
			Path: full, Rel: path.Join(rel, e.Name()), Name: name, Type: typ,
			Size: info.Size(), ModTime: info.ModTime(),
		})
	}
	f.Files = found.files
	s.removeAmbiguous(f)
	for _, file := range f.Files {
		if file.ModTime.After(f.ModTime) {
			f.ModTime = file.ModTime
		}
	}
	s.tree.Folders = append(s.tree.Folders, f)
}

// removeAmbiguous looks for files of f that belong to the same log, and records them in
// an AmbiguousError. It removes such a file from f unless the file has a log's own name.
func (s *scanner) removeAmbiguous(f *Folder) {
	if s.opt.Match == nil {
		return
	}
	logs := map[string][]*File{}
	for _, file := range f.Files {
		if s.opt.Exclude == nil || !s.opt.Exclude(file) {
			logs[file.Name] = append(logs[file.Name], file)
		}
	}
	f.Files = slices.DeleteFunc(f.Files, func(file *File) bool {
		same := logs[file.Name]
		if len(same) < 2 {
			return false
		}
		if same[0] == file {
			e := &AmbiguousError{Type: file.Type}
			for _, o := range same {
				e.Paths = append(e.Paths, o.Path)
			}
			s.tree.Errors = append(s.tree.Errors, e)
		}
		return !IsLog(path.Base(file.Rel))
	})
}

// typeOf returns the longest prefix of a file name that can be the name of a log type,
// for example log_udp_complete for log_udp_complete.1.
func typeOf(name string) string {
	end := strings.IndexFunc(name, func(c rune) bool { return !(c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_') })
	if end < 0 {
		return name
	}
	return name[:end]
}

// IsLog reports whether name is the file name of a log: log_ followed by letters,
// digits and '_', at most 63 characters in all, with or without a compression suffix
// (.gz, .zst, .xz, .bz2, .lz4).
func IsLog(name string) bool {
	name, _ = compression.CutSuffix(name)
	if !strings.HasPrefix(name, "log_") || len(name) > maxName {
		return false
	}
	for _, c := range []byte(name) {
		if !(c-'0' <= 9 || (c|0x20)-'a' < 26 || c == '_') {
			return false
		}
	}
	return true
}
