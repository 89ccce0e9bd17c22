package tstat

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
)

// TestEveryColumnIsClassified checks the privacy classes in the table of columns.
// parseTypes rejects a column without a class.
func TestEveryColumnIsClassified(t *testing.T) {
	for _, typ := range Types() {
		seen := map[Privacy]string{}
		for _, c := range slices.Concat(typ.Columns, typ.Optional) {
			switch is := c.Privacy; {
			case is == Unclassified:
				t.Errorf("%s: %s is not classified", typ.Name, c.Name)
			case (is == ClientAddress || is == ServerAddress || is == ResolverAddress) != (c.Unit == "address"):
				t.Errorf("%s: %s has unit %q and class %d", typ.Name, c.Name, c.Unit, is)
			case is != Impersonal && is < ClientInternal && c.Kind != Text, is >= ClientInternal && c.Kind != Bool:
				t.Errorf("%s: %s is a %s of class %d", typ.Name, c.Name, c.Kind, is)
			case is != Impersonal && is != HostName && is != Content && is != FreeText && seen[is] != "":
				t.Errorf("%s: %s and %s are the same", typ.Name, c.Name, seen[is])
			default:
				seen[is] = c.Name
			}
			lower := strings.ToLower(c.Name)
			if personal := []string{"ip", "host", "sni", "scn", "fqdn", "cookie", "refer", "agent", "_id1", "path", "location", "query", "answer"}; c.Kind == Text &&
				slices.ContainsFunc(personal, func(word string) bool { return strings.Contains(lower, word) }) && c.Privacy == Impersonal {
				t.Errorf("%s: %s is classified as impersonal", typ.Name, c.Name)
			}
		}
		if !typ.HasAddresses() {
			continue
		}
		for _, p := range []Privacy{ClientAddress, ServerAddress} {
			if seen[p] == "" {
				t.Errorf("%s: one address only", typ.Name)
			}
		}
		// If a line is parsed with the layout of another version, the wrong place of an
		// address must reveal the mistake.
		for _, a := range typ.layouts {
			for _, b := range typ.layouts {
				if a.part == b.part && len(a.columns) == len(b.columns) && !slices.Contains([]int{23, 105, 130}, len(a.columns)) && typ.mistaken(a, b) {
					t.Errorf("%s: a line of %s can be taken for one of %s", typ.Name, a.version, b.version)
				}
			}
		}
	}
	for _, table := range []string{"type\tlog_x\tblank\ncolumn\ta\tint\t\tcount\n", "type\tlog_x\tblank\ncolumn\ta\tint\t\tcount\tsecret\n"} {
		if _, err := parseTypes(table); err == nil {
			t.Errorf("%q was accepted", table)
		}
	}
}

// mistaken reports whether a line of layout a can be parsed with layout b although a
// personal value is in another place.
func (t *LogType) mistaken(a, b *layout) (mistaken bool) {
	privacy := func(c int) Privacy {
		if c < 0 {
			return Impersonal
		}
		return t.Columns[c].Privacy
	}
	for f := range a.columns {
		x, y := privacy(a.columns[f]), privacy(b.columns[f])
		mistaken = mistaken || x != y
		if isAddress := y == ClientAddress || y == ServerAddress; isAddress && x == Impersonal {
			return false
		}
	}
	return mistaken
}

// TestRewrittenTextIsRead replaces the text of plain and compressed files, with and
// without a goroutine.
func TestRewrittenTextIsRead(t *testing.T) {
	const line = "1.0 1 2 3 4 5 6\n"
	text := strings.Repeat(line, 1000)
	want, err := read(t, strings.NewReader(strings.ReplaceAll(text, "6", "7")), "log_l3_bitrate", ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var compressed bytes.Buffer
	zw := gzip.NewWriter(&compressed)
	zw.Write([]byte(text))
	zw.Close()
	for _, ahead := range []bool{false, true} {
		for name, data := range map[string][]byte{"plain": []byte(text), "gzip": compressed.Bytes()} {
			opt := ReaderOptions{Ahead: ahead, Rewrite: func(r io.Reader) io.Reader {
				all, err := io.ReadAll(r)
				if err != nil {
					return iotest.ErrReader(err)
				}
				return strings.NewReader(strings.ReplaceAll(string(all), "6", "7"))
			}}
			got, err := read(t, bytes.NewReader(data), "log_l3_bitrate", opt)
			if err != nil || got.sha != want.sha || got.counts.Rows != 1000 {
				t.Errorf("%s, ahead %v: %d rows, %v", name, ahead, got.counts.Rows, err)
			}
			failed := errors.New("cannot rewrite")
			opt.Rewrite = func(r io.Reader) io.Reader { return iotest.ErrReader(&RewriteError{failed}) }
			if _, err := read(t, bytes.NewReader(data), "log_l3_bitrate", opt); !errors.Is(err, failed) {
				t.Errorf("%s, ahead %v: %v", name, ahead, err)
			}
		}
	}
	// Text that cannot be decompressed cannot be rewritten, even if the file is only
	// copied.
	rd := NewReader(strings.NewReader("PK\x03\x04 is ZIP"), TypeByName("log_l3_bitrate"), ReaderOptions{Rewrite: func(r io.Reader) io.Reader { return r }})
	var ce *CompressionError
	if err := rd.Drain(); !errors.As(err, &ce) {
		t.Error(err)
	}
}

// TestRemovedLinesAreRejects reads placeholders of removed lines.
func TestRemovedLinesAreRejects(t *testing.T) {
	removed := string(AppendRemoved(nil, "too secret"))
	text := removed + "1.0 1 2 3 4 5 6\n" + removed + "1.0 1 2 3 4 5 6\n"
	got, err := read(t, strings.NewReader(text), "log_l3_bitrate", ReaderOptions{})
	if err != nil || got.counts.Rows != 2 || got.counts.Rejects != 2 || !slices.Equal(got.rejects, []string{"1: too secret", "3: too secret"}) {
		t.Errorf("%+v %v %v", got.counts, got.rejects, err)
	}
	rd := NewReader(strings.NewReader("#a:1\n"+text), TypeByName("log_l3_bitrate"), ReaderOptions{})
	if err := rd.Drain(); err != nil {
		t.Fatal(err)
	}
	if c := rd.Counts(); c.Lines != 4 || c.Rows != 2 || c.Rejects != 2 {
		t.Errorf("drained: %+v", c)
	}
	if _, err := NewLines(TypeByName("log_l3_bitrate"), "", nil).Header([]byte(strings.TrimSuffix(removed, "\n"))); err == nil || err.Error() != "too secret" {
		t.Error(err)
	}
}

// TestDrainReportsRemovedLines checks that a store of whole files reports the same lines
// as a store of rows.
func TestDrainReportsRemovedLines(t *testing.T) {
	text := []byte(removed + "first\n#time:1\n" + strings.Repeat("1\n", 300_000) + strings.Repeat("x", 2*MaxLine) + removed + "\n")
	text = append(AppendRemoved(text, "column c_ip: not an address"), "1\n"...)
	var got []string
	r := NewReader(bytes.NewReader(text), TypeByName("log_l3_bitrate"), ReaderOptions{Private: true, Reject: func(line int64, reason string, text []byte) {
		got = append(got, fmt.Sprint(line, " ", reason, " ", len(text)))
	}})
	want := []string{"1 first 0", "300004 column c_ip: not an address 0"}
	if err := r.Drain(); err != nil || !slices.Equal(got, want) || r.Counts().Rejects != 2 || r.Counts().Lines != 300_004 {
		t.Errorf("%q, %+v, %v", got, r.Counts(), err)
	}
}

// TestPrivateReasonsHaveNoValues reads rows with invalid values.
func TestPrivateReasonsHaveNoValues(t *testing.T) {
	rd := NewReader(strings.NewReader("1.0 1 2 3 4 5 10.0.0.1\n10.0.0.1\n1.0 1 2 3 4 5 6\n"), TypeByName("log_l3_bitrate"), ReaderOptions{
		Private: true,
		Reject: func(line int64, reason string, text []byte) {
			if strings.Contains(reason, "10.0.0.1") || len(text) > 0 {
				t.Errorf("line %d: %s: %q", line, reason, text)
			}
		},
	})
	if b, err := rd.Next(); err != nil || b.Len() != 1 || rd.Counts().Rejects != 2 {
		t.Error(err, rd.Counts())
	}
}
