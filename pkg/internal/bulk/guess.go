package bulk

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// lookupElsewhere looks up the logs of tasks under the names of other probes. It does
// so only if the name of this probe is guessed from the host name, which changes with
// each run of a container. silent holds the stores that did not respond; they must not
// receive the files. lookupElsewhere returns an error if no store responds.
func (r *run) lookupElsewhere(ctx context.Context, tasks []*task) (silent storeSet, err error) {
	if !r.opt.ProbeGuessed || len(tasks) == 0 {
		return 0, nil
	}
	var keys []store.Key
	for _, t := range tasks {
		if t.key.Folder != "" && t.key.Probe == r.opt.Probe { // remote files name their probe
			keys = append(keys, t.key)
		}
	}
	if len(keys) == 0 {
		return 0, nil
	}
	var errs []error
	for _, d := range r.dests {
		if !r.passStores.has(d) {
			continue
		}
		err := r.use(ctx, d, func(s store.Store) error {
			for chunk := range slices.Chunk(keys, lookupKeys) {
				rs, err := s.OtherProbes(ctx, chunk)
				if err != nil {
					return err
				}
				r.mu.Lock()
				for _, rec := range rs {
					k := elsewhere{d.index, rec.Folder, rec.File}
					r.elsewhere[k] = append(r.elsewhere[k], rec)
				}
				r.mu.Unlock()
			}
			return nil
		})
		if err != nil && !errors.Is(err, store.ErrUnavailable) {
			return 0, err
		}
		if err != nil {
			silent.add(d)
		}
		errs = append(errs, err)
	}
	if !slices.Contains(errs, nil) {
		return 0, errors.Join(errs...)
	}
	return silent, nil
}

// elsewhere identifies a log in a store by everything but its probe.
type elsewhere struct {
	store        int // index in Options.Stores
	folder, file string
}

// checkElsewhere returns a guessError if store g has the text of r under the name of
// another probe. Logs without rows are not checked.
func (im *fileImport) checkElsewhere(g *target, r *store.Record) error {
	if r.Rows == 0 {
		return nil
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	for _, rec := range im.elsewhere[elsewhere{g.index, r.Folder, r.File}] {
		if rec.Fingerprint == r.Fingerprint && rec.Rows > 0 {
			return &guessError{g.dest.String(), r.Probe, rec.Probe}
		}
	}
	return nil
}

// guessError reports that a file is stored under the name of another probe, and
// that the name of this probe is guessed. It ends the run, because the other
// files would probably be stored twice as well.
type guessError struct{ store, guess, probe string }

func (e *guessError) Error() string {
	return fmt.Sprintf("%s: log already stored under probe %s; probe %s was derived from the host name", e.store, e.probe, e.guess)
}

// Hint implements the interface of package hint.
func (e *guessError) Hint() string {
	return "give the probe's name: `probe` " + e.probe + " if it is the same probe, `probe` " + e.guess + " if it is another one"
}
