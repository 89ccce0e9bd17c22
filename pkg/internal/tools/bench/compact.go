package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// compactTarget is the minimum speed of compaction, in bytes of Parquet read per second.
const compactTarget = 200e6

// compactProbes is the number of probes in the compacted store. The logs of all probes
// have the same contents.
const compactProbes = 4

// caseCompact compares the compaction of a store with copying the same bytes without
// parsing them. The store has the logs of several probes; see compactProbes. A second
// comparison uses shorter logs, whose rows the compaction must reencode.
func (b *bench) caseCompact(ctx context.Context) error {
	for _, c := range []struct {
		name    string
		rows    int64
		folders int
		target  float64
	}{
		{"compact / cat && sync, 24 logs", b.rows, 24, compactTarget},
		{"compact / cat && sync, 48 short logs", min(b.rows, 24*48*25), 48, 0},
	} {
		if err := b.compactOne(ctx, c.name, c.rows, c.folders, c.target); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) compactOne(ctx context.Context, name string, rows int64, folders int, target float64) error {
	t, err := b.generate(ctx, rows, folders, 24*time.Hour/time.Duration(folders)/2)
	if err != nil {
		return err
	}
	store := filepath.Join(b.out(), "store")
	// copied creates a store written by the same binary, since older binaries may
	// not read newer stores.
	copied := func(ctx context.Context) error {
		made := filepath.Join(b.dir, fmt.Sprintf("store-%dx%d-%s", rows, folders, filepath.Base(b.binary)))
		if _, err := os.Stat(made); err != nil {
			part := made + ".part"
			if err := os.RemoveAll(part); err != nil {
				return err
			}
			for i := range compactProbes {
				if _, _, err := b.importTo(ctx, t, "parquet:"+part, fmt.Sprint("--probe=p", i)); err != nil {
					return err
				}
			}
			if err := os.Rename(part, made); err != nil {
				return err
			}
		}
		if err := b.fresh(ctx); err != nil {
			return err
		}
		return exec.CommandContext(ctx, "sh", "-c", `cp -a "$0" "$1" && sync`, made, store).Run()
	}
	var bytes float64
	ours := func(ctx context.Context) (usage, error) {
		if err := copied(ctx); err != nil {
			return usage{}, err
		}
		u, err := b.run(ctx, b.tstatrepo("store compact", "--closed-after=0s", "--jobs=2", "--json",
			"--state-dir="+filepath.Join(b.out(), "state"), store)...)
		if err != nil {
			return u, err
		}
		var s struct{ Files, Into, Rows, Bytes int64 }
		if err := json.Unmarshal(u.out, &s); err != nil {
			return u, fmt.Errorf("%w: %s", err, tail(u.out))
		}
		if s.Rows != compactProbes*t.rows {
			return u, fmt.Errorf("%d rows compacted of %d", s.Rows, compactProbes*t.rows)
		}
		bytes = float64(s.Bytes)
		return u, nil
	}
	peer := func(ctx context.Context) (usage, error) {
		if err := copied(ctx); err != nil {
			return usage{}, err
		}
		return b.run(ctx, "sh", "-c", `for day in "$0"/type=*/probe=*/date=*; do cat "$day"/*.parquet >"$day.cat" & done; wait; sync`, store)
	}
	if _, err := ours(ctx); err != nil { // determines the number of bytes
		return err
	}
	if err := b.compare(ctx, name+", MB/s", bytes/1e6, 0, ours, peer); err != nil {
		return err
	}
	if target > 0 && b.base == nil {
		r := &b.results[len(b.results)-1]
		r.target, r.met = fmt.Sprintf(">= %g MB/s", target/1e6), b.median >= target/1e6
	}
	return nil
}
