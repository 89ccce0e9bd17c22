package clickhouse

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/losslessjson"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
)

// conflictWait is how long a commit waits for a concurrent commit of the same file to be
// withdrawn. Claim waits just as long for a concurrent claim to end.
const conflictWait = 2 * time.Second

// CheckTransform returns an error if the table of records has no column for
// transforms, because an older version created it and the user has no permission to
// alter it.
func (s *Store) CheckTransform() error {
	if len(s.absentColumns()) == 0 {
		return nil
	}
	return hint.New("table "+s.filesTable()+", which an older version made, has no column "+colTransform, "import once as a user who may alter it")
}

// commit adds the record of the attempt with the given number; see store.FileTx. Another
// importer may commit the same file at the same time, so commit then reads the events
// again. Of two conflicting attempts, the one with the larger number gives way: its
// importer withdraws it. If this has not happened after conflictWait, the other attempt
// gives way.
func (s *Store) commit(ctx context.Context, host string, id uint64, r store.Record, known, replace []store.Record) error {
	texts := func(rs []store.Record) (out []string) {
		for _, k := range rs {
			out = append(out, k.Text())
		}
		return out
	}
	replaced := texts(replace)
	allowed := slices.DeleteFunc(texts(known), func(t string) bool { return t == r.Text() && !slices.Contains(replaced, t) })
	damaged := 0
	if r.Damaged {
		damaged = 1
	}
	columns, transform := fileColumns, ", "+literals(r.Transform)
	if len(s.absentColumns()) > 0 { // colTransform
		if r.Transform != "" {
			return s.CheckTransform()
		}
		columns, transform = fileColumns[:len(fileColumns)-1], ""
	}
	where := isKey(r.Key)
	sql := "insert into " + s.filesTable() + " (" + strings.Join(columns, ", ") + ") select " +
		literals(id, eventCommit, 0) + ", groupArrayIf(file_id, text in " + list(replaced) + "), " +
		literals(r.Probe, r.Folder, r.File, r.SHA256, r.Length, r.Size, r.ModTime.UnixNano(), losslessjson.Escape(r.Path), r.Type, sqlstore.Clean(r.Layout)) +
		", toDateTime(" + literals(r.Time.Unix()) + "), " + literals(r.Rows, r.Rejects, r.Cut, microsOf(r.Imported), noTime, losslessjson.Escape(r.Place), r.Head, damaged) + transform +
		" from (select file_id, anyIf(" + textOfEvent + ", event = " + text(eventCommit) + ") as text from " + s.filesTable() + " where " + where + " group by file_id having " + s.liveOnly(where) + ")" +
		" having countIf(text not in " + list(allowed) + ") = 0"
	if err := s.exec(ctx, host, s.insertParams(), sql); err != nil {
		return err
	}
	for end := time.Now().Add(conflictWait); ; {
		h, err := s.history(ctx, host, r.Key)
		if err != nil {
			return err
		}
		outcome, wait := h.judge(id, &r, allowed)
		if wait && time.Now().Before(end) {
			select {
			case <-time.After(conflictWait / 20):
				continue
			case <-ctx.Done():
			}
		}
		if outcome != nil && h[id] != nil {
			return errors.Join(outcome, s.withdraw(ctx, host, id, r))
		}
		return outcome
	}
}

// judge returns the outcome of committing record r for the attempt with the given number:
// nil, store.ErrDuplicate or store.ErrConflict. It also reports whether the caller should
// wait, because the outcome may become nil if other attempts are withdrawn. Records may
// already exist if allowed contains their Text.
func (h history) judge(id uint64, r *store.Record, allowed []string) (outcome error, wait bool) {
	live := h.live()
	own := h[id] // nil if the server inserted no commit
	if own != nil && own.replaced {
		return nil, false // by a later attempt that saw the commit
	}
	wait = own != nil
	for _, a := range live {
		same := a.rec.Text() == r.Text()
		if a.id == id || slices.Contains(allowed, a.rec.Text()) && (own == nil || !same) {
			continue
		}
		switch {
		case r.Clashes(a.rec) && (own == nil || a.id < id):
			return store.ErrDuplicate, false
		case same:
		default:
			outcome = store.ErrConflict
			wait = wait && a.id > id
		}
	}
	if own == nil && outcome == nil {
		outcome = store.ErrConflict // the conflicting attempt was withdrawn
	}
	return outcome, wait && outcome != nil
}

// withdraw withdraws an attempt's commit, even if ctx is done.
func (s *Store) withdraw(ctx context.Context, host string, id uint64, r store.Record) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return s.exec(ctx, host, s.insertParams(), "insert into "+s.filesTable()+" (file_id, event, probe, folder, file, sha256) values ("+
		literals(id, eventWithdraw, r.Probe, r.Folder, r.File, r.SHA256)+")")
}
