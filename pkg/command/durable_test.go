package command

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// notDurable lists the calls that create, rename or sync files without package durable,
// by file, and why a power failure may undo them.
var notDurable = map[string]map[string]string{
	"pkg/internal/state/lock.go": {
		"os.MkdirAll": "locks end with the process; Save syncs the folder",
		"os.O_CREATE": "locks end with the process",
	},
	"pkg/internal/store/manifest/manifest.go": {"os.O_CREATE": "the flags for durable.OpenFile"},
	"pkg/internal/store/manifest/rewrite.go": {
		"os.MkdirAll": "temporary files are renamed from there, or removed",
		"os.O_CREATE": "temporary files",
		"os.Rename":   "rewrite syncs the folder",
	},
	"pkg/internal/store/parquet/parquet.go": {"os.Rename": "publish syncs the folder, and keeps the record if that fails"},
	"pkg/internal/store/parquet/compact.go": {
		"os.O_CREATE": "the lock, and large files in a folder that swap syncs",
		"os.MkdirAll": "a folder to work in, which swap exchanges and syncs",
		"os.Mkdir":    "a try whether folders can be exchanged",
	},
	"pkg/internal/store/parquet/swap.go": {"os.Link": "in a folder that swap syncs"},
	"pkg/internal/store/rawcopy/copy.go": {"os.Rename": "publish syncs the folder, and keeps the record if that fails"},
	"pkg/internal/mathproto/rewrite.go": {
		"os.MkdirAll":   "the folder of temporary files",
		"os.CreateTemp": "a file without a name",
	},
	"pkg/internal/graphite/whisper.go":      {"os.Rename": "Send syncs the folder after the last file"},
	"pkg/internal/testkit/exchange/plan.go": {"os.WriteFile": "recordings of tests"},
}

// creates matches the calls that package durable replaces.
var creates = regexp.MustCompile(`os\.(Mkdir|MkdirAll|MkdirTemp|Create|CreateTemp|WriteFile|Rename|Link|Symlink)\(|os\.O_CREATE\b|\b[a-z]+\.Sync\(\)`)

// TestDurableEverywhere checks that all code that creates or renames files uses
// package durable, or is listed with a reason.
func TestDurableEverywhere(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]map[string]bool{}
	for _, top := range []string{"cmd", "pkg"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			if d.IsDir() && (name == "pkg/internal/durable" || strings.HasSuffix(name, "test") || slices.Contains(programs, name)) {
				return fs.SkipDir
			}
			if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return nil
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			found[name] = map[string]bool{}
			for _, call := range creates.FindAllString(string(text), -1) {
				call = strings.TrimSuffix(call, "(")
				if call == "tx.Sync()" || call == "folder.Sync()" { // methods of a manifest and a durable.Folder
					continue
				}
				if notDurable[name][call] == "" && !found[name][call] {
					t.Errorf("%s: %s: use package durable, or say in notDurable why a power cut may undo it", name, call)
				}
				found[name][call] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, calls := range notDurable {
		for call := range calls {
			if !found[name][call] {
				t.Errorf("%s has no %s any more: remove it from notDurable", name, call)
			}
		}
	}
}
