package repository

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// StoreOptions configures the stores of MATH streams.
type StoreOptions struct {
	To     []string // destinations, see stores.Open
	Memory int64    // bytes for all jobs and stores together
	Jobs   int      // files processed at a time, over all streams
	Cores  int      // see stores.Options
	// Wants reports whether files with the given log type and folder time may
	// arrive.
	Wants func(logType string, folder time.Time) bool
	Since time.Time // time of the oldest folder that may arrive
	// Adopt maps stream names to the state that math_repo left behind; nil
	// disables adoption. Stores sets Stream, Probe and Type for each stream.
	Adopt map[string]store.Adoption
	Log   *slog.Logger
}

// Stores opens the stores of streams. A DBStream destination has one store per
// stream; other destinations have one store for all streams. Stores is safe for
// concurrent use.
type Stores struct {
	opt    StoreOptions
	shared map[string]*stores.Destination // by destination URL
}

// OpenStores opens the stores that do not need a server, so that their errors are
// reported at startup. Other stores are opened on first use.
func OpenStores(ctx context.Context, opt StoreOptions) (*Stores, error) {
	s := &Stores{opt: opt, shared: map[string]*stores.Destination{}}
	for _, dest := range opt.To {
		if stores.HasStreams(dest) {
			continue
		}
		d, err := s.destination(dest, mathproto.Stream{})
		if err == nil && stores.InFolder(dest) {
			_, err = d.Open(ctx)
		}
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.shared[dest] = d
	}
	return s, nil
}

// Close closes the stores that all streams share.
func (s *Stores) Close() error { return closeAll(slices.Collect(maps.Values(s.shared))) }

func closeAll(list []*stores.Destination) error {
	var errs []error
	for _, d := range list {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

func (s *Stores) destination(dest string, st mathproto.Stream) (*stores.Destination, error) {
	return stores.NewDestination(dest, stores.Options{
		// At most Jobs files are processed at a time. About as many
		// other files may be open with full buffers while they wait for
		// slow peers; see bulk.OpenPerJob.
		Memory:     s.opt.Memory / int64(2*s.opt.Jobs*len(s.opt.To)),
		Files:      2 * s.opt.Jobs,
		Cores:      s.opt.Cores,
		Log:        s.opt.Log,
		Stream:     st.Name,
		StreamType: st.Type,
	})
}

// Open returns the stores of a stream. Each store is opened on its first use. The caller
// must call release when it no longer uses the stores.
func (s *Stores) Open(stream mathproto.Stream) (list []bulk.Destination, release func() error, err error) {
	var own []*stores.Destination
	for _, dest := range s.opt.To {
		d := s.shared[dest]
		if d == nil {
			if d, err = s.destination(dest, stream); err != nil {
				return nil, nil, err
			}
			own = append(own, d)
		}
		list = append(list, &adopting{d, s.adoption(stream)})
	}
	return list, func() error { return closeAll(own) }, nil
}

// adoption returns what the stores of a stream adopt from math_repo, or nil if adoption
// is disabled.
func (s *Stores) adoption(stream mathproto.Stream) *store.Adoption {
	if s.opt.Adopt == nil {
		return nil
	}
	a := s.opt.Adopt[stream.Name]
	a.Stream, a.Probe, a.Type = stream.Name, stream.Probe, stream.Type
	return &a
}

// adopting is a destination that, when opened, adopts math_repo's data for a stream.
type adopting struct {
	*stores.Destination
	adoption *store.Adoption // may be nil
}

// Open implements bulk.Destination.
func (d *adopting) Open(ctx context.Context) (store.Store, error) {
	st, err := d.Destination.Open(ctx)
	if err != nil || d.adoption == nil {
		return st, err
	}
	if err := stores.Adopt(ctx, st, *d.adoption); err != nil {
		return nil, fmt.Errorf("%s: %w", st, err)
	}
	return st, nil
}

// Check returns an error if any of the stores cannot accept the stream.
func (s *Stores) Check(stream mathproto.Stream) error {
	for _, dest := range s.opt.To {
		switch {
		case stores.HasStreams(dest):
			if err := stores.CheckStream(stream.Name, stream.Probe, []string{stream.Type}); err != nil {
				return err
			}
			for _, t := range tstat.Types() { // each type that may arrive needs a table
				if t.Name == stream.Type || !s.opt.Wants(t.Name, s.opt.Since) {
					continue
				}
				if err := stores.CheckStream(stream.Name+"_{type}", stream.Probe, []string{t.Name}); err != nil {
					return err
				}
			}
		case stores.InFolder(dest) && strings.HasPrefix(stream.Name, "_tstatrepo"):
			return errors.New("the store already uses the stream's name")
		}
	}
	return nil
}
