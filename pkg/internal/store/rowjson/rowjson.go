// Package rowjson prints the rows of logs as JSON. It stores nothing: every
// import prints every log.
package rowjson

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

var _ store.Manager = (*Store)(nil)

// Store prints each row as a JSON object on its own line: the log's type, probe
// and folder, then the columns. It prints rows as they are read, even if the import
// of their log fails later.
type Store struct {
	store.Defaults
	mu  sync.Mutex
	out io.Writer
}

// New returns a Store that prints to out.
func New(out io.Writer) *Store { return &Store{out: out} }

// String returns the destination's name.
func (s *Store) String() string { return "-" }

// Lookup finds nothing.
func (s *Store) Lookup(context.Context, []store.Key) ([]store.Record, error) { return nil, nil }

// OtherProbes finds nothing.
func (s *Store) OtherProbes(context.Context, []store.Key) ([]store.Record, error) { return nil, nil }

// Refresh does nothing.
func (s *Store) Refresh(context.Context, store.Record) error { return nil }

// Close does nothing.
func (s *Store) Close() error { return nil }

// Records never calls f.
func (s *Store) Records(context.Context, func(store.Record) error) error { return nil }

// Count is not supported.
func (s *Store) Count(context.Context, []store.Record) ([]int64, error) {
	return nil, errors.ErrUnsupported
}

// Verify is not supported.
func (s *Store) Verify(context.Context, store.VerifyOptions) error { return errors.ErrUnsupported }

// Prune is not supported.
func (s *Store) Prune(context.Context, time.Time, bool) (store.PruneResult, error) {
	return store.PruneResult{}, errors.ErrUnsupported
}

// Begin implements store.Store.
func (s *Store) Begin(_ context.Context, f store.FileInfo) (store.FileTx, error) {
	head, err := json.Marshal(struct {
		Type   string `json:"type"`
		Probe  string `json:"probe"`
		Folder string `json:"folder"`
	}{f.Type.Name, f.Probe, f.Folder})
	if err != nil {
		return nil, err
	}
	t := &tx{s: s, f: f, head: head[:len(head)-1]}
	for i, c := range f.Columns {
		if f.Kept != nil && !f.Kept[i] {
			continue
		}
		name, err := json.Marshal(c.Name)
		if err != nil {
			return nil, err
		}
		t.columns = append(t.columns, column{index: i, kind: c.Kind, name: fmt.Appendf(nil, ",%s:", name)})
	}
	return t, nil
}

type column struct {
	index int
	kind  tstat.Kind
	name  []byte // with comma and colon

	values tstat.Vector // values of a batch that were not printed yet
	has    bool
}

type tx struct {
	s       *Store
	f       store.FileInfo
	head    []byte
	columns []column
	text    bytes.Buffer
}

// Write prints the rows of b.
func (t *tx) Write(_ context.Context, b *tstat.Batch) error {
	t.text.Reset()
	for i := range t.columns {
		c := &t.columns[i]
		c.values, c.has = b.Column(c.index)
	}
	for row := range b.Len() {
		t.text.Write(t.head)
		for i := range t.columns {
			c := &t.columns[i]
			t.text.Write(c.name)
			if err := c.print(&t.text, row); err != nil {
				return err
			}
		}
		t.text.WriteString("}\n")
	}
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	_, err := t.s.out.Write(t.text.Bytes())
	return err
}

// print appends the value of c in the given row to text. NULL, NaN and infinity become
// null. Rows must be printed in order.
func (c *column) print(text *bytes.Buffer, row int) error {
	if !c.has || c.values.Def[row] == 0 {
		text.WriteString("null")
		return nil
	}
	switch v := &c.values; c.kind {
	case tstat.Int:
		text.Write(strconv.AppendInt(text.AvailableBuffer(), v.Ints[0], 10))
		v.Ints = v.Ints[1:]
	case tstat.Float:
		if x := v.Floats[0]; math.IsNaN(x) || math.IsInf(x, 0) {
			text.WriteString("null")
		} else {
			text.Write(strconv.AppendFloat(text.AvailableBuffer(), x, 'g', -1, 64))
		}
		v.Floats = v.Floats[1:]
	case tstat.Bool:
		text.Write(strconv.AppendBool(text.AvailableBuffer(), v.Bools[0]))
		v.Bools = v.Bools[1:]
	case tstat.Time:
		text.Write(time.UnixMicro(v.Ints[0]).UTC().AppendFormat(text.AvailableBuffer(), `"2006-01-02T15:04:05.000000Z"`))
		v.Ints = v.Ints[1:]
	case tstat.Text:
		value, err := json.Marshal(string(v.Texts[0]))
		if err != nil {
			return err
		}
		text.Write(value)
		v.Texts = v.Texts[1:]
	}
	return nil
}

// Flush implements store.FileTx.
func (t *tx) Flush(context.Context) (int64, error) { return 0, nil }

// Commit implements store.FileTx. Nothing is stored.
func (t *tx) Commit(context.Context, store.Record, []store.Record, []store.Record) error { return nil }

// Abort implements store.FileTx.
func (t *tx) Abort() error { return nil }
