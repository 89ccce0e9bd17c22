package tstat

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestSerials(t *testing.T) {
	folder := time.Date(2016, 3, 24, 21, 37, 0, 0, time.UTC)
	for _, c := range []struct {
		name, typ, text string
		want            []int64
	}{
		{"tcp 3: last", "log_tcp_complete", "#c_ip:1 first:2 last:3 durat:4\n" +
			"::1 1458855363890.134 1458855441400.883 77510.749\n::1 1 1458855441999.999 1\n::1 1 0.0 1\n::1 1 - 1\n",
			[]int64{1458855441, 1458855441, folder.Unix(), folder.Unix()}},
		// As a double, this is 1458855442 seconds after the division.
		{"tcp 3: the last bit", "log_tcp_complete", "#c_ip:1 last:2\n::1 1458855441999.9999\n", []int64{1458855442}},
		{"tcp 2.4: first_abs + durat", "log_tcp_complete", "#c_ip:1 first:2 last:3 durat:4 first_abs:5\n::1 5.0 77.0 2500.0 1458855363890.0\n::1 5.0 77.0 2500.0 -\n",
			[]int64{1458855366, folder.Unix()}},
		{"video 2.4: first_abs + last", "log_video_complete", "#c_ip:1 first:2 last:3 durat:4 first_abs:5\n::1 5.0 9000.5 2500.0 1458855363890.0\n::1 5.0 - 2500.0 1458855363890.0\n",
			[]int64{1458855372, 1458855366}},
		{"video 3: last", "log_video_complete", "#c_ip:1 first:2 last:3\n::1 1458855363890.0 1458855441400.0\n", []int64{1458855441}},
		{"udp: the later end", "log_udp_complete", "#c_ip:1 c_first_abs:2 c_durat:3 s_first_abs:4 s_durat:5\n::1 1458855363000.0 1000.0 1458855362000.0 9000.0\n::1 1458855363000.0 1000.0 - -\n",
			[]int64{1458855371, 1458855364}},
		{"nothing absolute", "log_tcp_complete", "#c_ip:1 durat:2\n::1 5\n", []int64{folder.Unix()}},
	} {
		r := NewReader(strings.NewReader(c.text), TypeByName(c.typ), ReaderOptions{})
		b, err := r.Next()
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := b.Serials(folder); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestSerialsMatchFloatingPoint checks that the second equals that of the
// floating-point computation, near the turn of a second and elsewhere.
func TestSerialsMatchFloatingPoint(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	var text strings.Builder
	text.WriteString("#c_ip:1 last:2\n")
	var want []int64
	for i := range 20_000 {
		nano := (1_458_855_441+rnd.Int64N(5e8))*1e9 + rnd.Int64N(1e9)
		if i%2 == 0 {
			nano -= nano%1e9 + rnd.Int64N(6000) - 3000
		}
		last := fmt.Sprintf("%d.%0*d", nano/1e6, 1+i%6, nano%1e6/int64(math.Pow10(5-i%6)))
		ms, err := strconv.ParseFloat(last, 64)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "::1 %s\n", last)
		want = append(want, int64(ms/1000))
	}
	r := NewReader(strings.NewReader(text.String()), TypeByName("log_tcp_complete"), ReaderOptions{})
	for len(want) > 0 {
		b, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got := b.Serials(time.Time{}); !slices.Equal(got, want[:len(got)]) {
			t.Fatal("seconds differ")
		}
		want = want[b.Len():]
	}
}

func TestRaw(t *testing.T) {
	text := "#s_ip:1 novel:2 c_ip:3\n::1 -- 007\n:: x -\n"
	r := NewReader(strings.NewReader(text), TypeByName("log_tcp_complete"), ReaderOptions{})
	b, err := r.Next()
	if err != nil || b.Len() != 2 {
		t.Fatal(b, err)
	}
	var raw [][]byte
	for i, want := range [][3]string{{"::1", "--", "007"}, {"::", "x", "-"}} {
		raw = b.Raw(i, raw)
		n := 0
		for c, f := range raw {
			if f != nil {
				n++
			}
			if c < len(r.Columns()) && r.Columns()[c].Name == "novel" && string(f) != want[1] {
				t.Errorf("row %d: novel is %q", i, f)
			}
		}
		if s, c := b.Type.Column("s_ip"), b.Type.Column("c_ip"); n != 3 || string(raw[s]) != want[0] || string(raw[c]) != want[2] {
			t.Errorf("row %d: %d fields, %q, %q", i, n, raw[s], raw[c])
		}
	}
}

// TestMarkLine checks the count of lines up to a mark.
func TestMarkLine(t *testing.T) {
	first := "#c_ip:1\n::1\n::2\n"
	r := NewReader(strings.NewReader(first+"::3\n::4\n"), TypeByName("log_udp_complete"), ReaderOptions{Marks: []int64{int64(len(first)), 8}})
	if err := r.Drain(); err != nil {
		t.Fatal(err)
	}
	if a, b := r.MarkLine(int64(len(first))), r.MarkLine(8); a != 3 || b != 1 {
		t.Errorf("%d and %d lines, want 3 and 1", a, b)
	}
}
