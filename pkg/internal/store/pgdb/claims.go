package pgdb

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
)

// The table is unlogged. If the server crashes and loses the claims, two
// importers may do the same work, but no data is lost.
const createClaims = ` (
	location text,
	probe text,
	folder text,
	file text,
	owner text not null,
	expires timestamptz not null,
	primary key (location, probe, folder, file)
)`

// cleanEvery is the minimum interval between two removals of expired claims.
const cleanEvery = 10 * time.Minute

// claims is the cached state of the table of claims; see store.Claimer.
type claims struct {
	denied  atomic.Bool  // the user has no permission to use the table
	cleaned atomic.Int64 // time of the last cleanup, in seconds since the epoch
}

func (d *DB) claimsTable() Ident { return Ident{d.records.table[0], sqlstore.ClaimsTable} }

// Claim implements store.Claimer. If the user has no permission to use the table of
// claims, Claim logs a warning once and returns all keys.
func (d *DB) Claim(ctx context.Context, owner string, keys []store.Key, ttl time.Duration) ([]store.Key, error) {
	if len(keys) == 0 || d.claims.denied.Load() {
		return keys, nil
	}
	got, err := d.claim(ctx, owner, keys, ttl)
	if CodeOf(err) == "42P01" { // the table does not exist yet
		if err = d.createClaims(ctx); err == nil {
			got, err = d.claim(ctx, owner, keys, ttl)
		}
	}
	if CodeOf(err) == "42501" {
		if !d.claims.denied.Swap(true) {
			d.Log.Warn("files cannot be claimed: another importer at the same time may do the same work", "store", d.url, "err", err,
				"hint", "the user needs select, insert, update and delete on the table tstatrepo_claims")
		}
		return keys, nil
	}
	if err == nil {
		d.cleanClaims(ctx)
	}
	return got, Classify(err)
}

func (d *DB) createClaims(ctx context.Context) error {
	table := d.claimsTable()
	err := d.Change(ctx, table.Sanitize(), func(tx pgx.Tx) error {
		if t, err := FindTable(ctx, tx, table); err != nil || t != nil {
			return err
		}
		_, err := tx.Exec(ctx, "create unlogged table "+table.Sanitize()+createClaims)
		return err
	})
	if err != nil {
		return fmt.Errorf("create table %s: %w", table.Sanitize(), err)
	}
	return nil
}

// claim claims keys for owner: it inserts claims, renews those of owner, and takes over
// expired ones. It returns the keys that owner has now claimed, and all keys that the
// table of claims cannot hold. All clients process keys in the same order, which
// prevents deadlocks.
func (d *DB) claim(ctx context.Context, owner string, keys []store.Key, ttl time.Duration) ([]store.Key, error) {
	l, p, f, n, got := d.columnsOf(keys) // no importer can store files with invalid keys
	rows, _ := d.Pool.Query(ctx, "insert into "+d.claimsTable().Sanitize()+` as c (location, probe, folder, file, owner, expires)
		select location, probe, folder, file, $5::text, clock_timestamp() + make_interval(secs => $6::float8)
		from (select distinct * from unnest($1::text[], $2::text[], $3::text[], $4::text[])) as k (location, probe, folder, file)
		order by location, probe, folder, file
		on conflict (location, probe, folder, file) do update set owner = excluded.owner, expires = excluded.expires
		where c.owner = excluded.owner or c.expires < clock_timestamp()
		returning probe, folder, file`, l, p, f, n, sqlstore.Clean(owner), ttl.Seconds())
	var k store.Key
	_, err := pgx.ForEachRow(rows, []any{&k.Probe, &k.Folder, &k.File}, func() error {
		got = append(got, k)
		return nil
	})
	return got, err
}

// cleanClaims removes expired claims, at most once per cleanEvery. It skips
// claims that another client is updating. Errors are only logged.
func (d *DB) cleanClaims(ctx context.Context) {
	last, now := d.claims.cleaned.Load(), time.Now().Unix()
	if now-last < int64(cleanEvery/time.Second) || !d.claims.cleaned.CompareAndSwap(last, now) {
		return
	}
	table := d.claimsTable().Sanitize()
	_, err := d.Pool.Exec(ctx, "delete from "+table+" where ctid = any(array(select ctid from "+table+
		" where expires < clock_timestamp() for update skip locked))")
	if err != nil {
		d.Log.Debug("expired claims not removed", "store", d.url, "err", err)
	}
}

// Release implements store.Claimer.
func (d *DB) Release(ctx context.Context, owner string, keys []store.Key) error {
	if len(keys) == 0 || d.claims.denied.Load() {
		return nil
	}
	l, p, f, n, _ := d.columnsOf(keys)
	_, err := d.Pool.Exec(ctx, "delete from "+d.claimsTable().Sanitize()+` as c
		using unnest($1::text[], $2::text[], $3::text[], $4::text[]) as k (location, probe, folder, file)
		where (c.location, c.probe, c.folder, c.file) = (k.location, k.probe, k.folder, k.file) and c.owner = $5`, l, p, f, n, sqlstore.Clean(owner))
	if CodeOf(err) == "42P01" {
		return nil
	}
	return Classify(err)
}
