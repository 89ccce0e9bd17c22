// Package console writes log lines, errors and progress to stderr. It also formats
// numbers, sizes and tables for people.
package console

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// Console is the standard error of the process. Log lines, errors and the progress line
// share it.
type Console struct {
	tty   bool
	json  bool // log lines and errors are JSON
	level slog.LevelVar

	mu    sync.Mutex // guards w and clear
	w     io.Writer
	clear func() // removes the progress line from the screen; may be nil
}

// New returns a console that writes to w. tty reports whether w is a terminal.
func New(w io.Writer, tty bool) *Console { return &Console{w: w, tty: tty} }

// Terminal reports whether the console is a terminal.
func (c *Console) Terminal() bool { return c.tty }

// Format sets the format of log lines and errors, and the minimum level of log
// lines.
func (c *Console) Format(json bool, level slog.Level) {
	c.json = json
	c.level.Set(level)
}

// Formatted returns the current format and minimum level; see Format.
func (c *Console) Formatted() (json bool, level slog.Level) { return c.json, c.level.Level() }

// Quiet suppresses log lines below level warn.
func (c *Console) Quiet() { c.level.Set(max(c.level.Level(), slog.LevelWarn)) }

// Write writes complete lines above the progress line.
func (c *Console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.clear != nil {
		c.clear()
	}
	return c.w.Write(p)
}

// Fail prints the error that ends the process, and its hint. Each joined error is printed
// on its own line.
func (c *Console) Fail(err error) {
	text := err.Error()
	if hint.IsUsage(err) {
		text = WithFlags(text)
	}
	if c.json {
		c.Logger().Error("command failed", append([]any{"err", text}, hint.Attrs(err)...)...)
		return
	}
	for line := range strings.SplitSeq(text, "\n") {
		fmt.Fprintf(c, "tstatrepo: %s\n", Printable(line))
	}
	if advice := hint.Of(err); advice != "" {
		fmt.Fprintf(c, "hint: %s\n", Printable(WithFlags(advice)))
	}
}

var option = regexp.MustCompile("`([a-z]+(?:-[a-z]+)*)`")

// WithFlags replaces backquoted option names in text with flags, for example
// `state-dir` with --state-dir. Other packages do not know the flags; see package
// hint.
func WithFlags(text string) string { return option.ReplaceAllString(text, "--$1") }

// Logger returns the logger of the process.
func (c *Console) Logger() *slog.Logger {
	if c.json {
		return slog.New(slog.NewJSONHandler(c, &slog.HandlerOptions{Level: &c.level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == "hint" {
				a.Value = slog.StringValue(WithFlags(a.Value.String()))
			}
			return a
		}}))
	}
	return slog.New(&textHandler{con: c})
}

// textHandler writes log lines in the form "tstatrepo: warning: message key=value". It
// omits the time, which the journal adds and a terminal does not need.
type textHandler struct {
	con    *Console
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
	b.WriteString(Printable(r.Message))
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
		s = WithFlags(s)
	}
	if s == "" || strings.ContainsAny(s, " \"=") || Printable(s) != s {
		s = strconv.Quote(s)
	}
	fmt.Fprintf(b, " %s%s=%s", prefix, a.Key, s)
}
