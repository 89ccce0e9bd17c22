// Package stores opens a store by its URL.
package stores

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/hint"
	"github.com/tstatrepo/tstatrepo/pkg/store"
	"github.com/tstatrepo/tstatrepo/pkg/store/clickhouse"
	"github.com/tstatrepo/tstatrepo/pkg/store/copy"
	"github.com/tstatrepo/tstatrepo/pkg/store/dbstream"
	"github.com/tstatrepo/tstatrepo/pkg/store/parquet"
	"github.com/tstatrepo/tstatrepo/pkg/store/pg"
	"github.com/tstatrepo/tstatrepo/pkg/store/postgres"
)

// Options are what every store may need.
type Options struct {
	// Memory bounds what one open file may buffer, in bytes; 0 is the
	// store's own default.
	Memory int64
	// ReadOnly makes Open neither create nor change anything.
	ReadOnly bool
	Log      *slog.Logger // warnings; nil: none
	// RetryTimeout is how long a server that cannot be reached is tried
	// again.
	RetryTimeout time.Duration
	// Stream names DBStream's tables; {probe} and {type} stand for those of
	// each file. "" is {probe}_{type}.
	Stream string
	// StreamType, if set, is the log type whose rows go to Stream; those of
	// another type go to Stream_<type>.
	StreamType string
}

// kind is one kind of store.
type kind struct {
	// open opens the store that dest, SCHEME:REST, names.
	open func(ctx context.Context, dest, rest string, opt Options) (store.Store, error)
	// check reports what is wrong with a URL; nil for stores in folders.
	check func(dest string) error
}

var kinds = map[string]kind{
	"parquet": {open: func(ctx context.Context, _, dir string, opt Options) (store.Store, error) {
		return parquet.Open(ctx, dir, parquet.Options{Memory: opt.Memory, ReadOnly: opt.ReadOnly, Log: opt.Log})
	}},
	"copy": {open: func(ctx context.Context, _, dir string, opt Options) (store.Store, error) {
		return copy.Open(ctx, dir, opt.ReadOnly, opt.Log)
	}},
	"postgres":   {openPostgres, postgres.Check},
	"postgresql": {openPostgres, postgres.Check},
	"dbstream":   {openDBStream, dbstream.Check},
	"clickhouse": {openClickHouse, clickhouse.Check},
}

func (o Options) pg() pg.Options { return pg.Options{RetryTimeout: o.RetryTimeout, Log: o.Log} }

func openPostgres(ctx context.Context, dest, _ string, opt Options) (store.Store, error) {
	s, err := postgres.Open(ctx, dest, postgres.Options{Options: opt.pg(), ReadOnly: opt.ReadOnly})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func openDBStream(ctx context.Context, dest, _ string, opt Options) (store.Store, error) {
	s, err := dbstream.Open(ctx, dest, dbstream.Options{Options: opt.pg(), ReadOnly: opt.ReadOnly, Stream: opt.Stream, StreamType: opt.StreamType})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func openClickHouse(ctx context.Context, dest, _ string, opt Options) (store.Store, error) {
	s, err := clickhouse.Open(ctx, dest, clickhouse.Options{RetryTimeout: opt.RetryTimeout, Log: opt.Log, ReadOnly: opt.ReadOnly})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// HasStreams reports whether a destination's tables are named by
// Options.Stream.
func HasStreams(dest string) bool { return strings.HasPrefix(dest, "dbstream:") }

// InFolder reports whether a destination is a folder, not a server.
func InFolder(dest string) bool {
	scheme, _, err := Parse(dest)
	return err == nil && kinds[scheme].check == nil
}

// CheckStream reports what is wrong with Options.Stream for logs of a probe
// and of the types.
func CheckStream(stream, probe string, types []string) error {
	if stream == "" {
		stream = dbstream.DefaultStream
	}
	if !strings.Contains(stream, "{type}") && len(types) != 1 {
		return hint.Usage("stream "+stream+" can have the rows of one log type only", "name one with `type`, or let the name have {type}")
	}
	var first error
	for _, t := range types {
		_, err := dbstream.StreamName(stream, probe, t)
		if err == nil {
			return nil // another type's name may be too long, if it comes at all
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// Parse splits a destination into scheme and rest. A bare path means
// parquet; one with a ':' needs a "./" before it. A usage error, without the
// destination, says that it names no store.
func Parse(dest string) (scheme, rest string, err error) {
	scheme, rest, ok := strings.Cut(dest, ":")
	if !ok || strings.ContainsAny(scheme, "/.") {
		scheme, rest = "parquet", dest
	}
	k, ok := kinds[scheme]
	if !ok {
		return "", "", hint.Usage("unknown scheme "+scheme, "known: "+strings.Join(schemes(), ", ")+"; a folder with ':' in its name needs ./ before it")
	}
	if rest == "" {
		return "", "", hint.Usage("it names no folder", "for example parquet:/srv/tstat")
	}
	if k.check == nil {
		return scheme, rest, nil
	}
	if !strings.HasPrefix(rest, "//") {
		return "", "", hint.Usage("it is no URL of a database", "for example "+scheme+"://user@host/database")
	}
	return scheme, rest, k.check(dest)
}

// Redact returns a destination without its passwords.
func Redact(dest string) string { return pg.Redact(dest) }

// schemes returns the known schemes, each with what follows it, sorted.
func schemes() []string {
	var s []string
	for name, k := range kinds {
		if k.check != nil {
			name += "://"
		} else {
			name += ":"
		}
		s = append(s, name)
	}
	slices.Sort(s)
	return s
}

// Open opens the store that dest names: SCHEME:REST, or a bare path, which
// means parquet.
func Open(ctx context.Context, dest string, opt Options) (store.Store, error) {
	scheme, rest, err := Parse(dest)
	if err != nil {
		return nil, fmt.Errorf("destination %q: %w", pg.Redact(dest), err)
	}
	s, err := kinds[scheme].open(ctx, dest, rest, opt)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", pg.Redact(dest), err)
	}
	return s, nil
}
