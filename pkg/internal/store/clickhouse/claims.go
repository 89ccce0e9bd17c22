package clickhouse

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
)

// The table of claims is append-only. Renewing a claim inserts a row with the same claim
// number. Ending a claim inserts a row whose expiry time, in the column "until", is 0.
// Prune drops partitions that are more than a week old.
const (
	claimsOrder  = "(file, folder, probe, owner)"
	createClaims = ` (
	probe String,
	folder String,
	file String,
	owner String,
	claim UInt64,
	until UInt32,
	version Int64,
	at DateTime('UTC')
)`
)

// claim is an owner's unexpired claim on a key.
type claim struct {
	owner   string
	number  uint64
	version int64 // of its latest row
}

// Claim implements store.Claimer. It uses the server's clock in whole seconds, so a
// claim may be valid for up to two seconds longer than ttl. On a cluster, two owners
// may claim the same file if each asks a node to which the other's claim has not been
// replicated yet.
func (s *Store) Claim(ctx context.Context, owner string, keys []store.Key, ttl time.Duration) ([]store.Key, error) {
	keys = slices.DeleteFunc(slices.Clone(keys), func(k store.Key) bool { return !sqlstore.ValidKey(k) })
	var out []store.Key
	for chunk := range slices.Chunk(keys, claimKeys) {
		got, err := s.claim(ctx, owner, chunk, ttl)
		if err != nil {
			return nil, err
		}
		out = append(out, got...)
	}
	return out, nil
}

// claimKeys is the maximum number of keys in one statement.
const claimKeys = 500

func (s *Store) claim(ctx context.Context, owner string, keys []store.Key, ttl time.Duration) ([]store.Key, error) {
	host, err := s.liveHost(ctx)
	if err != nil {
		return nil, err
	}
	held, err := s.claims(ctx, host, keys)
	if err != nil {
		return nil, err
	}
	seconds := int64((ttl+time.Second-1)/time.Second) + 1
	var granted []store.Key
	own := map[store.Key]claim{} // claims to insert
	renewed := map[store.Key]claim{}
	for _, k := range keys {
		mine := slices.IndexFunc(held[k], func(c claim) bool { return c.owner == owner })
		switch {
		case mine >= 0:
			renewed[k] = held[k][mine]
		case len(held[k]) == 0:
			own[k] = claim{owner: owner, number: rand.Uint64()}
		}
	}
	for k, c := range renewed {
		granted = append(granted, k)
		own[k] = c
	}
	if len(own) == 0 {
		return nil, nil
	}
	if err := s.insertClaims(ctx, host, owner, own, seconds); err != nil {
		return nil, err
	}
	for k := range renewed {
		delete(own, k)
	}
	// Of two concurrent claims, the one with the larger number gives way.
	// If its owner did not see the other claim, the other claim gives way
	// after conflictWait.
	lost := map[store.Key]claim{}
	for end := time.Now().Add(conflictWait); len(own) > 0; {
		held, err := s.claims(ctx, host, claimedKeys(own))
		if err != nil {
			return nil, err
		}
		last := time.Now().After(end)
		for k, mine := range own {
			if i := slices.IndexFunc(held[k], func(c claim) bool { return c.owner == owner }); i >= 0 {
				mine = held[k][i]
			}
			others := slices.DeleteFunc(held[k], func(c claim) bool { return c.owner == owner })
			switch {
			case len(others) == 0:
				granted = append(granted, k)
			case last || slices.ContainsFunc(others, func(c claim) bool { return c.number < mine.number }):
				lost[k] = mine
			default:
				continue
			}
			delete(own, k)
		}
		if len(lost) > 0 {
			if err := s.insertClaims(ctx, host, owner, lost, 0); err != nil {
				return nil, err
			}
			clear(lost)
		}
		if len(own) > 0 {
			select {
			case <-time.After(conflictWait / 50):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	return granted, nil
}

func claimedKeys(m map[store.Key]claim) []store.Key {
	var keys []store.Key
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

// Release implements store.Claimer.
func (s *Store) Release(ctx context.Context, owner string, keys []store.Key) error {
	keys = slices.DeleteFunc(slices.Clone(keys), func(k store.Key) bool { return !sqlstore.ValidKey(k) })
	for chunk := range slices.Chunk(keys, claimKeys) {
		host, err := s.liveHost(ctx)
		if err != nil {
			return err
		}
		held, err := s.claims(ctx, host, chunk)
		if err != nil {
			return err
		}
		own := map[store.Key]claim{}
		for k, cs := range held {
			for _, c := range cs {
				if c.owner == owner {
					own[k] = c
				}
			}
		}
		if err := s.insertClaims(ctx, host, owner, own, 0); err != nil {
			return err
		}
	}
	return nil
}

// insertClaims inserts a row for each claim. The row makes the claim expire after the
// given number of seconds; 0 ends the claim. The row's version is the server's time as
// estimated by the client, but always greater than claim.version.
func (s *Store) insertClaims(ctx context.Context, host, owner string, claims map[store.Key]claim, seconds int64) error {
	if len(claims) == 0 {
		return nil
	}
	var parts []string
	now := time.Now().Add(s.offset).UnixNano()
	for k, c := range claims {
		parts = append(parts, "("+literals(k.Probe, k.Folder, k.File)+", toUInt64("+strconv.FormatUint(c.number, 10)+"), toInt64("+
			strconv.FormatInt(max(now, c.version+1), 10)+"))")
	}
	until := "0"
	if seconds > 0 {
		until = "toUnixTimestamp(now()) + " + strconv.FormatInt(seconds, 10)
	}
	return s.exec(ctx, host, s.insertParams(), "insert into "+name(s.cfg.database, sqlstore.ClaimsTable)+
		" (probe, folder, file, owner, claim, until, version, at) select c.1, c.2, c.3, "+text(owner)+", c.4, "+until+", c.5, now() from (select arrayJoin(["+strings.Join(parts, ", ")+"]) as c)")
}

// claims returns all owners' unexpired claims on keys.
func (s *Store) claims(ctx context.Context, host string, keys []store.Key) (map[store.Key][]claim, error) {
	var parts []string
	for _, k := range keys {
		parts = append(parts, "("+literals(k.File, k.Folder, k.Probe)+")")
	}
	out := map[store.Key][]claim{}
	err := s.query(ctx, host, nil, "select probe, folder, file, owner, claim, max(version) from "+name(s.cfg.database, sqlstore.ClaimsTable)+
		" where (file, folder, probe) in ("+strings.Join(parts, ", ")+") group by probe, folder, file, owner, claim"+
		" having argMax(until, version) > toUnixTimestamp(now())", func(row []string) error {
		if len(row) != 6 {
			return errFields
		}
		number, err := strconv.ParseUint(row[4], 10, 64)
		if err != nil {
			return err
		}
		version, err := strconv.ParseInt(row[5], 10, 64)
		k := store.Key{Probe: row[0], Folder: row[1], File: row[2]}
		out[k] = append(out[k], claim{row[3], number, version})
		return err
	})
	return out, err
}
