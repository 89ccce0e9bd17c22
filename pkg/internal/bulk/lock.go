package bulk

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
)

// lockAll locks each pair of source and store, so that no two imports of the same pair
// run at once, for example from cron. It returns the names of the locks.
func lockAll(stateDir string, sources []string, remote []Source, stores []Destination) (names []string, unlock func(), err error) {
	var held []func()
	unlock = func() {
		for _, u := range held {
			u()
		}
	}
	seen := map[string]bool{}
	lock := func(src, name string) error {
		for _, s := range stores {
			key := name + "\x00" + absolute(s.String())
			if seen[key] {
				continue
			}
			seen[key] = true
			u, err := state.Lock(stateDir, key)
			if errors.Is(err, state.ErrLocked) {
				return fmt.Errorf("import of %s into %s is %w", src, s, err)
			}
			if err != nil {
				return err
			}
			held, names = append(held, u), append(names, key)
		}
		return nil
	}
	for _, src := range sources {
		if src == "-" {
			continue
		}
		abs, err := state.Absolute(src)
		if err == nil {
			err = lock(src, abs)
		}
		if err != nil {
			unlock()
			return nil, nil, err
		}
	}
	for _, src := range remote {
		if err := lock(src.String(), src.String()); err != nil {
			unlock()
			return nil, nil, err
		}
	}
	return names, unlock, nil
}

// absolute makes the folder in a store's URL absolute, because a relative
// folder depends on the working directory.
func absolute(url string) string {
	scheme, dir, ok := strings.Cut(url, ":")
	if abs, err := filepath.Abs(dir); ok && err == nil && !strings.HasPrefix(dir, "//") {
		return scheme + ":" + abs
	}
	return url
}
