package rawcopy

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/manifest"
)

// importLog stores a copy like the import engine: it skips a stored text, and
// replaces a text that has grown. data is text, or text compressed.
func importLog(t *testing.T, s *Store, name, text string, data []byte) {
	t.Helper()
	key := store.Key{Probe: "p1", Folder: "2016_03_24_21_37.out", File: strings.TrimSuffix(filepath.Base(name), ".gz")}
	sum := sha256.Sum256([]byte(text))
	rec := store.Record{Key: key, Fingerprint: store.Fingerprint{SHA256: hex.EncodeToString(sum[:]), Length: int64(len(text))}}
	known, err := s.Lookup(t.Context(), []store.Key{key})
	if err != nil {
		t.Fatal(err)
	}
	var replace []store.Record
	for _, r := range known {
		head := sha256.Sum256([]byte(text[:min(r.Length, rec.Length)]))
		switch {
		case r.SHA256 == rec.SHA256:
			return
		case hex.EncodeToString(head[:]) == r.SHA256:
			replace = append(replace, r)
		}
	}
	tx, err := s.BeginRaw(t.Context(), store.FileInfo{Key: key, Name: key.Probe + "/" + name})
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.WriteRaw(t.Context(), data); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context(), rec, known, replace); err != nil {
		t.Fatal(err)
	}
}

func compressed(text string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(text))
	z.Close()
	return b.Bytes()
}

// TestTornManifest damages each line of the manifest of grown and of plain copies.
// The logs are then compressed. The next import leaves one copy of each log.
func TestTornManifest(t *testing.T) {
	base := t.TempDir()
	texts := map[string]string{"a": "#h:1\n1\n2\n", "b": "#h:1\n3\n", "c": "#h:1\n5\n6\n7\n", "d": "#h:1\n8\n"}
	s := open(t, base)
	for name, text := range texts {
		importLog(t, s, "f.out/log_"+name, text[:len(text)-2], []byte(text[:len(text)-2]))
	}
	for name, text := range texts {
		importLog(t, s, "f.out/log_"+name, text, []byte(text))
	}
	s.Close()
	path := filepath.Join(manifest.Dir, "manifest")
	whole, err := os.ReadFile(filepath.Join(base, path))
	if err != nil {
		t.Fatal(err)
	}
	var harmed [][]byte
	lines := bytes.SplitAfter(whole, []byte("\n"))
	start := 0
	for _, line := range lines[:len(lines)-1] {
		flipped := bytes.Clone(whole)
		flipped[start+len(line)/2] ^= 1
		harmed = append(harmed, whole[:start], whole[:start+len(line)/2], flipped, append(bytes.Clone(whole[:start]), whole[start+len(line):]...))
		start += len(line)
	}
	for i, m := range harmed {
		dir := filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), m, 0o644); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			s, err := Open(t.Context(), dir, Options{}, false, nil)
			if err != nil {
				t.Fatalf("harm %d: %v", i, err)
			}
			for name, text := range texts {
				importLog(t, s, "f.out/log_"+name+".gz", text, compressed(text))
			}
			s.Close()
		}
		files, err := os.ReadDir(filepath.Join(dir, "p1", "f.out"))
		if err != nil || len(files) != len(texts) {
			t.Errorf("harm %d: %v, %v", i, files, err)
		}
	}
}

// TestVerifyGzip checks that Verify with Deep finds compressed copies that are
// damaged, even if their text is complete, and truncated copies, unless their
// source was truncated.
func TestVerifyGzip(t *testing.T) {
	const text = "#h:1\n1\n2\n"
	dir := t.TempDir()
	s := open(t, dir)
	defer s.Close()
	data := compressed(text)
	for _, name := range []string{"sound", "damaged", "cut"} {
		importLog(t, s, "f.out/log_"+name+".gz", text, data)
	}
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "p1/f.out/log_"+name+".gz"), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	wrong := bytes.Clone(data)
	wrong[len(wrong)-8] ^= 1 // its checksum
	write("damaged", wrong)
	short := data[:len(data)-4]
	write("cut", short)
	for _, e := range []manifest.Entry{{Record: store.Record{Damaged: true}}, {Record: store.Record{Cut: 1}}} {
		name, data := "stored-damaged", wrong
		if e.Cut > 0 {
			name, data = "stored-cut", short
		}
		write(name, data)
		sum := sha256.Sum256([]byte(text))
		e.Fingerprint = store.Fingerprint{SHA256: hex.EncodeToString(sum[:]), Length: int64(len(text))}
		e.Location = "p1/f.out/log_" + name + ".gz"
		e.Key = store.Key{Probe: "p1", Folder: "f.out", File: name}
		if err := s.manifest.Update(t.Context(), func(tx *manifest.Tx) error { tx.Put(e); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	err := s.Verify(t.Context(), store.VerifyOptions{Deep: true, Fault: func(f store.Fault) {
		got = append(got, f.Kind+" "+f.Key.File+" "+f.Reason)
	}})
	slices.Sort(got)
	want := []string{"damaged log_cut the end of the compressed file is missing", "damaged log_damaged gzip: invalid checksum"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("found %q, want %q, %v", got, want, err)
	}
}

// TestNamesNotUTF8 checks that a copy in a folder whose name is not UTF-8 is found,
// counted and pruned.
func TestNamesNotUTF8(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	names := []string{"caf\xe9-i/f.out/log_a", `back\xe9slash/f.out/log_b`, "caf\u00e9/f.out/log_c"}
	for _, name := range names {
		importLog(t, s, name, "#h:1\n1\n2\n", []byte("#h:1\n1\n2\n"))
	}
	s.Close()
	s = open(t, dir)
	defer s.Close()
	var locations []string
	err := s.Records(t.Context(), func(r store.Record) error {
		locations = append(locations, r.Location)
		return nil
	})
	slices.Sort(locations)
	if err != nil || !slices.Equal(locations, []string{"p1/" + names[1], "p1/" + names[2], "p1/" + names[0]}) {
		t.Errorf("locations %q, %v", locations, err)
	}
	if res, err := s.Prune(t.Context(), time.Now(), false); err != nil || res.Files != 3 || res.Bytes == 0 {
		t.Errorf("%+v, %v", res, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "p1")); err == nil {
		t.Errorf("left over: %v", left)
	}
	for _, name := range names {
		importLog(t, s, name, "#h:1\n1\n2\n", []byte("#h:1\n1\n2\n")) // still known
	}
	if left, err := os.ReadDir(filepath.Join(dir, "p1")); err == nil {
		t.Errorf("stored again: %v", left)
	}
}

// TestPruneFails checks that a copy that cannot be removed is reported and keeps
// its record, and that other copies are pruned.
func TestPruneFails(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for _, name := range []string{"f.out/log_a", "f.out/log_b", "f.out/log_c"} {
		importLog(t, s, name, "#h:1\n1\n", []byte("#h:1\n1\n"))
	}
	stuck := filepath.Join(dir, "p1", "f.out", "log_b")
	if err := errors.Join(os.Remove(stuck), os.MkdirAll(filepath.Join(stuck, "in the way"), 0o755)); err != nil {
		t.Fatal(err)
	}
	check := func(files int64) {
		t.Helper()
		res, err := s.Prune(t.Context(), time.Now(), false)
		if err == nil || !strings.Contains(err.Error(), stuck) || res.Files != files {
			t.Errorf("%+v, %v", res, err)
		}
		pruned := 0
		s.Records(t.Context(), func(r store.Record) error {
			if !r.Pruned.IsZero() {
				pruned++
			}
			if r.File == "log_b" && (!r.Pruned.IsZero() || r.Location == "") {
				t.Errorf("its record: %+v", r)
			}
			return nil
		})
		if pruned != 2 {
			t.Errorf("%d records are pruned, want 2", pruned)
		}
	}
	check(2)
	check(0)
	s.Close()
	s = open(t, dir)
	defer s.Close()
	check(0)
}
