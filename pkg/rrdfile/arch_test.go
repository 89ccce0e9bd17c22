//go:build linux

package rrdfile_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/rrdtest"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

// arch describes how C compilers lay out the structures of rrd_format.h. The sizes and
// offsets are those of gcc on Debian 12 (i686, arm, mips and s390x).
type arch struct {
	name    string
	order   binary.ByteOrder
	word    int
	cookie  int // offset of the float cookie
	counts  int // offset of the number of data sources
	head    int
	words   int // offset of the number of rows in an archive's definition
	archive int
	clock   int // size of time_t
	live    int
}

var archs = []arch{
	{"amd64", binary.LittleEndian, 8, 16, 24, 128, 24, 120, 8, 16},
	{"s390x", binary.BigEndian, 8, 16, 24, 128, 24, 120, 8, 16},
	{"i386", binary.LittleEndian, 4, 12, 20, 112, 20, 108, 4, 8},
	{"i386, 64-bit time", binary.LittleEndian, 4, 12, 20, 112, 20, 108, 8, 12},
	{"armhf", binary.LittleEndian, 4, 16, 24, 120, 20, 112, 4, 8},
	{"armhf, 64-bit time", binary.LittleEndian, 4, 16, 24, 120, 20, 112, 8, 16},
	{"mips", binary.BigEndian, 4, 16, 24, 120, 20, 112, 4, 8},
	{"mips, 64-bit time", binary.BigEndian, 4, 16, 24, 120, 20, 112, 8, 16},
}

// convert converts a database of this machine (amd64 or compatible) to the form that
// machine a would have written.
func (a arch) convert(text []byte, version string) []byte {
	in, at := binary.LittleEndian, 0
	var out []byte
	take := func(n int) []byte { at += n; return text[at-n : at] }
	word := func(b []byte, v uint64) {
		if a.word == 4 {
			a.order.PutUint32(b, uint32(v))
		} else {
			a.order.PutUint64(b, v)
		}
	}
	doubles := func(b []byte) {
		for i := 0; i < len(b); i += 8 {
			out = append(out, make([]byte, 8)...)
			a.order.PutUint64(out[len(out)-8:], in.Uint64(b[i:]))
		}
	}
	head := take(128)
	ds, rra := int(in.Uint64(head[24:])), int(in.Uint64(head[32:]))
	h := make([]byte, a.head-80)
	copy(h, "RRD\x00"+version)
	a.order.PutUint64(h[a.cookie:], in.Uint64(head[16:]))
	for i := range 3 {
		word(h[a.counts+i*a.word:], in.Uint64(head[24+8*i:]))
	}
	out = append(out, h...)
	doubles(head[48:])
	for range ds {
		d := take(120)
		out = append(out, d[:40]...)
		doubles(d[40:])
	}
	for range rra {
		d := take(120)
		w := make([]byte, a.archive-80)
		copy(w, d[:20])
		word(w[a.words:], in.Uint64(d[24:]))
		word(w[a.words+a.word:], in.Uint64(d[32:]))
		out = append(out, w...)
		doubles(d[40:])
	}
	live := take(16)
	l := make([]byte, a.live)
	if a.clock == 4 {
		a.order.PutUint32(l, uint32(in.Uint64(live)))
	} else {
		a.order.PutUint64(l, in.Uint64(live))
	}
	if version < "0003" {
		l = l[:a.clock]
	} else {
		word(l[a.clock:], in.Uint64(live[8:]))
	}
	out = append(out, l...)
	for range ds {
		d := take(112)
		out = append(out, d[:32]...)
		doubles(d[32:])
	}
	doubles(take(ds * rra * 80))
	for range rra {
		w := make([]byte, a.word)
		word(w, in.Uint64(take(8)))
		out = append(out, w...)
	}
	doubles(text[at:])
	return out
}

// series returns the points of a file after a Unix time.
func series(t *testing.T, r *rrdfile.Reader, path string, after int64) []rrdfile.Series {
	t.Helper()
	f, err := r.Read(path, after)
	if err != nil {
		t.Fatal(err)
	}
	list := slices.Clone(f.Series)
	for i := range list {
		list[i].Points = slices.Clone(list[i].Points)
	}
	return list
}

func TestReadForeignArchitectures(t *testing.T) {
	tool, r := rrdtest.Start(t), newReader(t)
	dir := t.TempDir()
	own := filepath.Join(dir, "own.rrd")
	last := history(t, tool, own)
	text, err := os.ReadFile(own)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range archs {
		for _, version := range []string{"0001", "0002", "0003", "0004", "0005"} {
			path := filepath.Join(dir, strings.ReplaceAll(a.name, " ", "_")+version)
			converted := a.convert(text, version)
			if a.name == "amd64" && version == "0003" && string(converted) != string(text) {
				t.Fatal("convert changes a database of its own machine")
			}
			if err := os.WriteFile(path, converted, 0o644); err != nil {
				t.Fatal(err)
			}
			for _, after := range []int64{0, last - 40_000, last - 1_000} {
				want, got := series(t, r, own, after), series(t, r, path, after)
				if len(want[0].Points) == 0 || !reflect.DeepEqual(got, want) {
					t.Errorf("%s, version %s, after %d: other points", a.name, version, after)
				}
			}
		}
	}
}

// TestReadUnknownArchitecture reads databases whose layout cannot be determined.
func TestReadUnknownArchitecture(t *testing.T) {
	r := newReader(t)
	text, err := os.ReadFile(filepath.Join(rrdtest.Samples(t), "ip_len_in.avg.rrd"))
	if err != nil {
		t.Fatal(err)
	}
	longer := append(archs[4].convert(text, "0003"), 0, 0, 0) // now the size of the file does not reveal that of time_t
	swapped := slices.Clone(text)
	copy(swapped[16:], text[20:24]) // the halves of its doubles, as ARM's FPA had them
	copy(swapped[20:], text[16:20])
	for name, text := range map[string][]byte{"longer": longer, "swapped": swapped} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := r.Read(path, 0)
		var hinted interface{ Hint() string }
		if !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), "rrdtool dump") || strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzRead checks that both decoders agree about any file, and that no file crashes the
// process.
func FuzzRead(f *testing.F) {
	dir := rrdtest.Samples(f)
	for _, name := range []string{"ip_len_in.avg.rrd", "step60/" + "ip_len_in.avg.rrd"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			f.Fatal(err)
		}
		for _, a := range archs {
			f.Add(a.convert(text, "0003"), int64(0))
			f.Add(a.convert(text, "0001"), int64(1458860000))
		}
	}
	r := newReader(f)
	path := filepath.Join(f.TempDir(), "fuzz.rrd")
	tool := rrdtest.Start(f)
	for i, l := range layouts {
		file := filepath.Join(f.TempDir(), strconv.Itoa(i))
		last := create(tool, file, l.step, l.parts)
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		// Two equal errors do not show that the decoders agree; only points do.
		if _, err := r.ReadOnce(file, 0); err != nil {
			f.Fatal(err)
		}
		f.Add(text, int64(0))
		f.Add(archs[i%len(archs)].convert(text, "0003"), last-30*l.step)
	}
	f.Fuzz(func(t *testing.T, text []byte, after int64) {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := r.ReadOnce(path, after)
		var differ *rrdfile.DifferenceError
		if errors.As(err, &differ) {
			t.Fatal(err)
		}
	})
}
