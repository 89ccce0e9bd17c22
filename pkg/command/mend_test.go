package command

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/upkeep"
)

// TestMends checks that the commands printed by store verify repair the store: a later
// verify --deep finds nothing, and every log is stored.
func TestMends(t *testing.T) {
	const (
		log    = "2024_05_01_01_00.out/log_udp_complete"
		copied = "2024_05_02_01_00.out/log_udp_complete"
		file   = "type=log_udp_complete/probe=p1/date=2024-05-01/2024_05_01_01_00.parquet"
	)
	write := func(t *testing.T, path string, text []byte) {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func(t *testing.T, path string) []byte {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	type finding struct{ Kind, Path string }
	for _, test := range []struct {
		name, kind          string
		scheme, store, logs string // store and logs are subfolders of old
		log                 string // file in logs to import again
		spoil               func(t *testing.T, dir string)
	}{
		{"cr", store.CR, "parquet", "crlf", "crlf-logs", "2024_05_01_00_00.out/log_udp_complete", func(*testing.T, string) {}},
		{"rows", upkeep.Rows, "parquet", "parquet", "logs", log, func(t *testing.T, dir string) {
			// Store the file under the name of another log, so that the rows of that
			// log are stored twice.
			write(t, filepath.Join(dir, file), read(t, filepath.Join(dir, strings.Replace(file, "01_01_00", "01_02_00", 1))))
		}},
		{"damaged page", store.Damaged, "parquet", "parquet", "logs", log, func(t *testing.T, dir string) {
			text := read(t, filepath.Join(dir, file))
			copy(text[20:], bytes.Repeat([]byte{0xff}, 20))
			write(t, filepath.Join(dir, file), text)
		}},
		{"damaged page of a merged file", store.Damaged, "parquet", "parquet", "logs", log, func(t *testing.T, dir string) {
			if out, err := storeCommandOf(t.TempDir(), "compact", "--closed-after", "0s", "parquet:"+dir).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			merged, err := filepath.Glob(filepath.Join(dir, filepath.Dir(file), "2024-05-01.*.parquet"))
			if err != nil || len(merged) != 1 {
				t.Fatal(merged, err)
			}
			text := read(t, merged[0])
			copy(text[20:], bytes.Repeat([]byte{0xff}, 20))
			write(t, merged[0], text)
		}},
		{"damaged copy", store.Damaged, "copy", "copy", "logs", copied, func(t *testing.T, dir string) {
			path := filepath.Join(dir, "p1", copied)
			write(t, path, bytes.ToUpper(read(t, path)))
		}},
		{"unreadable", store.Unreadable, "parquet", "parquet", "logs", log, func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, file), []byte("not a file of Parquet"))
		}},
		{"damaged manifest", store.Unrecorded, "parquet", "parquet", "logs", log, func(t *testing.T, dir string) {
			path := filepath.Join(dir, manifest.Dir, "manifest")
			write(t, path, bytes.Replace(read(t, path), []byte(`"length":`), []byte(`"length":1`), 1))
		}},
		{"damaged manifest of copies", store.Unrecorded, "copy", "copy", "logs", copied, func(t *testing.T, dir string) {
			path := filepath.Join(dir, manifest.Dir, "manifest")
			write(t, path, bytes.Replace(read(t, path), []byte(`"length":`), []byte(`"length":1`), 1))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			top := t.TempDir()
			state, dir, source := filepath.Join(top, "state"), filepath.Join(top, "store"), filepath.Join(top, "logs")
			for from, to := range map[string]string{test.store: dir, test.logs: source} {
				if err := os.CopyFS(to, os.DirFS(filepath.Join(old, from))); err != nil {
					t.Fatal(err)
				}
			}
			test.spoil(t, dir)
			dest := test.scheme + ":" + dir
			out, err := storeCommandOf(state, "verify", "--deep", dest).Output()
			var rep struct {
				Findings []finding
				Mend     map[string]string
			}
			if jerr := json.Unmarshal(out, &rep); err == nil || jerr != nil {
				t.Fatalf("verify: %v, %v: %s", err, jerr, out)
			}
			if rep.Mend[test.kind] == "" {
				t.Fatalf("verify names nothing that mends %s: %s", test.kind, out)
			}
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			for _, kind := range slices.Sorted(maps.Keys(rep.Mend)) {
				command, move := strings.CutPrefix(rep.Mend[kind], "move the files out of the store, then ")
				command = strings.TrimSuffix(command, ", or remove the copies")
				for _, f := range rep.Findings {
					if move && f.Kind == kind {
						if err := os.Rename(filepath.Join(dir, f.Path), filepath.Join(top, "moved")); err != nil {
							t.Fatal(err)
						}
					}
				}
				args := strings.Fields(strings.Replace(command, "--probe PROBE", "--probe p1", 1))
				switch last := &args[len(args)-1]; *last {
				case "LOG":
					*last = filepath.Join(source, test.log)
				case "SOURCE":
					*last = source
				}
				cmd := &exec.Cmd{Path: exe, Args: args, Env: append(os.Environ(), "TSTATREPO_TIMEZONE=UTC", "TSTATREPO_INCLUDE_OPEN=true",
					"TSTATREPO_STATE_DIR="+state)}
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v: %s", command, err, out)
				}
			}
			final := storeOnce(t, state, "verify", "--deep", "--against", source, "--probe", "p1", "--timezone", "UTC", "--include-open", dest)
			if !strings.Contains(final, `"findings": []`) {
				t.Errorf("verify after the commands: %s", final)
			}
		})
	}
}
