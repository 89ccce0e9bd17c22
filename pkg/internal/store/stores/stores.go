// Package stores opens the store that a URL names.
package stores

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/clickhouse"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/dbstream"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/parquet"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/pgdb"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/postgres"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/rawcopy"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/rowjson"
)

// Options holds the options for all kinds of stores.
type Options struct {
	// Memory limits the buffers of one open file, in bytes; 0 means the
	// store's default.
	Memory int64
	// Files is the number of files expected to be open at once; 0 means
	// unknown.
	Files int
	// Cores limits the number of cores that a store uses; 0 means all that
	// this process may use.
	Cores int
	// ReadOnly prevents Open from creating or changing anything.
	ReadOnly bool
	Log      *slog.Logger // warnings; may be nil
	// RetryTimeout is how long an unreachable server is retried.
	RetryTimeout time.Duration
	// Stdout is where "-" prints rows; nil disables that destination.
	Stdout io.Writer
	// Stream is the name of DBStream's tables; {probe} and {type} are
	// replaced by each file's probe and log type. "" means {probe}_{type}.
	Stream string
	// StreamType, if set, is the log type whose rows go to Stream; rows of
	// another type go to Stream_<type>.
	StreamType string
}

// kind describes how to recognize, check and open one kind of store.
type kind struct {
	form string // see dest.Schemes
	// open opens a store. text is its URL, SCHEME:REST, and rest is the part
	// after the scheme.
	open func(ctx context.Context, text, rest string, opt Options) (store.Manager, error)
	// check returns an error if a URL is invalid. It is nil for stores in
	// folders.
	check func(text string) error
}

var kinds = []kind{
	{form: "parquet:DIR", open: func(ctx context.Context, _, dir string, opt Options) (store.Manager, error) {
		return asManager(parquet.Open(ctx, dir, parquet.Options{Memory: opt.Memory, Files: opt.Files, Cores: opt.Cores, ReadOnly: opt.ReadOnly, Log: opt.Log}))
	}},
	{form: "copy:DIR", open: openCopy},
	{form: printed, open: openPrinted},
	{"postgres://user@host/database", openPostgres, postgres.Check},
	{"postgresql://", openPostgres, postgres.Check},
	{"dbstream://user@host/database", openDBStream, dbstream.Check},
	{"clickhouse://user@host/database", openClickHouse, clickhouse.Check},
}

// Schemes returns the URL forms of all destinations that store rows or files.
func Schemes() dest.Schemes {
	var s dest.Schemes
	for _, k := range kinds {
		if k.form != printed {
			s = append(s, k.form)
		}
	}
	return s
}

func (o Options) pg() pgdb.Options { return pgdb.Options{RetryTimeout: o.RetryTimeout, Log: o.Log} }

func openCopy(ctx context.Context, text, _ string, opt Options) (store.Manager, error) {
	_, rest := dest.Split(text)
	dir, o, err := rawcopy.ParseOptions(rest)
	if err != nil {
		return nil, err
	}
	return asManager(rawcopy.Open(ctx, dir, o, opt.ReadOnly, opt.Log))
}

// printed is the destination that prints rows.
const printed = "-"

func openPrinted(_ context.Context, _, _ string, opt Options) (store.Manager, error) {
	if opt.Stdout == nil {
		return nil, hint.Usage("it is not a store: rows are only printed", "")
	}
	return rowjson.New(opt.Stdout), nil
}

// IsPrinted reports whether a destination prints rows and stores nothing.
func IsPrinted(text string) bool { return text == printed }

func openPostgres(ctx context.Context, text, _ string, opt Options) (store.Manager, error) {
	return asManager(postgres.Open(ctx, text, postgres.Options{Options: opt.pg(), ReadOnly: opt.ReadOnly}))
}

func openDBStream(ctx context.Context, text, _ string, opt Options) (store.Manager, error) {
	return asManager(dbstream.Open(ctx, text, dbstream.Options{Options: opt.pg(), ReadOnly: opt.ReadOnly, Stream: opt.Stream, StreamType: opt.StreamType}))
}

func openClickHouse(ctx context.Context, text, _ string, opt Options) (store.Manager, error) {
	return asManager(clickhouse.Open(ctx, text, clickhouse.Options{RetryTimeout: opt.RetryTimeout, Log: opt.Log, ReadOnly: opt.ReadOnly}))
}

// asManager returns the results of a store's Open as a Manager. If err is not nil, it
// returns a nil interface rather than an interface that holds a nil pointer.
func asManager[S store.Manager](s S, err error) (store.Manager, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Destination is a store that is opened on first use.
type Destination struct {
	text, name string
	opt        Options

	mu sync.Mutex
	st store.Manager // nil until it is opened
}

// NewDestination returns the destination with the given URL. It returns an error if the
// URL is invalid, but does not open the store.
func NewDestination(text string, opt Options) (*Destination, error) {
	k, rest, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("destination %q: %w", dest.Redact(text), err)
	}
	text = withoutTransform(text)
	name := dest.Redact(text)
	if k.check == nil && !IsPrinted(text) {
		scheme, _, _ := strings.Cut(k.form, ":")
		name = scheme + ":" + rest
	}
	return &Destination{text: text, name: name, opt: opt}, nil
}

// String returns the store's URL without secrets.
func (d *Destination) String() string { return d.name }

// Open returns the store. The first call opens it.
func (d *Destination) Open(ctx context.Context) (store.Store, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.st == nil {
		st, err := Open(ctx, d.text, d.opt)
		if err != nil {
			return nil, err
		}
		d.st = st
	}
	return d.st, nil
}

// Close closes the store if it is open.
func (d *Destination) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.st == nil {
		return nil
	}
	return d.st.Close()
}

// Adopt makes a store adopt the data that math_repo stored for a stream. It does nothing
// unless s is a copy or DBStream store, since math_repo filled only such stores.
func Adopt(ctx context.Context, s store.Store, a store.Adoption) error {
	switch s := s.(type) {
	case *rawcopy.Store:
		return s.Adopt(ctx, a)
	case *dbstream.Store:
		return s.Adopt(ctx, a)
	}
	return nil
}

// HasStreams reports whether the tables of a destination are named after Options.Stream.
func HasStreams(text string) bool { return strings.HasPrefix(text, "dbstream:") }

// KeepsFiles reports whether a destination stores whole log files instead of
// rows.
func KeepsFiles(text string) bool {
	scheme, _ := dest.Split(text)
	return scheme == "copy"
}

// InFolder reports whether a destination is a folder, not a server.
func InFolder(text string) bool {
	k, _, err := parse(text)
	return err == nil && k.check == nil
}

// CheckStream checks a value of Options.Stream. types lists the log types of the probe.
// CheckStream returns an error if no log type gets a valid stream name, or if several
// log types would share a stream.
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
			return nil // another type's name may be too long, but that type may never occur
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// Check returns an error if a destination, SCHEME:REST, is invalid. A path without a
// scheme means parquet:PATH.
func Check(text string) error {
	_, _, err := parse(text)
	return err
}

func parse(text string) (k kind, rest string, err error) {
	text = withoutTransform(text)
	if err := Schemes().CheckPath(text); err != nil {
		return k, "", err
	}
	scheme, rest := dest.Split(text)
	scheme = cmp.Or(scheme, "parquet")
	if IsPrinted(text) {
		scheme = printed
	}
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.form == scheme || strings.HasPrefix(k.form, scheme+":") })
	if i < 0 {
		return k, "", hint.Usage("unknown scheme "+scheme,
			"known: "+strings.Join(slices.Sorted(slices.Values(Schemes().Prefixes())), ", ")+"; a folder with ':' in its name needs ./ before it")
	}
	k = kinds[i]
	if _, query, _ := strings.Cut(rest, "?"); scheme == "parquet" && strings.Contains(query, "=") {
		// A misspelled option must not become the name of a folder with clear logs.
		if _, options, err := dest.ParsePath(rest); err != nil {
			return k, rest, err
		} else if err := options.Check("option of parquet:", "anonymize"); err != nil {
			return k, rest, err
		}
	}
	if scheme == "copy" {
		if rest, _, err = rawcopy.ParseOptions(rest); err != nil {
			return k, rest, err
		}
	}
	switch {
	case rest == "":
		err = hint.Usage("it names no folder", "for example parquet:/srv/tstat")
	case k.check == nil:
	case !strings.HasPrefix(rest, "//"):
		err = hint.Usage("not the URL of a database", "for example "+scheme+"://user@host/database")
	default:
		err = k.check(text)
	}
	return k, rest, err
}

// SplitTransform removes the "anonymize" option from a destination and returns the
// option's value without URL escapes. given reports whether the destination has the
// option, even without a value. Stores never see the option, because the importer
// applies it.
func SplitTransform(text string) (destination, anonymize string, given bool) {
	destination, query, _ := strings.Cut(text, "?")
	var modes, others []string
	for option := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(option, "=")
		if name != "anonymize" {
			others = append(others, option)
			continue
		}
		if unescaped, err := url.QueryUnescape(value); err == nil {
			value = unescaped
		}
		modes = append(modes, value)
	}
	switch {
	case len(modes) == 0:
		return text, "", false
	case len(others) > 0:
		destination += "?" + strings.Join(others, "&")
	}
	return destination, strings.Join(modes, ","), true // several values are joined, which makes them invalid
}

// withoutTransform returns a destination without the "anonymize" option.
func withoutTransform(text string) string {
	text, _, _ = SplitTransform(text)
	return text
}

// Open opens the store of a destination, see Check.
func Open(ctx context.Context, text string, opt Options) (store.Manager, error) {
	k, rest, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("destination %q: %w", dest.Redact(text), err)
	}
	text = withoutTransform(text)
	s, err := k.open(ctx, text, rest, opt)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dest.Redact(text), err)
	}
	return s, nil
}
