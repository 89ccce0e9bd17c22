package repository

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/store"
	"github.com/tstatrepo/tstatrepo/pkg/store/stores"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// StoreOptions say where the streams of MATH probes go.
type StoreOptions struct {
	To     []string // destinations, see stores.Open
	Memory int64    // bytes that all jobs and stores may use together
	Jobs   int      // files at a time, of all streams
	// Wants reports whether files of a log type and folder time can come.
	Wants func(logType string, folder time.Time) bool
	Since time.Time // of the oldest folder that can come
	// RetryTimeout is how long a database that is away is waited for.
	RetryTimeout time.Duration
	// Adopt says by the names of streams what math_repo knew of them; of the
	// others it knew nothing. nil: there was none. Stream, Probe and Type are
	// set for each.
	Adopt map[string]store.Adoption
	Log   *slog.Logger
}

// Stores opens the stores of streams: those of DBStream for each, the others
// once for all. It is safe for concurrent use.
type Stores struct {
	opt StoreOptions

	mu     sync.Mutex
	ready  bool // shared are all open
	shared []store.Store
}

// OpenStores opens the stores that do not depend on a server, so that what is
// wrong with them is told at once.
func OpenStores(ctx context.Context, opt StoreOptions) (*Stores, error) {
	s := &Stores{opt: opt}
	for _, dest := range opt.To {
		if !stores.InFolder(dest) {
			continue
		}
		st, err := s.openOne(ctx, dest, mathproto.Stream{})
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.shared = append(s.shared, st)
	}
	return s, nil
}

// Close closes the stores that all streams share.
func (s *Stores) Close() error { return closeAll(s.shared) }

func closeAll(list []store.Store) error {
	var errs []error
	for _, st := range list {
		errs = append(errs, st.Close())
	}
	return errors.Join(errs...)
}

func (s *Stores) openOne(ctx context.Context, dest string, st mathproto.Stream) (store.Store, error) {
	return stores.Open(ctx, dest, stores.Options{
		Memory:       s.opt.Memory / int64(s.opt.Jobs*len(s.opt.To)),
		Log:          s.opt.Log,
		RetryTimeout: s.opt.RetryTimeout,
		Stream:       st.Name,
		StreamType:   st.Type,
	})
}

func (s *Stores) openShared(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready {
		return nil
	}
	var list []store.Store
	for _, dest := range s.opt.To {
		if stores.InFolder(dest) || stores.HasStreams(dest) {
			continue
		}
		st, err := s.openOne(ctx, dest, mathproto.Stream{})
		if err != nil {
			return errors.Join(err, closeAll(list))
		}
		list = append(list, st)
	}
	s.shared = append(s.shared, list...)
	s.ready = true
	return nil
}

// Open returns the stores of a stream; release ends their use. A database
// that is away is waited for.
func (s *Stores) Open(ctx context.Context, stream mathproto.Stream) (list []store.Store, release func() error, err error) {
	if err := s.openShared(ctx); err != nil {
		return nil, nil, err
	}
	var own []store.Store
	for _, dest := range s.opt.To {
		if !stores.HasStreams(dest) {
			continue
		}
		st, err := s.openOne(ctx, dest, stream)
		if err != nil {
			return nil, nil, errors.Join(err, closeAll(own))
		}
		own = append(own, st)
	}
	list = slices.Concat(s.shared, own)
	if err := s.adopt(ctx, list, stream); err != nil {
		return nil, nil, errors.Join(err, closeAll(own))
	}
	return list, func() error { return closeAll(own) }, nil
}

// adopt lets the stores take over what math_repo has stored of a stream.
func (s *Stores) adopt(ctx context.Context, list []store.Store, stream mathproto.Stream) error {
	if s.opt.Adopt == nil {
		return nil
	}
	a := s.opt.Adopt[stream.Name]
	a.Stream, a.Probe, a.Type = stream.Name, stream.Probe, stream.Type
	for _, st := range list {
		if err := stores.Adopt(ctx, st, a); err != nil {
			return fmt.Errorf("%s: %w", st, err)
		}
	}
	return nil
}

// Check reports whether the stores can take a stream.
func (s *Stores) Check(stream mathproto.Stream) error {
	for _, dest := range s.opt.To {
		switch {
		case stores.HasStreams(dest):
			if err := stores.CheckStream(stream.Name, stream.Probe, []string{stream.Type}); err != nil {
				return err
			}
			for _, t := range tstat.Types() { // each that may come needs a table
				if t.Name == stream.Type || !s.opt.Wants(t.Name, s.opt.Since) {
					continue
				}
				if err := stores.CheckStream(stream.Name+"_{type}", stream.Probe, []string{t.Name}); err != nil {
					return err
				}
			}
		case stores.InFolder(dest) && strings.HasPrefix(stream.Name, "_tstatrepo"):
			return errors.New("the stream's name is taken by the store")
		}
	}
	return nil
}
