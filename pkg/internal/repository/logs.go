package repository

import (
	"context"
	"errors"
	"sync"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/upkeep"
)

// LogsOptions are those of the endpoint for logs. Its stores are those of
// Stores, also for Math and Upkeep.
type LogsOptions struct {
	Math   mathproto.RepositoryOptions
	Stores StoreOptions
	Upkeep upkeep.Options
}

// Logs is the endpoint for logs: a repository of MATH, the stores of its
// streams, and what maintains them while it runs.
type Logs struct {
	*mathproto.Repository
	Keeper *upkeep.Keeper
	stores *Stores
}

// NewLogs opens what can be opened at once. Run must be called.
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

// Continue makes the figures of an endpoint that has ended continue in this one,
// which does not run yet.
func (l *Logs) Continue(former *Logs) {
	if former != nil {
		l.Repository.Continue(former.Repository)
		l.Keeper.Continue(former.Keeper)
	}
}

// Stats returns what became of all streams, by their numbers.
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
