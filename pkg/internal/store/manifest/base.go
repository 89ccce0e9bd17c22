package manifest

import (
	"context"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// Base implements the methods of store.Manager that need only the manifest.
// Stores embed it.
type Base struct{ m *Manifest }

// Base returns a Base that uses m.
func (m *Manifest) Base() Base { return Base{m} }

// Lookup implements store.Store.
func (b Base) Lookup(_ context.Context, keys []store.Key) ([]store.Record, error) {
	return b.m.Lookup(keys)
}

// OtherProbes implements store.Store.
func (b Base) OtherProbes(_ context.Context, keys []store.Key) ([]store.Record, error) {
	m := b.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.load(); err != nil {
		return nil, err
	}
	probes := map[string]bool{}
	for k := range m.entries {
		probes[k.Probe] = true
	}
	var rs []store.Record
	for _, k := range keys {
		for probe := range probes {
			if probe == k.Probe {
				continue
			}
			for _, e := range m.entries[store.Key{Probe: probe, Folder: k.Folder, File: k.File}] {
				rs = append(rs, e.Record)
			}
		}
	}
	return rs, nil
}

// Refresh implements store.Store.
func (b Base) Refresh(ctx context.Context, r store.Record) error {
	return store.Unavailable(b.m.Update(ctx, func(tx *Tx) error {
		if e, ok := tx.Find(r); ok {
			e.Size, e.ModTime, e.Path = r.Size, r.ModTime, r.Path
			tx.Put(e)
		}
		return nil
	}))
}

// Close implements store.Store.
func (b Base) Close() error { return b.m.Close() }

// Records implements store.Manager.
func (b Base) Records(_ context.Context, f func(store.Record) error) error {
	entries, err := b.m.All()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := f(e.Record); err != nil {
			return err
		}
	}
	return nil
}
