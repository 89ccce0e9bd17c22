package manifest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"syscall"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/losslessjson"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// Tx reads and changes a manifest while Manifest.Update or Manifest.View holds the lock
// of the store.
type Tx struct {
	m   *Manifest
	out bytes.Buffer
}

// Update calls f under an exclusive lock of the store. It then writes the changes that f
// has made, even if f returned an error.
func (m *Manifest) Update(ctx context.Context, f func(*Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.lock(ctx, syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", m.path, err)
	}
	defer func() { syscall.Flock(int(m.f.Fd()), syscall.LOCK_UN) }()
	if err := m.load(); err != nil {
		return err
	}
	tx := &Tx{m: m}
	if m.read == 0 {
		// The file is new, or its first process died while writing the
		// first line.
		if err := m.f.Truncate(0); err != nil {
			return err
		}
		m.torn, m.format = false, format
		fmt.Fprintf(&tx.out, "%s%d %s\n", banner, format, m.kind)
	}
	err := f(tx)
	return errors.Join(err, tx.flush())
}

// View calls f under a shared lock of the store, so that no process changes the store
// while f runs. f must not change anything either. View also works for a read-only
// manifest.
func (m *Manifest) View(ctx context.Context, f func(*Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.f == nil {
		return f(&Tx{m: m})
	}
	if err := m.lock(ctx, syscall.LOCK_SH); err != nil {
		return fmt.Errorf("lock %s: %w", m.path, err)
	}
	defer func() { syscall.Flock(int(m.f.Fd()), syscall.LOCK_UN) }()
	if err := m.load(); err != nil {
		return err
	}
	return f(&Tx{m: m})
}

// lock locks the log, with syscall.LOCK_EX or syscall.LOCK_SH. It polls, because ctx
// cannot interrupt a flock that waits in the kernel.
func (m *Manifest) lock(ctx context.Context, how int) error {
	for b := retry.New(time.Millisecond, 50*time.Millisecond); ; {
		err := syscall.Flock(int(m.f.Fd()), how|syscall.LOCK_NB)
		if err == nil {
			// The previous holder of the lock may have rewritten
			// the log.
			reopened, err := m.reopenIfReplaced()
			if !reopened || err != nil {
				return err
			}
			continue
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return err
		}
		if b.Wait(ctx) != nil {
			return ctx.Err()
		}
	}
}

// Lookup returns the entries of a key.
func (tx *Tx) Lookup(k store.Key) []Entry { return slices.Clone(tx.m.entries[k]) }

// CountAt returns the number of entries with the given location.
func (tx *Tx) CountAt(location string) int { return tx.m.countAt[location] }

// Doubtful reports whether entries may be missing or outdated, because lines
// were damaged or truncated, or because an older version wrote the manifest.
// The store must then read its files and call Rewrite.
func (tx *Tx) Doubtful() bool { return tx.Damaged() || tx.m.format < format }

// Damaged reports whether lines of the manifest were damaged or truncated.
func (tx *Tx) Damaged() bool { return tx.m.damaged > 0 || tx.m.torn }

// Complete reports whether the manifest has an entry for every record of the
// stored file at e.Location.
func (tx *Tx) Complete(e Entry) bool {
	return e.FileRecords > 0 && e.FileRecords == tx.CountAt(e.Location)
}

// Rewrite durably replaces the manifest with one line per entry.
func (tx *Tx) Rewrite() error {
	tx.out.Reset()
	return tx.m.rewrite()
}

// All calls f for every entry.
func (tx *Tx) All(f func(Entry)) {
	for _, es := range tx.m.entries {
		for _, e := range es {
			f(e)
		}
	}
}

// Put adds an entry. It replaces the existing entry of the same record, if
// any.
func (tx *Tx) Put(e Entry) { tx.add(line{Put: &e}) }

// Delete removes the entry for r; see store.Record.Same.
func (tx *Tx) Delete(r store.Record) { tx.add(line{Delete: &id{r.Key, r.SHA256, r.Place}}) }

// Find returns the entry for r; see store.Record.Same.
func (tx *Tx) Find(r store.Record) (Entry, bool) {
	es := tx.m.entries[r.Key]
	if i := slices.IndexFunc(es, func(e Entry) bool { return e.Same(r) }); i >= 0 {
		return es[i], true
	}
	return Entry{}, false
}

// Replaced returns the entries that store.FileTx.Commit must remove when it stores r.
// Replaced returns store.ErrDuplicate or store.ErrConflict under the conditions that
// store.FileTx documents.
func (tx *Tx) Replaced(r store.Record, known, replace []store.Record) ([]Entry, error) {
	isKnown, isReplaced := store.Texts(known), store.Texts(replace)
	var replaced []Entry
	conflict := false
	for _, e := range tx.Lookup(r.Key) {
		switch {
		case isReplaced[e.Text()]:
			replaced = append(replaced, e)
		case e.Same(r):
			return nil, store.ErrDuplicate
		case isKnown[e.Text()]:
		case r.Clashes(e.Record):
			return nil, store.ErrDuplicate
		default:
			conflict = true
		}
	}
	if conflict {
		return nil, store.ErrConflict
	}
	return replaced, nil
}

func (tx *Tx) add(l line) {
	tx.m.apply(l)
	tx.m.lines++
	tx.out.Write(encode(l))
}

func encode(l line) []byte {
	js, err := losslessjson.Marshal(l)
	if err != nil {
		panic(err) // marshaling plain fields cannot fail
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(js, castagnoli), js)
}

// Sync makes all changes so far durable. Call it before removing files whose
// records would then exist only in the manifest.
func (tx *Tx) Sync() error {
	return errors.Join(tx.flush(), durable.Sync(tx.m.f))
}

func (tx *Tx) flush() error {
	if tx.out.Len() == 0 {
		return nil
	}
	p := tx.out.Bytes()
	defer tx.out.Reset()
	if tx.m.torn {
		p = append([]byte{'\n'}, p...)
	}
	// A partly written line is later skipped, since its checksum does not
	// match.
	_, err := tx.m.f.Write(p)
	tx.m.torn = err != nil
	info, serr := tx.m.f.Stat()
	if serr == nil {
		tx.m.read = info.Size()
	}
	if err = errors.Join(err, serr); err != nil {
		return fmt.Errorf("write %s: %w", tx.m.path, err)
	}
	return nil
}
