// Package stores opens a store by its URL.
package stores

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/store"
	"github.com/tstatrepo/tstatrepo/pkg/store/copy"
	"github.com/tstatrepo/tstatrepo/pkg/store/parquet"
)

// Options are what every store may need.
type Options struct {
	// Memory bounds what one open file may buffer, in bytes; 0 is the
	// store's own default.
	Memory int64
	// ReadOnly makes Open neither create nor change anything.
	ReadOnly bool
	Log      *slog.Logger // warnings; nil: none
}

// opener opens the store whose URL is scheme:rest.
type opener func(ctx context.Context, rest string, opt Options) (store.Store, error)

var openers = map[string]opener{
	"parquet": func(ctx context.Context, dir string, opt Options) (store.Store, error) {
		return parquet.Open(ctx, dir, parquet.Options{Memory: opt.Memory, ReadOnly: opt.ReadOnly, Log: opt.Log})
	},
	"copy": func(ctx context.Context, dir string, opt Options) (store.Store, error) {
		return copy.Open(ctx, dir, opt.ReadOnly)
	},
}

// URLError is returned for a destination that names no store.
type URLError struct{ Dest, Reason, hint string }

func (e *URLError) Error() string { return fmt.Sprintf("destination %q: %s", e.Dest, e.Reason) }

// Hint says what would be right.
func (e *URLError) Hint() string { return e.hint }

// Parse splits a destination into scheme and rest. A bare path means
// parquet; one with a ':' needs a "./" before it.
func Parse(dest string) (scheme, rest string, err error) {
	scheme, rest, ok := strings.Cut(dest, ":")
	if !ok || strings.ContainsAny(scheme, "/.") {
		scheme, rest = "parquet", dest
	}
	if openers[scheme] == nil {
		return "", "", &URLError{dest, "unknown scheme " + scheme, "known: " + strings.Join(Schemes(), ", ") + "; a folder with ':' in its name needs ./ before it"}
	}
	if rest == "" {
		return "", "", &URLError{dest, "it names no folder", "for example parquet:/srv/tstat"}
	}
	return scheme, rest, nil
}

// Schemes returns the known schemes, each with its ':', sorted.
func Schemes() []string {
	var s []string
	for name := range openers {
		s = append(s, name+":")
	}
	slices.Sort(s)
	return s
}

// Open opens the store that dest names: SCHEME:REST, or a bare path, which
// means parquet. A *URLError says that it names none.
func Open(ctx context.Context, dest string, opt Options) (store.Store, error) {
	scheme, rest, err := Parse(dest)
	if err != nil {
		return nil, err
	}
	s, err := openers[scheme](ctx, rest, opt)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dest, err)
	}
	return s, nil
}
