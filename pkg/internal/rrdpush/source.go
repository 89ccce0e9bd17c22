package rrdpush

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
)

// folder is a source folder with its saved state and sink. A source that is a file
// belongs to the folder that contains it.
type folder struct {
	dir   string   // path as in the source
	abs   string   // absolute path, the identity of the folder
	all   bool     // push all RRD files in the folder
	only  []string // files given as sources; pushed alone if all is false
	empty bool     // the last pass found no RRD files

	key    string          // of the state, see keyOf
	unlock func()          // unlocks the state
	path   string          // of the state file; "": the state is not saved
	state  pushState       // saved after each batch
	sink   graphite.Sink   // the spool, or the sink of the destination
	spool  *graphite.Spool // nil: no spool
}

// folders returns the folders of the sources in the given order, without duplicates. It
// returns a usage error that names all invalid and missing sources if a source is
// invalid or all sources are missing. If only some are missing, each pass reports these
// and pushes the others.
func folders(sources []string) ([]*folder, error) {
	const kinds = "a folder of RRDs or an .rrd file"
	var list []*folder
	var errs, missing []error
	for _, src := range sources {
		info, err := os.Stat(src)
		dir, file := src, ""
		switch {
		case errors.Is(err, fs.ErrNotExist) && !strings.Contains(src, "://"):
			missing = append(missing, dest.MissingSource(src, err, kinds))
			if err = nil; strings.HasSuffix(src, suffix) {
				dir, file = filepath.Dir(src), filepath.Base(src)
			}
		case err != nil:
			err = dest.MissingSource(src, err, kinds)
		case info.IsDir():
		case !info.Mode().IsRegular():
			err = hint.New("source "+src+": neither a file nor a folder", kinds)
		case !strings.HasSuffix(src, suffix):
			err = hint.New("source "+src+": not an .rrd file", kinds)
		default:
			dir, file = filepath.Dir(src), filepath.Base(src)
		}
		var abs string
		if err == nil {
			abs, err = state.Absolute(dir)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		i := slices.IndexFunc(list, func(f *folder) bool { return f.abs == abs })
		if i < 0 {
			i = len(list)
			list = append(list, &folder{dir: dir, abs: abs, unlock: func() {}})
		}
		f := list[i]
		if file == "" {
			f.all = true
		} else if !slices.Contains(f.only, file) {
			f.only = append(f.only, file)
		}
	}
	if len(errs) > 0 || len(missing) == len(sources) {
		return nil, hint.AsUsage(errors.Join(append(missing, errs...)...))
	}
	return list, nil
}

// suffix is the suffix of RRD file names.
const suffix = ".rrd"

// files returns the names of the RRD files to push.
func (f *folder) files() ([]string, error) {
	if !f.all {
		return f.only, nil
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, fmt.Errorf("source %s: %w", f.dir, err)
	}
	files := slices.Clone(f.only) // includes missing files, which a pass reports
	for _, e := range entries {
		if name := e.Name(); strings.HasSuffix(name, suffix) && !e.IsDir() && !slices.Contains(f.only, name) {
			files = append(files, name)
		}
	}
	slices.Sort(files)
	return files, nil
}

// metricFile is an RRD file and the path of its metric.
type metricFile struct {
	*folder
	file    string
	path    string
	leftOut string // why the file is not pushed; "": it is pushed
}

// name returns the name of a file for log lines. If there are several folders, it
// returns the file's path.
func (p *Pusher) name(f metricFile) string {
	if len(p.folders) == 1 {
		return f.file
	}
	return filepath.Join(f.dir, f.file)
}

// maxNode is the maximum number of bytes in a node of a metric path. Graphite servers and
// graphite.Whisper make a file name of each node, of at most 255 bytes with a suffix such
// as ".wsp.new".
const maxNode = 247

// hasLongNode reports whether a node of a metric path is longer than maxNode.
func hasLongNode(path string) bool {
	return slices.ContainsFunc(strings.Split(path, "."), func(node string) bool { return len(node) > maxNode })
}

// list returns the RRD files of the sources, folder by folder, with the paths of their
// metrics. If it returns an error about unreadable folders, it still returns the files
// of the other folders.
func (p *Pusher) list() ([]metricFile, error) {
	var files []metricFile
	var errs []error
	first := map[string]metricFile{} // first file with each metric path
	var shared []string
	for _, dir := range p.folders {
		names, err := dir.files()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		empty := len(names) == 0
		if empty && p.Every == 0 {
			errs = append(errs, hint.New("source "+dir.dir+": no .rrd file in it", "name the folder that Tstat's option -R names; folders below it are not read"))
		} else if empty && !dir.empty {
			p.Log.Warn("no .rrd files", "folder", dir.dir)
		}
		dir.empty = empty
		p.sum.Files += int64(len(names))
		for _, file := range names {
			f := metricFile{folder: dir, file: file, path: file}
			if !p.Dest.exports() {
				if f.path = p.Naming(file); f.path == "" {
					f.leftOut = "has no name"
				} else if !p.Dest.labels() && hasLongNode(f.path) {
					f.path, f.leftOut = "", "has a name too long for a Whisper file"
				}
				if f.leftOut != "" {
					p.sum.Unnamed++
					files = append(files, f)
					continue
				}
				f.path = p.Prefix + "." + p.Probe + "." + f.path
			}
			if other, ok := first[f.path]; !ok {
				first[f.path] = f
			} else {
				p.sum.Shared++
				shared = append(shared, fmt.Sprintf("%s of %s and %s", f.path, p.name(other), p.name(f)))
				// Files of two histograms or two folders must not share a metric.
				// In the upstream naming, however, histograms do share metrics.
				if p.Mode != "upstream" || other.folder != f.folder {
					f.leftOut = "shares its metric with " + p.name(other)
				}
			}
			files = append(files, f)
		}
	}
	if len(shared) > 0 && !p.warnedShared {
		p.warnedShared = true
		p.Log.Warn("files share a metric", "files", len(shared), "examples", strings.Join(shared[:min(len(shared), 3)], ", "))
	}
	return files, errors.Join(errs...)
}
