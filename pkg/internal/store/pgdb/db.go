// Package pgdb holds the common parts of the PostgreSQL-based stores: the
// connection, changes to tables under a lock, the table of records, and
// transactions that copy rows.
package pgdb

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// DB is a pool of connections to a database that holds rows.
type DB struct {
	store.Defaults
	Pool *pgxpool.Pool
	Log  *slog.Logger

	url     string        // without secrets
	retry   time.Duration // how long to retry
	form    Form
	records records
	claims  claims
	chunks  atomic.Bool // the server has refused rows, so copy in chunks

	mu   sync.Mutex
	open map[*Tx]bool
}

// Options configures Open.
type Options struct {
	// RetryTimeout is how long to retry while the server is unreachable; 0
	// disables retries.
	RetryTimeout time.Duration
	Log          *slog.Logger // warnings; may be nil
	Form         Form         // of COPY; "" means Auto
}

// SplitURL splits a database URL, SCHEME://USER@HOST/DATABASE?NAME=VALUE. The result dsn
// is a URL for Open. It lacks the settings listed in own, which are returned separately.
// All other settings must be valid for libpq.
func SplitURL(text string, own ...string) (dsn string, settings dest.Options, err error) {
	u, err := dest.Parse(text)
	if err != nil {
		return "", nil, err
	}
	settings = dest.Options{}
	for name, v := range u.Options {
		if slices.Contains(own, name) {
			settings[name] = v
			delete(u.Options, name)
		}
	}
	u.Scheme = "postgres"
	dsn = u.String()
	if _, err := parseConfig(dsn); err != nil {
		return "", nil, err
	}
	for name := range u.Options {
		if !libpq[name] {
			return "", nil, hint.Usage(fmt.Sprintf("unknown setting %q", name), "known: "+strings.Join(own, ", ")+", and libpq's, like sslmode")
		}
	}
	return dsn, settings, nil
}

// libpq lists the valid connection settings. pgx would turn any other setting into a
// session parameter on the server, so typos would be reported only on connecting.
var libpq = set("host", "port", "dbname", "user", "password", "passfile", "connect_timeout", "sslmode", "sslkey",
	"sslcert", "sslrootcert", "sslpassword", "sslsni", "service", "servicefile", "target_session_attrs", "options",
	"application_name", "require_auth", "channel_binding", "sslnegotiation", "krbspn", "krbsrvname",
	"min_protocol_version", "max_protocol_version")

func set(names ...string) map[string]bool {
	m := map[string]bool{}
	for _, n := range names {
		m[n] = true
	}
	return m
}

func parseConfig(dsn string) (*pgxpool.Config, error) {
	cfg, err := pgxpool.ParseConfig(dsn)
	if err == nil {
		return cfg, nil
	}
	advice := "for example postgres://user@host:5432/database; write special characters of a password as %XX, or keep it in PGPASSWORD or ~/.pgpass"
	// If a URL cannot be parsed, any piece of it could be part of the
	// password.
	if reason := err.Error(); !strings.Contains(reason, "failed to parse as URL") && !strings.Contains(reason, "keyword/value") {
		if _, after, ok := strings.Cut(reason, "`: "); ok {
			return nil, hint.Usage(after, advice)
		}
	}
	return nil, hint.Usage("not the URL of a database", advice)
}

// Open connects to the database at dsn, which is a result of SplitURL. name is the URL to
// show in messages; Open masks any password in it.
func Open(ctx context.Context, dsn, name string, opt Options) (*DB, error) {
	cfg, err := parseConfig(dsn)
	if err != nil {
		return nil, err
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	d := &DB{Log: opt.Log, url: dest.Redact(name), retry: opt.RetryTimeout, form: opt.Form, open: map[*Tx]bool{}}
	c := cfg.ConnConfig
	// Unprepared statements need no memory on the server, and work with
	// connection poolers.
	c.DefaultQueryExecMode = pgx.QueryExecModeExec
	for name, value := range map[string]string{
		"application_name": "tstatrepo",
		"client_encoding":  "UTF8",
		"timezone":         "UTC",
		"datestyle":        "ISO, YMD",
	} {
		if name != "application_name" || c.RuntimeParams[name] == "" {
			c.RuntimeParams[name] = value
		}
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 15 * time.Second
	}
	// Every file being imported holds a connection and may need a second
	// one. A lower limit would cause deadlocks; the server has its own
	// limit.
	cfg.MaxConns = 1 << 10
	d.Pool, err = pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, hint.Usage("not the URL of a database", "")
	}
	if err := d.Retry(ctx, func() error { return d.Pool.Ping(ctx) }); err != nil {
		d.Pool.Close()
		return nil, err
	}
	return d, nil
}

// Close aborts running statements and closes all connections.
func (d *DB) Close() {
	d.mu.Lock()
	open := slices.Collect(maps.Keys(d.open))
	d.mu.Unlock()
	for _, t := range open {
		t.Abort()
	}
	d.Pool.Close()
}

// String returns the URL of the database, without secrets.
func (d *DB) String() string { return d.url }

// Server returns the first host and port that d tries, and the name of the database.
func (d *DB) Server() (host string, port uint16, database string) {
	c := d.Pool.Config().ConnConfig
	return c.Host, c.Port, c.Database
}

// Retry calls f until it succeeds, its error is permanent, or
// Options.RetryTimeout has passed. It passes errors through Classify.
func (d *DB) Retry(ctx context.Context, f func() error) error {
	return d.retryFor(ctx, d.retry, store.IsTransient, f)
}

func (d *DB) retryFor(ctx context.Context, timeout time.Duration, retryable func(error) bool, f func() error) error {
	p := retry.Policy{Transient: retryable, Limit: timeout, Retrying: func(err error) {
		d.Log.Warn("statement failed, retrying", "store", d.url, "err", err)
	}}
	return p.Do(ctx, func() error { return Classify(f()) })
}

// Classify marks transient errors as store.ErrUnavailable and
// store.ErrTransient. It adds hints to some permanent errors.
func Classify(err error) error {
	switch {
	case err == nil || errors.Is(err, store.ErrTransient):
		return err
	case transient(err):
		return sqlstore.Transient(&lineError{err})
	}
	if errors.As(err, new(*pgconn.ConnectError)) {
		err = &lineError{err}
	}
	switch CodeOf(err) {
	case "28000", "28P01":
		return hint.Add(err, "give the password in PGPASSWORD or ~/.pgpass, not on the command line")
	case "3D000":
		return hint.Add(err, "make the database first, with createdb")
	case "42501":
		return hint.Add(err, "the user needs usage of the schema, select and insert on the log tables, and all rights on the tables tstatrepo_*")
	}
	return err
}

// lineError shortens the message of a connection error to one line. pgx's message has a
// line for each attempt. With sslmode=prefer, the default, there are two attempts for
// each address, with TLS and then without. If both fail, the line for the attempt with
// TLS adds nothing. It repeats the other line or says that the server refused TLS.
type lineError struct{ err error }

func (e *lineError) Error() string {
	const noTLS = "tls error: server refused TLS connection"
	var lines []string
	refused := ""
	for line := range strings.SplitSeq(e.err.Error(), "\n") {
		line = strings.Join(strings.Fields(line), " ")
		switch {
		case strings.Contains(line, noTLS):
			refused = line
		case !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, line) }):
			lines = append(lines, line)
		}
	}
	if refused != "" && len(lines) < 2 { // no attempt without TLS followed
		lines = append(lines, refused)
	}
	return strings.Replace(strings.Join(lines, "; "), ":; ", ": ", 1)
}

func (e *lineError) Unwrap() error { return e.err }

func transient(err error) bool {
	if errors.Is(err, context.Canceled) {
		return false
	}
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		switch pe.Code {
		case "40001", "40P01", // serialization failure, deadlock
			"55P03",                   // lock_timeout
			"57P01", "57P02", "57P03", // the server stops, crashed, starts
			"25P03", "57P05", // the session was idle for too long
			"58030": // input or output error
			return true
		}
		switch pe.Code[:min(2, len(pe.Code))] {
		case "08", "53": // connection; out of disk, memory, connections
			return true
		}
		return false
	}
	var ce *pgconn.ConnectError
	if errors.As(err, &ce) {
		// An invalid certificate is permanent. A host name may be
		// missing while a container or a name server starts.
		var dns *net.DNSError
		var op *net.OpError
		return errors.As(err, &dns) || errors.As(err, &op) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || isTimeout(err) || errors.Is(err, os.ErrNotExist)
	}
	var ne net.Error
	return errors.As(err, &ne) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || isTimeout(err) || strings.Contains(err.Error(), "conn closed")
}

func isTimeout(err error) bool {
	return pgconn.Timeout(err) || errors.Is(err, context.DeadlineExceeded)
}

// Ident is a name with up to two parts, schema and table.
type Ident = pgx.Identifier

// Quote returns a name, which may have several parts, quoted for SQL.
func Quote(parts ...string) string { return pgx.Identifier(parts).Sanitize() }

// List returns names quoted for SQL and separated by commas.
func List(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = Quote(n)
	}
	return strings.Join(quoted, ", ")
}

// lockWait is how long DB.Change waits for a lock before it releases its own locks and
// retries. Another client may hold the lock of a table in one session and wait for
// Change's advisory lock in a second session. The server cannot detect such a deadlock.
const lockWait = "1s"

// changeWait is how long DB.Change retries while other clients hold locks that it needs.
// After that the caller must retry.
const changeWait = 30 * time.Second

// lockNumber returns the number of the advisory lock for names. If two locks get the same
// number, the only harm is that their clients wait for each other needlessly.
func lockNumber(names ...string) int64 {
	h := fnv.New64a()
	for _, n := range append([]string{"tstatrepo"}, names...) {
		io.WriteString(h, n+"\x00")
	}
	return int64(h.Sum64())
}

// readCommitted is the isolation level that all locks rely on, whatever the default of the
// server: a statement after the wait for a lock must see what other clients have committed.
var readCommitted = pgx.TxOptions{IsoLevel: pgx.ReadCommitted}

// Change runs f in a short separate transaction. Across all clients, at most one
// transaction per name runs at a time. Change waits while other clients hold locks; the
// caller must retry on other transient errors.
func (d *DB) Change(ctx context.Context, name string, f func(pgx.Tx) error) error {
	lock := lockNumber("table", name)
	return d.retryFor(ctx, changeWait, isContention, func() error {
		return pgx.BeginTxFunc(ctx, d.Pool, readCommitted, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "set local lock_timeout = '"+lockWait+"'"); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", lock); err != nil {
				return err
			}
			return f(tx)
		})
	})
}

// isContention reports whether another client caused an error: a lock timeout, a
// deadlock or a serialization failure.
func isContention(err error) bool {
	switch CodeOf(err) {
	case "55P03", "40P01", "40001":
		return true
	}
	return false
}

// Table describes an existing table.
type Table struct {
	OID         uint32
	Partitioned bool
	Columns     map[string]string // name -> pg_type.typname
}

// Querier is a connection or a transaction. Callers may ignore the error of
// Query, because the rows report it too.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// FindTable returns the description of a table, or nil if it does not exist.
func FindTable(ctx context.Context, q Querier, name Ident) (*Table, error) {
	t := Table{Columns: map[string]string{}}
	rows, _ := q.Query(ctx, `select c.oid, c.relkind = 'p', a.attname::text, y.typname::text
		from pg_class c
		join pg_namespace n on n.oid = c.relnamespace
		left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		left join pg_type y on y.oid = a.atttypid
		where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p', 'f')`, name[0], name[1])
	var col, typ *string
	n := 0
	_, err := pgx.ForEachRow(rows, []any{&t.OID, &t.Partitioned, &col, &typ}, func() error {
		n++
		if col != nil && typ != nil {
			t.Columns[*col] = *typ
		}
		return nil
	})
	if err != nil || n == 0 {
		return nil, err
	}
	return &t, nil
}

// AddColumns adds columns[i] to a table for each i in indexes. The column's name in the
// table is names[i], and its type is the result of sqlType.
func AddColumns(ctx context.Context, tx pgx.Tx, table Ident, indexes []int, columns []tstat.Column, names []string, sqlType func(tstat.Column) string) error {
	var add []string
	for _, c := range indexes {
		add = append(add, "add column "+Quote(names[c])+" "+sqlType(columns[c]))
	}
	_, err := tx.Exec(ctx, "alter table "+table.Sanitize()+" "+strings.Join(add, ", "))
	return err
}

// NoPartition reports whether err means that a table has no partition for a row, because
// someone has dropped the partition.
func NoPartition(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.Code == "23514" && pe.ConstraintName == ""
}

// CodeOf returns the SQLSTATE of an error from the server, or "".
func CodeOf(err error) string {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return pe.Code
	}
	return ""
}
