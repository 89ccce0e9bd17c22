package clickhouse

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/losslessjson"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
)

// The kinds of events. The table of records is an append-only list of events. Each row
// of a log carries the number of the attempt that stored it, and is visible if this
// attempt has a record.
//
// An attempt is live once it has a commit event. It is no longer live once it has a
// withdraw event, or once it is replaced: the commit of another attempt lists it in the
// column "replaces", and that attempt was not withdrawn. Two importers can create live
// attempts with the same key, SHA-256 and place at the same time. In that case only the
// attempt with the smallest number has a record, so the result does not depend on the
// order in which a reader sees the events.
const (
	eventCommit   = "commit"
	eventRefresh  = "refresh"  // new size, mtime and path
	eventWithdraw = "withdraw" // the attempt conflicted with another one
	eventPrune    = "prune"    // the rows were removed
)

const createFiles = ` (
	file_id UInt64,
	event String,
	version UInt64,
	replaces Array(UInt64),
	probe String,
	folder String,
	file String,
	sha256 String,
	length Int64,
	size Int64,
	mtime_ns Int64,
	path String,
	type String,
	layout String,
	time DateTime('UTC'),
	rows Int64,
	rejects Int64,
	cut Int64,
	imported_us Int64,
	pruned_us Int64,
	place String,
	head String,
	damaged UInt8,
	transform String
)`

// addedColumns lists the columns of createFiles that the first versions lacked. Only
// the records of transformed logs need colTransform.
var addedColumns = []string{"place String", "head String", "damaged UInt8", colTransform + " String"}

const colTransform = "transform"

// filesOrder is the sorting key of the table of records. Folder names sort by
// time.
const filesOrder = "(file, folder, probe, file_id, version)"

// fileColumns lists the columns of the table of records, in order.
var fileColumns = []string{"file_id", "event", "version", "replaces", "probe", "folder", "file", "sha256", "length", "size", "mtime_ns",
	"path", "type", "layout", "time", "rows", "rejects", "cut", "imported_us", "pruned_us", "place", "head", "damaged", colTransform}

// noTime represents an unset time in a column of microseconds.
const noTime = 0

// microsOf returns a time in microseconds since the epoch, or noTime.
func microsOf(t time.Time) int64 {
	if t.IsZero() {
		return noTime
	}
	return t.UnixMicro()
}

// timeOf is the inverse of microsOf.
func timeOf(us int64) time.Time {
	if us == noTime {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// event is one row in the table of records.
type event struct {
	id       uint64
	kind     string
	version  uint64
	replaces []uint64
	rec      store.Record
}

// eventFields lists fields of events. A query for readEvent must select these fields,
// followed by the columns in addedColumns.
const eventFields = "file_id, event, version, arrayStringConcat(arrayMap(x -> toString(x), replaces), ','), probe, folder, file, sha256, length, size, " +
	"mtime_ns, path, type, layout, toUnixTimestamp(time), rows, rejects, cut, imported_us, pruned_us"

// readEvent parses a row from the table of records.
func readEvent(row []string) (e event, err error) {
	if len(row) != len(fileColumns) {
		return e, fmt.Errorf("%d fields, not %d", len(row), len(fileColumns))
	}
	number := func(i int) int64 {
		x, nerr := strconv.ParseInt(row[i], 10, 64)
		if err == nil && nerr != nil {
			err = fmt.Errorf("%s: %w", fileColumns[i], nerr)
		}
		return x
	}
	// limited parses a number from 0 to most, since times beyond most
	// cannot be formatted.
	limited := func(i int, most int64) int64 {
		x := number(i)
		if err == nil && (x < 0 || x > most) {
			err = fmt.Errorf("%s: %d is out of range", fileColumns[i], x)
		}
		return x
	}
	id := func(text string) uint64 {
		x, nerr := strconv.ParseUint(text, 10, 64)
		if err == nil {
			err = nerr
		}
		return x
	}
	e.id, e.kind, e.version = id(row[0]), row[1], id(row[2])
	if row[3] != "" {
		for part := range strings.SplitSeq(row[3], ",") {
			e.replaces = append(e.replaces, id(part))
		}
	}
	r := &e.rec
	r.Probe, r.Folder, r.File, r.SHA256 = row[4], row[5], row[6], row[7]
	r.Length, r.Size, r.ModTime, r.Path = number(8), number(9), time.Unix(0, number(10)).UTC(), losslessjson.Unescape(row[11])
	r.Type, r.Layout, r.Time = row[12], row[13], time.Unix(limited(14, maxSeconds), 0).UTC()
	r.Rows, r.Rejects, r.Cut = number(15), number(16), number(17)
	r.Imported, r.Pruned = timeOf(limited(18, maxTime)), timeOf(limited(19, maxTime))
	r.Place, r.Head, r.Damaged = losslessjson.Unescape(row[20]), row[21], row[22] == "1"
	r.Transform = row[23]
	r.Location = row[0]
	return e, err
}

// attempt is the state of one attempt to store a file, after all its events.
type attempt struct {
	event            // the commit, updated by later events
	changed   uint64 // version of the last refresh
	committed bool
	withdrawn bool
	replaced  bool
}

// history holds all attempts to store the file of one key, indexed by attempt number.
type history map[uint64]*attempt

// add updates the history with an event. Events may be added in any order.
func (h history) add(e event) {
	a := h[e.id]
	if a == nil {
		a = &attempt{}
		h[e.id] = a
	}
	switch e.kind {
	case eventCommit:
		old := a.rec
		a.event, a.committed = e, true
		if a.changed > 0 {
			a.rec.Size, a.rec.ModTime, a.rec.Path = old.Size, old.ModTime, old.Path
		}
		a.rec.Pruned = old.Pruned
	case eventRefresh:
		if e.version > a.changed {
			a.changed = e.version
			a.rec.Size, a.rec.ModTime, a.rec.Path = e.rec.Size, e.rec.ModTime, e.rec.Path
		}
	case eventWithdraw:
		a.withdrawn = true
	case eventPrune:
		a.rec.Pruned = e.rec.Pruned
	}
}

// live returns the live attempts, ordered by number.
func (h history) live() []*attempt {
	for _, a := range h {
		if a.committed && !a.withdrawn {
			for _, id := range a.replaces {
				if b := h[id]; b != nil {
					b.replaced = true
				}
			}
		}
	}
	var out []*attempt
	for _, id := range slices.Sorted(maps.Keys(h)) {
		if a := h[id]; a.committed && !a.withdrawn && !a.replaced {
			out = append(out, a)
		}
	}
	return out
}

// records returns the records of the live attempts in h. If several records are the same
// (see store.Record.Same), it returns only that of the attempt with the smallest number.
func (h history) records() []store.Record {
	var out []store.Record
	for _, a := range h.live() {
		if !slices.ContainsFunc(out, func(r store.Record) bool { return r.Same(a.rec) }) {
			out = append(out, a.rec)
		}
	}
	return out
}

// textOfEvent is the SQL expression for store.Record.Text.
const textOfEvent = "if(place = '', sha256, concat(sha256, ' ', place))"

// filesTable returns the name of the table of records.
func (s *Store) filesTable() string { return name(s.cfg.database, sqlstore.FilesTable) }

// events calls f with each event that satisfies the given SQL condition.
func (s *Store) events(ctx context.Context, host, where string, f func(event) error) error {
	sql := "select " + eventFields
	absent := s.absentColumns()
	for _, def := range addedColumns {
		name, typ, _ := strings.Cut(def, " ")
		switch {
		case !slices.Contains(absent, def):
			sql += ", " + name
		case typ == "String":
			sql += ", ''"
		default:
			sql += ", 0"
		}
	}
	sql += " from " + s.filesTable() + " where " + where + " order by file, folder, probe"
	return s.query(ctx, host, nil, sql, func(row []string) error {
		e, err := readEvent(row)
		if err != nil {
			return err
		}
		return f(e)
	})
}

// isKey returns the SQL condition that selects the events of a key.
func isKey(k store.Key) string {
	return "file = " + text(k.File) + " and folder = " + text(k.Folder) + " and probe = " + text(k.Probe)
}

// history returns the attempt history of a key.
func (s *Store) history(ctx context.Context, host string, k store.Key) (history, error) {
	h := history{}
	err := s.events(ctx, host, isKey(k), func(e event) error { h.add(e); return nil })
	return h, err
}

// maxQuery is the maximum size, in bytes, of the list of keys in a query.
// Servers accept queries of up to 256 KiB.
const maxQuery = 128 << 10

// Lookup implements store.Store.
func (s *Store) Lookup(ctx context.Context, keys []store.Key) ([]store.Record, error) {
	return s.lookup(ctx, keys, "(file, folder, probe)", func(k store.Key) string {
		return "(" + text(k.File) + "," + text(k.Folder) + "," + text(k.Probe) + ")"
	})
}

// OtherProbes implements store.Store.
func (s *Store) OtherProbes(ctx context.Context, keys []store.Key) ([]store.Record, error) {
	own := map[store.Key]bool{}
	for _, k := range keys {
		own[k] = true
	}
	rs, err := s.lookup(ctx, keys, "(file, folder)", func(k store.Key) string { return "(" + text(k.File) + "," + text(k.Folder) + ")" })
	return slices.DeleteFunc(rs, func(r store.Record) bool { return own[r.Key] }), err
}

// lookup returns the records that match one of the keys. The caller passes the columns to
// compare, as an SQL tuple, and a function that returns the tuple of a key's values.
func (s *Store) lookup(ctx context.Context, keys []store.Key, columns string, values func(store.Key) string) ([]store.Record, error) {
	if s.empty {
		return nil, nil
	}
	if err := s.refreshAbsent(ctx); err != nil {
		return nil, err
	}
	histories := map[store.Key]history{}
	for len(keys) > 0 {
		var list strings.Builder
		n := 0
		for _, k := range keys {
			if n > 0 && list.Len() > maxQuery {
				break
			}
			if sqlstore.ValidKey(k) {
				if list.Len() > 0 {
					list.WriteByte(',')
				}
				list.WriteString(values(k))
			}
			n++
		}
		keys = keys[n:]
		if list.Len() == 0 {
			continue
		}
		err := s.events(ctx, "", columns+" in ("+list.String()+")", func(e event) error {
			h := histories[e.rec.Key]
			if h == nil {
				h = history{}
				histories[e.rec.Key] = h
			}
			h.add(e)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	var out []store.Record
	for _, h := range histories {
		out = append(out, h.records()...)
	}
	return out, nil
}

// Refresh implements store.Store.
func (s *Store) Refresh(ctx context.Context, r store.Record) error {
	if !sqlstore.ValidKey(r.Key) || s.empty {
		return nil
	}
	// The version is one greater than that of the previous refresh.
	sql := "insert into " + s.filesTable() + " (file_id, event, version, probe, folder, file, sha256, place, size, mtime_ns, path)" +
		" select file_id, " + text(eventRefresh) + ", max(version) + 1, probe, folder, file, sha256, place, " +
		literals(r.Size, r.ModTime.UnixNano(), losslessjson.Escape(r.Path)) + " from " + s.filesTable() + " where " + isKey(r.Key) + " and sha256 = " + text(r.SHA256) +
		" and place = " + text(losslessjson.Escape(r.Place)) + " group by file_id, probe, folder, file, sha256, place"
	return s.exec(ctx, "", s.insertParams(), sql)
}

// literals returns strings and integers as SQL text, separated by commas.
func literals(values ...any) string {
	var b strings.Builder
	for i, v := range values {
		if i > 0 {
			b.WriteString(", ")
		}
		switch v := v.(type) {
		case string:
			b.WriteString(text(v))
		default:
			fmt.Fprintf(&b, "%d", v)
		}
	}
	return b.String()
}

// list returns values of store.Record.Text as a list for SQL's IN. It adds an empty
// string to the list, because IN requires at least one element.
func list(texts []string) string {
	quoted := []string{"''"}
	for _, t := range texts {
		quoted = append(quoted, text(losslessjson.Escape(t)))
	}
	return "(" + strings.Join(quoted, ",") + ")"
}

// liveOnly returns an SQL condition for live attempts, the counterpart of history.live.
// It is for the HAVING clause of a query that selects events with the given WHERE
// condition and groups them by file_id.
func (s *Store) liveOnly(where string) string {
	withdrawn := "(select file_id from " + s.filesTable() + " where " + where + " and event = " + text(eventWithdraw) + ")"
	return "countIf(event = " + text(eventCommit) + ") > 0 and file_id not in " + withdrawn +
		" and file_id not in (select arrayJoin(replaces) from " + s.filesTable() + " where " + where +
		" and event = " + text(eventCommit) + " and file_id not in " + withdrawn + ")"
}

// visible returns a query for the numbers of the attempts whose rows are visible to
// readers of a log type's view.
func (s *Store) visible(logType string) string {
	place := ", place"
	if slices.Contains(s.absentColumns(), addedColumns[0]) {
		place = ""
	}
	where := "file = " + text(logType)
	gone := "(select file_id from " + s.filesTable() + " where " + where + " and event in (" + text(eventWithdraw) + ", " + text(eventPrune) + "))"
	withdrawn := "(select file_id from " + s.filesTable() + " where " + where + " and event = " + text(eventWithdraw) + ")"
	return "select min(file_id) from " + s.filesTable() + " where " + where + " and event = " + text(eventCommit) +
		" and file_id not in " + gone +
		" and file_id not in (select arrayJoin(replaces) from " + s.filesTable() + " where " + where + " and event = " + text(eventCommit) +
		" and file_id not in " + withdrawn + ") group by probe, folder, sha256" + place
}
