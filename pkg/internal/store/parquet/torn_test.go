package parquet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
)

var soak = flag.Bool("soak", false, "damage every line of a manifest in every way")

var ctx = context.Background()

func fingerprintOf(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// importTexts stores texts, by folder, like the import engine. It skips stored
// texts. A text that starts with a stored text replaces it. Other texts are added.
func importTexts(s *Store, texts map[string]string) error {
	for _, folder := range slices.Sorted(maps.Keys(texts)) {
		key := store.Key{Probe: "p1", Folder: folder, File: "log_udp_complete"}
		known, err := s.Lookup(ctx, []store.Key{key})
		if err != nil {
			return err
		}
		text := texts[folder]
		stored := false
		var replace []store.Record
		for _, r := range known {
			if r.Length > int64(len(text)) {
				continue
			}
			switch head := fingerprintOf(text[:r.Length]); {
			case r.SHA256 == head && r.Length == int64(len(text)):
				stored = true
			case r.SHA256 == head:
				replace = append(replace, r)
			}
		}
		if stored {
			continue
		}
		if _, err := tryText(s, folder, text, replace...); err != nil && !errors.Is(err, store.ErrDuplicate) {
			return err
		}
	}
	return nil
}

// eventful creates a store with a history: logs that grew before and after they
// were compacted, a log that was recreated, and empty logs. It returns all texts
// in the order of their import.
func eventful(t *testing.T, dir string) []map[string]string {
	t.Helper()
	folder := func(day, hour int) string { return fmt.Sprintf("2016_03_%02d_%02d_00.out", day, hour) }
	first, second, third := map[string]string{}, map[string]string{}, map[string]string{}
	for day := 1; day <= 3; day++ {
		for hour := range 5 {
			first[folder(day, hour)] = text(1+hour, folder(day, hour))
		}
		first[folder(day, 6)] = text(0, "")
		second[folder(day, 1)] = text(9, folder(day, 1))
		third[folder(day, 2)] = text(8, folder(day, 2))
		third[folder(day, 3)] = text(7, "another head")
		third[folder(day, 6)] = text(3, folder(day, 6))
	}
	s := open(t, dir)
	defer s.Close()
	for _, texts := range []map[string]string{first, second} {
		if err := importTexts(s, texts); err != nil {
			t.Fatal(err)
		}
	}
	for f := range third {
		if strings.HasPrefix(f, "2016_03_03") {
			delete(third, f) // not even compacted
		}
	}
	compact(t, s)
	if err := importTexts(s, third); err != nil {
		t.Fatal(err)
	}
	return []map[string]string{first, second, third}
}

// damages returns variants of a text in which a line is cut off, has a flipped
// bit, is missing, is zeroed, or is repeated at the end.
func damages(whole []byte) map[string][]byte {
	out := map[string][]byte{}
	start := 0
	for n, line := range bytes.SplitAfter(whole, []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		add := func(how string, to ...[]byte) {
			out[fmt.Sprintf("line %d %s", n, how)] = bytes.Join(append([][]byte{whole[:start]}, to...), nil)
		}
		rest := whole[start+len(line):]
		add("and what follows lost")
		add("cut", line[:len(line)/2])
		add("cut before its end", line[:len(line)-1])
		add("lost", rest)
		add("zeroed", make([]byte, len(line)), rest)
		add("again at the end", line, rest, line)
		add("without its newline", line[:len(line)-1], rest)
		seen := map[string]bool{}
		for i, c := range line {
			class := "other"
			switch {
			case i < 8:
				class = "checksum"
			case c >= '0' && c <= '9':
				class = "digit"
			case c >= 'a' && c <= 'z':
				class = "letter"
			case c == '\n':
				class = "newline"
			case c == ' ', c == '"', c == ',', c == '{':
				class = string(c)
			}
			for _, bit := range []byte{1, 0x20, 0x80} {
				if at := fmt.Sprint(class, bit); !seen[at] {
					seen[at] = true
					add(fmt.Sprintf("flipped at %q by %#x", class, bit), line[:i], []byte{c ^ bit}, line[i+1:], rest)
				}
			}
		}
		start += len(line)
	}
	return out
}

// TestTornManifest damages the manifest of an eventful store. The next import of
// all logs leaves each row once, or fails and changes nothing.
func TestTornManifest(t *testing.T) {
	base := t.TempDir()
	texts := eventful(t, base)
	want := rows(t, base)
	path := filepath.Join(manifest.Dir, "manifest")
	whole, err := os.ReadFile(filepath.Join(base, path))
	if err != nil {
		t.Fatal(err)
	}
	harms := damages(whole)
	names := slices.Sorted(maps.Keys(harms))
	if !*soak {
		names = slices.Collect(func(yield func(string) bool) {
			for i := 0; i < len(names) && yield(names[i]); i += 29 {
			}
		})
	}
	t.Logf("%d of %d manifests, of %d lines", len(names), len(harms), bytes.Count(whole, []byte("\n")))
	refused := 0
	for _, name := range names {
		dir := filepath.Join(t.TempDir(), "store")
		copyStore(t, base, dir)
		if err := os.WriteFile(filepath.Join(dir, path), harms[name], 0o644); err != nil {
			t.Fatal(err)
		}
		for round := range 2 {
			s, err := Open(ctx, dir, Options{Memory: 1 << 20})
			if hint.Of(err) != "" { // the store refuses the manifest
				if !strings.HasPrefix(name, "line 0 ") {
					t.Errorf("%s: %v", name, err)
				}
				refused++
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if round > 0 && s.manifest.Damaged() > 0 {
				t.Errorf("%s: still damaged", name)
			}
			for _, one := range texts[len(texts)-1:] {
				if err := importTexts(s, one); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			for folder, text := range texts[0] {
				latest := text
				for _, one := range texts[1:] {
					if one[folder] != "" && strings.HasPrefix(one[folder], text) {
						latest = one[folder]
					}
				}
				if err := importTexts(s, map[string]string{folder: latest}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			s.Close()
		}
		if got := rows(t, dir); !maps.Equal(got, want) {
			t.Errorf("%s: %d rows, want %d", name, total(got), total(want))
		}
	}
	t.Logf("%d were refused", refused)
}

// copyStore copies a store with the times of its files.
func copyStore(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	for _, p := range files(t, from) {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		rel, _ := filepath.Rel(from, p)
		if err := os.Chtimes(filepath.Join(to, rel), info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
}
