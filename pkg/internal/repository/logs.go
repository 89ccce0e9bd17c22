package repository

import (
	"context"
	"errors"
	"sync"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/upkeep"
)

// LogsOptions configures the endpoint for logs. Math and Upkeep use the stores that
// Stores configures.
type LogsOptions struct {
	Math   mathproto.RepositoryOptions
	Stores StoreOptions
	Upkeep upkeep.Options
}

// Logs is the endpoint for logs. It combines a MATH repository, the stores of
// its streams, and the upkeep of these stores.
type Logs struct {
	*mathproto.Repository
	Keeper *upkeep.Keeper
	stores *Stores
}

// NewLogs starts listening, and opens the stores that do not need a server. The
// caller must call Run.
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

// Run serves until ctx is done, then closes the stores.
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

// Continue makes l continue the counts of an earlier endpoint that has ended. It does
// nothing if that endpoint is nil. Call it before Run.
func (l *Logs) Continue(former *Logs) {
	if former != nil {
		l.Repository.Continue(former.Repository)
		l.Keeper.Continue(former.Keeper)
	}
}

// Stats returns the state of all streams, ordered by ID.
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
