package command

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// console is stderr: log lines, errors and the progress line share it.
type console struct {
	tty   bool
	level slog.LevelVar

	mu    sync.Mutex
	w     io.Writer
	json  bool   // log lines and errors are JSON
	clear func() // removes the progress line; nil if there is none
}

func newConsole(f *os.File) *console {
	return &console{w: f, tty: term.IsTerminal(int(f.Fd()))}
}

// Write prints whole lines above the progress line.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.clear != nil {
		c.clear()
	}
	return c.w.Write(p)
}

// fail prints the error that ends the process, one line for each that is
// joined in it, and its hint.
func (c *console) fail(err error) {
	text := err.Error()
	if hint.IsUsage(err) {
		text = withFlags(text)
	}
	if c.json {
		c.logger().Error(text, hint.Attrs(err)...)
		return
	}
	for line := range strings.SplitSeq(text, "\n") {
		fmt.Fprintf(c, "tstatrepo: %s\n", printable(line))
	}
	if advice := hint.Of(err); advice != "" {
		fmt.Fprintf(c, "hint: %s\n", printable(withFlags(advice)))
	}
}

var option = regexp.MustCompile("`([a-z]+(?:-[a-z]+)*)`")

// withFlags returns text with the names of options as flags: packages below
// know no flags and write `state-dir`, see package hint.
func withFlags(text string) string { return option.ReplaceAllString(text, "--$1") }

// logger returns the logger of the process.
func (c *console) logger() *slog.Logger {
	if c.json {
		return slog.New(slog.NewJSONHandler(c, &slog.HandlerOptions{Level: &c.level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == "hint" {
				a.Value = slog.StringValue(withFlags(a.Value.String()))
			}
			return a
		}}))
	}
	return slog.New(&textHandler{con: c})
}

// textHandler writes "tstatrepo: warning: message key=value" without a time:
// the journal adds its own, and people watch.
type textHandler struct {
	con    *console
	attrs  string
	prefix string // of the keys in a group
}

func (h *textHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.con.level.Level() }

func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString("tstatrepo: ")
	switch {
	case r.Level >= slog.LevelError:
		b.WriteString("error: ")
	case r.Level >= slog.LevelWarn:
		b.WriteString("warning: ")
	case r.Level < slog.LevelInfo:
		b.WriteString("debug: ")
	}
	b.WriteString(printable(r.Message))
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		appendAttr(&b, h.prefix, a)
		return true
	})
	b.WriteByte('\n')
	_, err := io.WriteString(h.con, b.String())
	return err
}

func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	for _, a := range attrs {
		appendAttr(&b, h.prefix, a)
	}
	return &textHandler{h.con, h.attrs + b.String(), h.prefix}
}

func (h *textHandler) WithGroup(name string) slog.Handler {
	return &textHandler{h.con, h.attrs, h.prefix + name + "."}
}

func appendAttr(b *strings.Builder, prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		for _, m := range v.Group() {
			appendAttr(b, prefix+a.Key+".", m)
		}
		return
	}
	s := v.String()
	if a.Key == "hint" {
		s = withFlags(s)
	}
	if s == "" || strings.ContainsAny(s, " \"=") || printable(s) != s {
		s = strconv.Quote(s)
	}
	fmt.Fprintf(b, " %s%s=%s", prefix, a.Key, s)
}

// printable escapes what could control the terminal: names of files and
// answers of servers are not to be trusted.
func printable(s string) string {
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
