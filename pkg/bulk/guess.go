package bulk

import (
	"context"
	"fmt"

	"github.com/tstatrepo/tstatrepo/pkg/store"
)

// lookupElsewhere fetches what other probes have of the logs of tasks, if the
// name of the probe is a guess: the host name of a container is another one in
// each run.
func (r *run) lookupElsewhere(ctx context.Context, tasks []*task) error {
	if !r.opt.ProbeGuessed || len(tasks) == 0 {
		return nil
	}
	var keys []store.Key
	for _, t := range tasks {
		if t.key.Folder != "" && t.key.Probe == r.opt.Probe { // remote files have a probe of their own
			keys = append(keys, t.key)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	for i, s := range r.opt.Stores {
		var rs []store.Record
		err := r.retry(ctx, func() (err error) { rs, err = s.OtherProbes(ctx, keys); return err })
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		r.mu.Lock()
		for _, rec := range rs {
			k := elsewhere{i, rec.Folder, rec.File}
			r.elsewhere[k] = append(r.elsewhere[k], rec)
		}
		r.mu.Unlock()
	}
	return nil
}

// elsewhere names a log of any probe in a store.
type elsewhere struct {
	store        int // index in Options.Stores
	folder, file string
}

// checkElsewhere refuses a text with rows that a store has as that of another
// probe.
func (im *fileImport) checkElsewhere(index int, r *store.Record) error {
	if r.Rows == 0 {
		return nil
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	for _, rec := range im.elsewhere[elsewhere{index, r.Folder, r.File}] {
		if rec.Fingerprint == r.Fingerprint && rec.Rows > 0 {
			return &guessError{im.opt.Stores[index].String(), r.Probe, rec.Probe}
		}
	}
	return nil
}

// guessError is about a file that is stored under the name of another probe,
// while nobody chose the name of this one. It ends the run: the other files
// would be stored twice as well.
type guessError struct{ store, guess, probe string }

func (e *guessError) Error() string {
	return fmt.Sprintf("%s has this log already, as that of probe %s; the name %s was only guessed from the host name", e.store, e.probe, e.guess)
}

// Hint says what the user can do.
func (e *guessError) Hint() string {
	return "give the probe's name: `probe` " + e.probe + " if it is the same probe, `probe` " + e.guess + " if it is another one"
}
