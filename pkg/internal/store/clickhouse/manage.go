package clickhouse

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
)

// logTypes returns the log types that have records.
func (s *Store) logTypes(ctx context.Context) ([]string, error) {
	if s.empty {
		return nil, nil
	}
	var types []string
	err := s.query(ctx, "", nil, "select distinct file from "+s.filesTable()+" order by file", func(row []string) error {
		types = append(types, row[0])
		return nil
	})
	return types, err
}

// histories calls f with the attempt history of each key. It reads only the events that
// satisfy the given SQL condition.
func (s *Store) histories(ctx context.Context, where string, f func(history) error) error {
	var key store.Key
	h := history{}
	err := s.events(ctx, "", where, func(e event) error {
		if e.rec.Key != key && len(h) > 0 {
			if err := f(h); err != nil {
				return err
			}
			h = history{}
		}
		key = e.rec.Key
		h.add(e)
		return nil
	})
	if err == nil && len(h) > 0 {
		err = f(h)
	}
	return err
}

// Records implements store.Manager.
func (s *Store) Records(ctx context.Context, f func(store.Record) error) error {
	types, err := s.logTypes(ctx)
	if err != nil {
		return err
	}
	for _, t := range types {
		err := s.histories(ctx, "file = "+text(t), func(h history) error {
			for _, r := range h.records() {
				if err := f(r); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// countRecords is the maximum number of records counted in one statement.
const countRecords = 1000

// Count implements store.Manager.
func (s *Store) Count(ctx context.Context, records []store.Record) ([]int64, error) {
	counts := make([]int64, len(records))
	byType := map[string][]int{}
	for i, r := range records {
		byType[r.File] = append(byType[r.File], i)
	}
	for t, indexes := range byType {
		if cols, err := s.columns(ctx, "", rowsTable(t)); err != nil {
			return nil, err
		} else if len(cols) == 0 {
			continue
		}
		slices.SortFunc(indexes, func(a, b int) int { return records[a].Time.Compare(records[b].Time) })
		for chunk := range slices.Chunk(indexes, countRecords) {
			if err := s.countOf(ctx, t, records, chunk, counts); err != nil {
				return nil, err
			}
		}
	}
	return counts, nil
}

// countOf sets counts[i] to the number of rows of records[i], for each i in indexes.
// These records must have the same log type and be ordered by time.
func (s *Store) countOf(ctx context.Context, logType string, records []store.Record, indexes []int, counts []int64) error {
	indexOf := map[uint64]int{}
	var keys []store.Key
	for _, i := range indexes {
		keys = append(keys, records[i].Key)
	}
	found, err := s.Lookup(ctx, keys)
	if err != nil {
		return err
	}
	var ids []string
	for _, r := range found {
		i := slices.IndexFunc(indexes, func(i int) bool { return records[i].Same(r) })
		id, err := strconv.ParseUint(r.Location, 10, 64)
		if i >= 0 && err == nil && r.Pruned.IsZero() {
			indexOf[id] = indexes[i]
			ids = append(ids, r.Location)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	first, last := records[indexes[0]].Time, records[indexes[len(indexes)-1]].Time
	sql := fmt.Sprintf("select %s, count() from %s where %s >= toDateTime(%d) and %[3]s <= toDateTime(%[5]d) and %[1]s in (%[6]s) group by %[1]s",
		colFile, name(s.cfg.database, rowsTable(logType)), colTime, first.Unix(), last.Unix(), strings.Join(ids, ","))
	return s.query(ctx, "", nil, sql, func(row []string) error {
		if len(row) != 2 {
			return errFields
		}
		id, err := strconv.ParseUint(row[0], 10, 64)
		if err != nil {
			return err
		}
		if i, ok := indexOf[id]; ok {
			counts[i], err = strconv.ParseInt(row[1], 10, 64)
		}
		return err
	})
}

// Prune implements store.Manager. For each log type, it first marks the records from
// before the given time as pruned, which hides their rows. Then it drops the partitions
// of the days before that time. It also removes the invisible rows of replaced files, of
// withdrawn attempts, and of attempts that started about two days ago or earlier and
// never got a record.
func (s *Store) Prune(ctx context.Context, before time.Time, dryRun bool) (store.PruneResult, error) {
	var res store.PruneResult
	types, err := s.logTypes(ctx)
	if err != nil {
		return res, err
	}
	for _, t := range types {
		if err := s.pruneType(ctx, t, before, dryRun, &res); err != nil {
			return res, fmt.Errorf("prune %s: %w", name(t), err)
		}
	}
	if dryRun || s.empty {
		return res, nil
	}
	return res, s.dropBefore(ctx, sqlstore.ClaimsTable, time.Now().Add(s.offset).UTC().AddDate(0, 0, -7))
}

func (s *Store) pruneType(ctx context.Context, logType string, before time.Time, dryRun bool, res *store.PruneResult) error {
	for {
		// An import of an old log may finish while partitions are
		// dropped, so repeat until no records are marked.
		marked, err := s.markPruned(ctx, logType, before, dryRun, res)
		if err != nil || dryRun {
			return err
		}
		cols, err := s.columns(ctx, "", s.dataTable(logType))
		if err != nil || len(cols) == 0 {
			return err
		}
		if err := s.dropBefore(ctx, s.dataTable(logType), before); err != nil {
			return err
		}
		if !marked {
			return s.sweep(ctx, logType)
		}
	}
}

// markPruned marks a log type's records from before the given time as pruned,
// and adds them to res. It reports whether it marked any.
func (s *Store) markPruned(ctx context.Context, logType string, before time.Time, dryRun bool, res *store.PruneResult) (bool, error) {
	// A folder's name is its time in an unknown zone, so allow two days. Folder names
	// of old Tstat versions begin with the hour.
	old := "file = " + text(logType) + " and (folder < " + text(before.UTC().AddDate(0, 0, 2).Format("2006_01_02")) + " or not match(folder, '^[0-9]{4}_'))"
	var body strings.Builder
	body.WriteString("insert into " + s.filesTable() + " (file_id, event, probe, folder, file, sha256, pruned_us) format TabSeparated\n")
	at := time.Now().Add(s.offset).UnixMicro()
	marked := false
	err := s.histories(ctx, old+" and (folder, probe) in (select folder, probe from "+s.filesTable()+" where "+old+
		" group by folder, probe, file_id having countIf(event = "+text(eventCommit)+") > 0 and countIf(event = "+text(eventPrune)+") = 0)", func(h history) error {
		for _, r := range h.records() {
			if r.Time.Before(before) && r.Pruned.IsZero() {
				res.Files++
				res.Rows += r.Rows
			}
		}
		for _, a := range h.live() {
			if r := a.rec; r.Time.Before(before) && r.Pruned.IsZero() {
				marked = true
				fmt.Fprintf(&body, "%d\t%s\t%s\t%s\t%s\t%s\t%d\n", a.id, eventPrune, quoter.Replace(r.Probe), quoter.Replace(r.Folder), quoter.Replace(r.File), quoter.Replace(r.SHA256), at)
			}
		}
		return nil
	})
	if err != nil || dryRun || !marked {
		return marked, err
	}
	return true, s.exec(ctx, "", s.insertParams(), body.String())
}

// dropBefore drops a table's partitions for days before the given time.
func (s *Store) dropBefore(ctx context.Context, table string, before time.Time) error {
	parts := "system.parts"
	if s.cluster {
		parts = "cluster(" + name(s.cfg.cluster) + ", system.parts)"
	}
	days := map[time.Time]bool{}
	err := s.query(ctx, "", nil, "select distinct partition from "+parts+" where active and database = "+text(s.cfg.database)+" and table = "+text(table), func(row []string) error {
		day, err := time.Parse(time.DateOnly, strings.Trim(row[0], "'"))
		if err == nil && day.Before(before.UTC().Truncate(24*time.Hour)) { // otherwise it has other partitions
			days[day] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, day := range slices.SortedFunc(maps.Keys(days), time.Time.Compare) {
		if err := s.change(ctx, "", nil, "alter table "+name(s.cfg.database, table)+s.onCluster()+" drop partition "+text(day.Format(time.DateOnly))); err != nil {
			return err
		}
	}
	return nil
}

// sweepRows is the maximum number of attempts whose rows one statement removes.
const sweepRows = 5000

// sweep removes the rows of attempts that were replaced, withdrawn or abandoned.
func (s *Store) sweep(ctx context.Context, logType string) error {
	where := "file = " + text(logType)
	known := "(select file_id from " + s.filesTable() + " where " + where + " and event = " + text(eventCommit) + ")"
	live := "(select file_id from " + s.filesTable() + " where " + where + " group by file_id having " + s.liveOnly(where) + ")"
	in, notIn := " in ", " not in "
	if s.cluster {
		in, notIn = " global in ", " global not in "
	}
	var dead []string
	oldest := time.Now().Add(s.offset).Add(-abandoned)
	err := s.query(ctx, "", nil, "select file_id, file_id"+in+known+" from "+name(s.cfg.database, rowsTable(logType))+" where file_id"+notIn+live+" group by file_id", func(row []string) error {
		if len(row) != 2 {
			return errFields
		}
		id, err := strconv.ParseUint(row[0], 10, 64)
		if err == nil && (row[1] == "1" || startOf(id).Before(oldest)) {
			dead = append(dead, row[0])
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.SortFunc(dead, cmp.Compare[string])
	for chunk := range slices.Chunk(dead, sweepRows) {
		if err := s.change(ctx, "", nil, "alter table "+name(s.cfg.database, s.dataTable(logType))+s.onCluster()+" delete where "+colFile+" in ("+strings.Join(chunk, ",")+")"); err != nil {
			return err
		}
	}
	return nil
}
