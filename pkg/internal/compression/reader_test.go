package compression

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func load(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// read reads a compressed file.
func read(t testing.TB, r *Reader, src io.Reader, data []byte) (string, error) {
	t.Helper()
	f, err := Detect(data)
	if f == nil || err != nil {
		t.Fatalf("detected %v, %v", f, err)
	}
	r.Reset(f, src)
	var text bytes.Buffer
	_, err = text.ReadFrom(steady{t, r})
	if n, again := r.Read(make([]byte, 1)); n > 0 || err == nil && again != io.EOF || err != nil && again != err {
		t.Errorf("after the end: %d bytes, %v; first %v", n, again, err)
	}
	return text.String(), err
}

// steady fails a test if a read returns neither text nor an error. The reader
// of a growing log would take this for the end of the log.
type steady struct {
	testing.TB
	r io.Reader
}

func (s steady) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if n == 0 && err == nil {
		s.Error("a read returned nothing")
	}
	return n, err
}

// TestReaderDecompressesAllFormats reads files that the formats' own tools wrote: whole,
// concatenated, and followed by other bytes.
func TestReaderDecompressesAllFormats(t *testing.T) {
	plain := string(load(t, "text"))
	r := new(Reader) // reused for all files, as in an import
	check := func(name, want string, wantErr error, data ...[]byte) {
		t.Helper()
		all := slices.Concat(data...)
		for how, src := range map[string]io.Reader{"at once": bytes.NewReader(all), "byte by byte": iotest.OneByteReader(bytes.NewReader(all))} {
			got, err := read(t, r, src, all)
			if got != want || !errors.Is(err, wantErr) || wantErr == nil && err != nil {
				t.Errorf("%s, %s: %d bytes, %v; want %d, %v", name, how, len(got), err, len(want), wantErr)
			}
		}
	}
	empty := map[string]string{
		"gz":  "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"zst": "\x28\xb5\x2f\xfd\x24\x00\x01\x00\x00\x99\xe9\xd8\x51", "bz2": "BZh9\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00",
		"xz":  "\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46\x00\x00\x00\x00\x1c\xdf\x44\x21\x1f\xb6\xf3\x7d\x01\x00\x00\x00\x00\x04\x59\x5a",
		"lz4": "\x04\x22\x4d\x18\x64\x40\xa7\x00\x00\x00\x00\x05\x5d\xcc\x02",
	}
	for _, name := range []string{"text.gz", "text.zst", "text.xz", "text.bz2", "text.lz4", "pzstd.zst", "plain.zst", "long27.zst", "blocks.xz", "dict64.xz", "linked.lz4", "legacy.lz4"} {
		data, zeros := load(t, name), make([]byte, 512)
		check(name, plain, nil, data)
		if name == "legacy.lz4" {
			continue // this format has no end mark
		}
		nothing := []byte(empty[strings.TrimPrefix(filepath.Ext(name), ".")])
		check(name+", two members", plain+plain, nil, data, data)
		check(name+", empty members", plain+plain, nil, nothing, data, nothing, nothing, data, nothing)
		check(name+", zeros", plain, nil, data, zeros)
		check(name+", zeros over several reads", plain, nil, data, make([]byte, 2*bufferSize))
		check(name+", text", plain, ErrGarbage, data, []byte("this is not compressed"))
		check(name+", zeros and text", plain, ErrGarbage, data, zeros, []byte("this is not compressed"))
		broken := errors.New("input/output error")
		for _, n := range []int{10, len(data) / 2, len(data)} {
			if _, err := read(t, r, io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(broken)), data); !errors.Is(err, broken) {
				t.Errorf("%s, the disk fails after %d bytes: %v", name, n, err)
			}
		}
	}
}

// pzstdFrame is the length of the skippable frame at the start of pzstd's
// files.
const pzstdFrame = 12

// TestTruncatedFileIsReported checks that a truncated file is distinguished from a damaged
// one, wherever it was cut.
func TestTruncatedFileIsReported(t *testing.T) {
	plain := string(load(t, "text"))
	for _, name := range []string{"text.gz", "text.zst", "text.xz", "text.bz2", "text.lz4", "pzstd.zst", "blocks.xz", "linked.lz4"} {
		data := load(t, name)
		r := new(Reader)
		for n := MagicSize; n < len(data); n += 1 + n/100 {
			if name == "pzstd.zst" && n == pzstdFrame {
				continue
			}
			got, err := read(t, r, bytes.NewReader(data[:n]), data)
			if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.HasPrefix(plain, got) {
				t.Errorf("%s: first %d of %d bytes: %d bytes of text, %v", name, n, len(data), len(got), err)
			}
		}
		for n := 1; n < 20; n++ { // bytes of a second member
			if name == "pzstd.zst" && n == pzstdFrame {
				continue
			}
			got, err := read(t, r, bytes.NewReader(slices.Concat(data, data[:n])), data)
			if !errors.Is(err, io.ErrUnexpectedEOF) || got != plain {
				t.Errorf("%s: first %d bytes of a second member: %d bytes of text, %v", name, n, len(got), err)
			}
		}
	}
}

// TestDamagedFileIsReported checks that no flipped bit changes the text without an error.
func TestDamagedFileIsReported(t *testing.T) {
	plain := string(load(t, "text"))
	for _, name := range []string{"text.gz", "text.zst", "text.xz", "text.bz2", "text.lz4"} {
		data := load(t, name)
		r := new(Reader)
		damaged := 0
		for i := MagicSize; i < len(data); i += 3 {
			flipped := bytes.Clone(data)
			flipped[i] ^= 1 << (i % 8)
			got, err := read(t, r, bytes.NewReader(flipped), data)
			if err == nil && got != plain {
				t.Errorf("%s: bit in byte %d: %d bytes of text without an error", name, i, len(got))
			}
			if err != nil {
				damaged++
			}
		}
		if damaged < len(data)*9/30 {
			t.Errorf("%s: %d errors of %d bytes", name, damaged, len(data))
		}
	}
}

// TestMemoryIsLimited checks that a file that needs too much memory is refused with a
// hint before the memory is allocated, wherever in the file this occurs.
func TestMemoryIsLimited(t *testing.T) {
	for name, want := range map[string]string{"long28.zst": "zstd -19", "dict65.xz": "xz -9"} {
		data := load(t, name)
		first := load(t, "text"+filepath.Ext(name))
		for _, all := range [][]byte{data, slices.Concat(first, data)} {
			before := allocated()
			_, err := read(t, new(Reader), bytes.NewReader(all), all)
			if n := allocated() - before; n > 20<<20 {
				t.Errorf("%s: %d bytes allocated", name, n)
			}
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(e.Hint(), want) || !strings.Contains(e.Error(), filepath.Ext(name)[1:3]) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	needed := func(data string) uint64 {
		before := allocated()
		_, err := read(t, new(Reader), strings.NewReader(data), []byte(data))
		if err == nil {
			t.Errorf("%q is read", data)
		}
		return allocated() - before
	}
	for name, data := range map[string]string{
		"window of 3.75 TB":         "\x28\xb5\x2f\xfd\x00\xff\x00\x00\x00\x00\x00",
		"frame of 16 EB":            "\x28\xb5\x2f\xfd\xe0\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00\x00",
		"skippable frame of 4 GiB":  "\x50\x2a\x4d\x18\xff\xff\xff\xffx",
		"lz4 skippable after frame": string(load(t, "text.lz4")) + "\x50\x2a\x4d\x18\xff\xff\xff\xffx",
	} {
		if n := needed(data); n > 20<<20 {
			t.Errorf("%s: %d bytes allocated", name, n)
		}
	}
}

// allocated returns the number of bytes allocated so far.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func TestDetect(t *testing.T) {
	for head, want := range map[string]string{
		"": "", "#c_ip:": "", "10.0.0": "", "\x1f": "", "BZ": "", "\x1f\x8b": "gzip", "BZh91A": "bzip2", "\xfd7zXZ\x00": "xz", "\xfd7zXZ": "",
		"\x28\xb5\x2f\xfd": "zstd", "\x53\x2a\x4d\x18\x04\x00": "zstd", "\x04\x22\x4d\x18": "lz4",
	} {
		f, err := Detect([]byte(head))
		if err != nil || (f == nil) != (want == "") || f != nil && f.Name != want {
			t.Errorf("%q: %v, %v; want %q", head, f, err, want)
		}
	}
	var e *Error
	if f, err := Detect([]byte("LZIP\x01\x0c")); f != nil || !errors.As(err, &e) || e.Error() != "compressed with lzip, not read" || !strings.HasPrefix(e.Hint(), "decompress it: lzip -d") {
		t.Errorf("lzip: %v, %v", f, err)
	}
}

func TestCutSuffix(t *testing.T) {
	for name, want := range map[string][2]string{
		"log_tcp_complete": {"log_tcp_complete", ""}, "log_tcp_complete.gz": {"log_tcp_complete", ".gz"}, "log_tcp_complete.zst": {"log_tcp_complete", ".zst"},
		"a.gz.xz": {"a.gz", ".xz"}, "a.zstd": {"a.zstd", ""}, ".lz4": {"", ".lz4"},
	} {
		if plain, suffix := CutSuffix(name); plain != want[0] || suffix != want[1] {
			t.Errorf("%s: %q, %q", name, plain, suffix)
		}
	}
}

// FuzzReader checks that no input panics, and that the sizes of reads do not
// matter.
func FuzzReader(f *testing.F) {
	files, err := filepath.Glob("testdata/*.*")
	if err != nil || len(files) < 10 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		if strings.Contains(name, "long27") || strings.Contains(name, "dict64") {
			continue // slow
		}
		f.Add(load(f, filepath.Base(name)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		format, err := Detect(data)
		if format == nil || err != nil {
			return
		}
		const most = 4 << 20
		var texts [2]string
		var errs [2]error
		for i, src := range []io.Reader{bytes.NewReader(data), iotest.HalfReader(bytes.NewReader(data))} {
			r := new(Reader)
			r.Reset(format, src)
			var text strings.Builder
			_, errs[i] = io.Copy(&text, io.LimitReader(r, most))
			texts[i] = text.String()
		}
		if texts[0] != texts[1] || (errs[0] == nil) != (errs[1] == nil) || errors.Is(errs[0], io.ErrUnexpectedEOF) != errors.Is(errs[1], io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes, %v; in parts %d bytes, %v", len(texts[0]), errs[0], len(texts[1]), errs[1])
		}
	})
}
