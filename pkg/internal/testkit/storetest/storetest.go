// Package storetest is the conformance suite for all stores. It checks the
// behavior that the import engine relies on, with a real store.
package storetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Harness gives access to the store under test.
type Harness struct {
	// Open opens the store as another process would. All calls within one
	// subtest open the same store.
	Open func(t *testing.T) store.Store
	// Count returns the number of rows that readers of the store see for a log type
	// and probe.
	Count func(t *testing.T, logType, probe string) int
	// NoReplace means that the store refuses to replace rows.
	NoReplace bool
	// Older, if not nil, reverts the store to the form of the last version without
	// places, and opens it with ReadOnly. That form lacks some columns.
	Older func(t *testing.T) store.Store
}

// Run tests a store. For each subtest it calls newHarness, which must return a
// separate, empty store.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	for name, test := range map[string]func(*suite){
		"commit":     (*suite).commit,
		"abort":      (*suite).abort,
		"duplicate":  (*suite).duplicate,
		"conflict":   (*suite).conflict,
		"two texts":  (*suite).twoTexts,
		"grown":      (*suite).grown,
		"refresh":    (*suite).refresh,
		"empty":      (*suite).empty,
		"lookup":     (*suite).lookup,
		"probes":     (*suite).probes,
		"versions":   (*suite).versions,
		"concurrent": (*suite).concurrent,
		"names":      (*suite).names,
		"not finite": (*suite).notFinite,
		"cancelled":  (*suite).cancelled,
		"hashes":     (*suite).hashes,
		"claims":     (*suite).claims,
		"records":    (*suite).allRecords,
		"count":      (*suite).count,
		"verify":     (*suite).verify,
		"prune":      (*suite).prune,
		"prune all":  (*suite).pruneAll,
		"places":     (*suite).places,
		"older":      (*suite).older,
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			s := &suite{T: t, Harness: h, ctx: context.Background(), store: h.Open(t)}
			test(s)
			if err := s.store.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
}

type suite struct {
	*testing.T
	Harness
	ctx   context.Context
	store store.Store
}

const logType = "log_udp_complete"

// damagedPlace is a place of a logFile. For files at this place, write sets Damaged and
// Transform in the record.
const damagedPlace = "damaged"

// transformOf returns the Transform that write sets in the record of f.
func transformOf(f logFile) string {
	if f.place == damagedPlace {
		return "tstat key=0123456789abcdef names=keep"
	}
	return ""
}

// logFile is a file to store.
type logFile struct {
	probe, folder, text string
	place               string
}

func (s *suite) file(text string) logFile {
	return logFile{probe: "p1", folder: "2016_03_24_21_37.out", text: text}
}

// rows returns the content of a log with n rows that have the domain name fqdn.
func rows(n int, fqdn string) string {
	return rowsAt(time.UnixMilli(1458855462170), n, fqdn)
}

// rowsAt is like rows, but all rows have the given time.
func rowsAt(at time.Time, n int, fqdn string) string {
	var b strings.Builder
	b.WriteString("#c_ip:1 c_port:2 c_first_abs:3 c_durat:4 c_isint:5 fqdn:6\n")
	for i := range n {
		fmt.Fprintf(&b, "10.0.0.1 %d %d.811035 1.5 1 %s\n", i, at.UnixMilli(), fqdn)
	}
	return b.String()
}

// write begins a transaction and writes f's rows, but does not commit. It also returns
// the record to commit.
func (s *suite) write(st store.Store, f logFile) (store.FileTx, store.Record) {
	s.Helper()
	tx, rec, err := write(s.ctx, st, f)
	if err != nil {
		s.Fatal(err)
	}
	return tx, rec
}

func write(ctx context.Context, st store.Store, f logFile) (store.FileTx, store.Record, error) {
	typ := tstat.TypeByName(logType)
	folder, err := tstat.ParseFolder(f.folder, time.UTC)
	if err != nil {
		return nil, store.Record{}, err
	}
	info := store.FileInfo{
		Key: store.Key{Probe: f.probe, Folder: f.folder, File: logType}, Type: typ,
		Time: folder.Time, Name: path.Join(f.probe, f.place, f.folder, logType), ModTime: time.Unix(1458860000, 5000),
	}
	sum := sha256.Sum256([]byte(f.text))
	rec := store.Record{
		Key: info.Key, Fingerprint: store.Fingerprint{SHA256: hex.EncodeToString(sum[:]), Length: int64(len(f.text))},
		Place: f.place, Head: "70:0123456789ab,cdef01234567", Damaged: f.place == damagedPlace, Transform: transformOf(f),
		Size: int64(len(f.text)), ModTime: info.ModTime, Path: path.Join("/var/lib/tstat", f.place, f.folder, logType),
		Type: logType, Layout: "header 6", Time: folder.Time, Imported: time.Unix(1458861000, 0).UTC(),
	}
	if raw, ok := st.(store.RawStore); ok {
		tx, err := raw.BeginRaw(ctx, info)
		if err != nil {
			return nil, rec, err
		}
		rec.Rows = int64(strings.Count(f.text, "\n") - strings.Count(f.text, "#"))
		return tx, rec, tx.WriteRaw(ctx, []byte(f.text))
	}
	r := tstat.NewReader(strings.NewReader(f.text), typ, tstat.ReaderOptions{})
	b, err := r.Next()
	info.Columns = r.Columns()
	tx, berr := st.Begin(ctx, info)
	if berr != nil {
		return nil, rec, berr
	}
	for ; err == nil; b, err = r.Next() {
		if err := tx.Write(ctx, b); err != nil {
			return tx, rec, err
		}
	}
	rec.Rows = r.Counts().Rows
	if err == io.EOF {
		err = nil
	}
	return tx, rec, err
}

// records returns the store's records with r's key.
func (s *suite) records(st store.Store, r store.Record) []store.Record {
	s.Helper()
	rs, err := st.Lookup(s.ctx, []store.Key{r.Key})
	if err != nil {
		s.Fatal(err)
	}
	return rs
}

// put stores f, replacing the given records, and returns the record of f.
func (s *suite) put(st store.Store, f logFile, replace ...store.Record) store.Record {
	s.Helper()
	tx, rec := s.write(st, f)
	if err := tx.Commit(s.ctx, rec, s.records(st, rec), replace); err != nil {
		s.Fatal(err)
	}
	if err := tx.Abort(); err != nil {
		s.Errorf("abort after commit: %v", err)
	}
	return rec
}

// want checks that readers see the given number of rows of f's probe. It also checks that
// the store has a record under f's key for each of the given texts, and no others.
func (s *suite) want(st store.Store, f logFile, rows int, texts ...string) {
	s.Helper()
	if got := s.Count(s.T, logType, f.probe); got != rows {
		s.Errorf("readers see %d rows, want %d", got, rows)
	}
	rs, err := st.Lookup(s.ctx, []store.Key{{Probe: f.probe, Folder: f.folder, File: logType}})
	if err != nil {
		s.Fatal(err)
	}
	var got, want []string
	for _, r := range rs {
		got = append(got, r.SHA256)
	}
	for _, t := range texts {
		sum := sha256.Sum256([]byte(t))
		want = append(want, hex.EncodeToString(sum[:]))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.Errorf("records of %d texts, want %d", len(got), len(want))
	}
}

// reopen closes the store and opens it again, as the next process would.
func (s *suite) reopen() store.Store {
	s.Helper()
	if err := s.store.Close(); err != nil {
		s.Fatal(err)
	}
	s.store = s.Open(s.T)
	return s.store
}
