package admin

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxNotice is the maximum length in bytes of Notice.Text.
const maxNotice = 2 << 10

// Recent is a slog.Handler that keeps the most recent warnings and errors and
// passes all records to another handler. It is safe for concurrent use.
type Recent struct {
	next   slog.Handler
	ring   *ring
	attrs  string // of WithAttrs, as text
	prefix string // of the keys in a group
}

// ring holds the notices that a handler shares with all handlers derived from it.
type ring struct {
	mu      sync.Mutex
	size    int
	notices []Notice // oldest first
}

// NewRecent returns a handler that keeps up to n notices and passes all records to
// next. A repeated message does not add a notice but increments the count of the
// existing one.
func NewRecent(next slog.Handler, n int) *Recent {
	return &Recent{next: next, ring: &ring{size: max(n, 1)}}
}

// List returns the notices, newest first.
func (r *Recent) List() []Notice {
	r.ring.mu.Lock()
	defer r.ring.mu.Unlock()
	list := slices.Clone(r.ring.notices)
	slices.Reverse(list)
	return list
}

// Enabled reports whether Recent keeps records of level l or the next handler is
// enabled for that level.
func (r *Recent) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn || r.next.Enabled(ctx, l)
}

// Handle keeps rec if it is a warning or an error. It passes rec to the next handler if
// that handler is enabled for the level of rec.
func (r *Recent) Handle(ctx context.Context, rec slog.Record) error {
	if rec.Level >= slog.LevelWarn {
		var b strings.Builder
		b.WriteString(rec.Message)
		b.WriteString(r.attrs)
		rec.Attrs(func(a slog.Attr) bool {
			appendAttr(&b, r.prefix, a)
			return b.Len() < maxNotice
		})
		at := rec.Time
		if at.IsZero() {
			at = time.Now()
		}
		r.ring.add(Notice{Time: at, First: at, Count: 1, Error: rec.Level >= slog.LevelError, Text: cut(b.String(), maxNotice)})
	}
	if !r.next.Enabled(ctx, rec.Level) {
		return nil
	}
	return r.next.Handle(ctx, rec)
}

// WithAttrs implements slog.Handler. The new handler shares the notices.
func (r *Recent) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	for _, a := range attrs {
		appendAttr(&b, r.prefix, a)
	}
	return &Recent{r.next.WithAttrs(attrs), r.ring, r.attrs + b.String(), r.prefix}
}

// WithGroup implements slog.Handler. The new handler shares the notices.
func (r *Recent) WithGroup(name string) slog.Handler {
	if name == "" {
		return r
	}
	return &Recent{r.next.WithGroup(name), r.ring, r.attrs, r.prefix + name + "."}
}

func (r *ring) add(n Notice) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.notices, func(o Notice) bool { return o.Text == n.Text && o.Error == n.Error })
	switch {
	case i >= 0:
		n.First, n.Count = r.notices[i].First, r.notices[i].Count+1
		r.notices = slices.Delete(r.notices, i, i+1)
	case len(r.notices) >= r.size:
		r.notices = slices.Delete(r.notices, 0, 1)
	}
	r.notices = append(r.notices, n)
}

// appendAttr writes an attribute to b as " key=value", with prefix before the key. If the
// attribute is a group, it writes each member of the group, and the name of the group
// becomes part of the prefix.
func appendAttr(b *strings.Builder, prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, m := range v.Group() {
			appendAttr(b, prefix, m)
		}
		return
	}
	if a.Equal(slog.Attr{}) {
		return
	}
	fmt.Fprintf(b, " %s%s=%s", prefix, a.Key, v)
}

// cut returns text unchanged if it has at most n bytes. Otherwise it returns the valid
// UTF-8 in the first n bytes, and an ellipsis.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "") + "…"
}
