package repository

import (
	"context"
	"errors"
	"sync"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/upkeep"
)

// LogsOptions configures the endpoint for logs. Stores is used for Math and
// Upkeep too.
type LogsOptions struct {
	Math   mathproto.RepositoryOptions
	Stores StoreOptions
	Upkeep upkeep.Options
}

// Logs is the endpoint for logs: a repository of MATH, the stores of its
// streams, and their upkeep while it runs.
type Logs struct {
	*mathproto.Repository
	Keeper *upkeep.Keeper
	stores *Stores
}

// NewLogs opens the parts that do not depend on a server. Run must be called.
func NewLogs(ctx context.Context, opt LogsOptions) (*Logs, error) {
	pool, err := OpenStores(ctx, opt.Stores)
	if err != nil {
		return nil, err
	}
	opt.Math.Stores, opt.Upkeep.To = pool, opt.Stores.To
	repo, err := mathproto.NewRepository(opt.Math)
	if err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	return &Logs{repo, upkeep.New(opt.Upkeep), pool}, nil
}

// Run serves until ctx ends, and closes the stores.
func (l *Logs) Run(ctx context.Context) error {
	keeping, stop := context.WithCancel(ctx)
	defer stop()
	var keeper sync.WaitGroup
	keeper.Go(func() { l.Keeper.Run(keeping) })
	err := l.Repository.Run(ctx)
	stop()
	keeper.Wait()
	return errors.Join(err, l.stores.Close())
}

// Continue continues the figures of an endpoint that has ended in this one,
// which must not have started.
func (l *Logs) Continue(former *Logs) {
	if former != nil {
		l.Repository.Continue(former.Repository)
		l.Keeper.Continue(former.Keeper)
	}
}

// Stats returns the state of all streams, by their numbers.
func (l *Logs) Stats() []mathproto.StreamStats {
	var to []string
	for _, text := range l.stores.opt.To {
		to = append(to, dest.Redact(text))
	}
	list := l.Repository.Stats()
	for i := range list {
		list[i].To = to
	}
	return list
}
