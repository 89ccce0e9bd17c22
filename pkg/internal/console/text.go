package console

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tstatrepo/tstatrepo/pkg/internal/losslessjson"
)

// Printable escapes characters that are not printable. File names and server
// responses are untrusted and may contain terminal control sequences.
func Printable(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, unprintable) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unprintable(r) {
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// Plural formats a number with its noun, such as "1 line" or "3,000 lines".
func Plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return Count(n) + " " + noun + "s"
}

// Count formats a number with commas, such as 1,234,567.
func Count(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Units lists the binary units of sizes, largest first.
var Units = []struct {
	Name  string
	Bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// Bytes formats a size with a binary unit, like "1.5 GiB".
func Bytes(n int64) string {
	for _, u := range Units {
		if n >= u.Bytes {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.Bytes), u.Name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// Table formats the rows of a table as lines. It aligns the given number of leading
// columns to the left and the other columns to the right.
func Table(table [][]string, left int) string {
	width := make([]int, len(table[0]))
	for _, row := range table {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range table {
		for i, cell := range row {
			switch {
			case i == 0:
				fmt.Fprintf(&b, "%-*s", width[i], cell)
			case i < left:
				fmt.Fprintf(&b, "  %-*s", width[i], cell)
			default:
				fmt.Fprintf(&b, "  %*s", width[i], cell)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// WriteJSON writes v as JSON. It preserves names that are not valid UTF-8; see
// package losslessjson.
func WriteJSON(w io.Writer, v any) error {
	text, err := losslessjson.MarshalIndent(v, "", "  ")
	if err == nil {
		_, err = w.Write(append(text, '\n'))
	}
	return err
}

// Fill breaks text into lines of at most width bytes, including the indent at the
// start of each line.
func Fill(text, indent string, width int) string {
	var b strings.Builder
	line := indent
	for _, word := range strings.Fields(text) {
		switch {
		case line == indent:
			line += word
		case len(line)+1+len(word) > width:
			b.WriteString(line + "\n")
			line = indent + word
		default:
			line += " " + word
		}
	}
	return b.String() + line
}

// UpperFirst returns s with an upper-case first letter, unless s begins with a flag.
func UpperFirst(s string) string {
	if s == "" || strings.HasPrefix(s, "-") {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
