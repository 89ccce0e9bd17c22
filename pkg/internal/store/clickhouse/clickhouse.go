// Package clickhouse stores rows in ClickHouse, over its HTTP interface: one
// table per log type with one schema for all Tstat versions, on one server or
// on a cluster.
//
// ClickHouse has no transactions across tables, and an interrupted INSERT may
// leave rows behind. So every row carries the number of the attempt that stored
// it. Readers use a view that shows only the rows of attempts that have a
// record, so a single record makes a whole file visible.
package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
)

// Options configures Open.
type Options struct {
	// RetryTimeout is how long an unreachable server is retried; 0 disables
	// retries.
	RetryTimeout time.Duration
	Log          *slog.Logger // warnings; may be nil
	// ReadOnly keeps Open from creating anything. The caller must then not modify the
	// store.
	ReadOnly bool
}

// Store is a database on a ClickHouse server or cluster.
type Store struct {
	store.Defaults
	*client
	cluster   bool
	empty     bool          // opened with ReadOnly, and the table of records does not exist
	absent    atomic.Value  // []string: addedColumns missing from the table of records; at most colTransform unless ReadOnly was set
	offset    time.Duration // of the server's clock relative to this machine's
	dateTime  string        // type of times: DateTime or DateTime64
	shortText string        // type for strings with few distinct values
	async     bool          // the server has asynchronous inserts

	mu     sync.Mutex
	tables map[string]map[string]string // per log type: column -> type
	behind map[string]time.Time         // by replica: when imports may wait for it again
}

// Open connects to the database at a URL, clickhouse://USER@HOST/DATABASE.
func Open(ctx context.Context, text string, opt Options) (*Store, error) {
	cfg, err := parse(text)
	if err != nil {
		return nil, err
	}
	c, err := newClient(text, cfg, opt)
	if err != nil {
		return nil, err
	}
	s := &Store{client: c, cluster: cfg.cluster != "", tables: map[string]map[string]string{}, behind: map[string]time.Time{}}
	if err := s.retry(ctx, func() error { return s.open(ctx, opt.ReadOnly) }); err != nil {
		c.close()
		return nil, err
	}
	return s, nil
}

// open asks the server which features it supports. Unless readOnly is set, it also creates
// the tables that do not belong to a log type.
func (s *Store) open(ctx context.Context, readOnly bool) error {
	asked := time.Now()
	has := map[string]bool{}
	// LowCardinality was experimental in its first versions.
	err := s.query(ctx, "", noDatabase, "select toString(toUnixTimestamp(now())) union all select toString(name) from system.data_type_families where name in ('DateTime64', 'LowCardinality')"+
		" union all select concat(toString(name), '=', toString(value)) from system.settings where name in ('allow_experimental_low_cardinality_type', 'async_insert')", func(row []string) error {
		if sec, err := strconv.ParseInt(row[0], 10, 64); err == nil {
			s.offset = time.Unix(sec, 0).Sub(asked)
		}
		has[row[0]] = true
		s.async = s.async || strings.HasPrefix(row[0], "async_insert=")
		return nil
	})
	if err != nil {
		return err
	}
	s.dateTime, s.shortText = "DateTime", "String"
	if has["DateTime64"] {
		s.dateTime = "DateTime64"
	}
	if has["LowCardinality"] && !has["allow_experimental_low_cardinality_type=0"] {
		s.shortText = "LowCardinality(String)"
	}
	if readOnly {
		t, err := s.columns(ctx, "", sqlstore.FilesTable)
		s.empty = len(t) == 0
		s.absent.Store(absent(t))
		if codeOf(err) == codeUnknownDatabase {
			s.empty, err = true, nil // nothing was ever stored
		}
		return err
	}
	return s.createService(ctx)
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.client.close()
	return nil
}

// String returns the URL of the database, without secrets.
func (s *Store) String() string { return s.url }

// The upper 20 bits of an attempt's number are the hour of its start by the server's
// clock. The lower randomBits bits are random. So the number shows how old an attempt is
// even if it never got a record.
const randomBits = 44

// newAttempt returns the number of a new attempt to store a file.
func (s *Store) newAttempt() uint64 {
	return uint64(time.Now().Add(s.offset).Unix()/3600)<<randomBits | rand.Uint64()>>(64-randomBits)
}

// startOf returns the start of an attempt, rounded down to the hour.
func startOf(id uint64) time.Time { return time.Unix(int64(id>>randomBits)*3600, 0).UTC() }

// An attempt that takes longer than maxAttempt is aborted. So rows without a
// record can be removed once their attempt is older than abandoned.
const (
	maxAttempt = 24 * time.Hour
	abandoned  = 48 * time.Hour
)

// Begin implements store.Store.
func (s *Store) Begin(ctx context.Context, f store.FileInfo) (store.FileTx, error) {
	if err := sqlstore.CheckKey(f.Key); err != nil {
		return nil, err
	}
	if at := f.Time.Unix(); at < 0 || at > maxSeconds {
		return nil, fmt.Errorf("folder %s: its time is out of the range of DateTime", f.Folder)
	}
	host, err := s.liveHost(ctx)
	if err != nil {
		return nil, err
	}
	cols := names(f)
	table, err := s.prepare(ctx, host, f, cols)
	if err != nil {
		return nil, err
	}
	ts, err := s.targets(f, cols, table)
	if err != nil {
		s.forget(f.Type.Name) // the user may add the column
		return nil, err
	}
	return newTx(ctx, s, host, f, ts, table), nil
}

var errTooLong = errors.New("it took more than a day")
