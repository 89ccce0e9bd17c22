package bulk

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/state"
	"github.com/tstatrepo/tstatrepo/pkg/store"
)

// lockAll takes the lock of every source and store, so that a slow cron job
// is not overtaken by the next.
func lockAll(stateDir string, sources []string, stores []store.Store) (unlock func(), err error) {
	var held []func()
	unlock = func() {
		for _, u := range held {
			u()
		}
	}
	seen := map[string]bool{}
	for _, src := range sources {
		if src == "-" {
			continue
		}
		abs, err := state.Absolute(src)
		if err != nil {
			unlock()
			return nil, err
		}
		for _, s := range stores {
			key := abs + "\x00" + absolute(s.String())
			if seen[key] {
				continue
			}
			seen[key] = true
			u, err := state.Lock(stateDir, key)
			if err != nil {
				unlock()
				if errors.Is(err, state.ErrLocked) {
					err = fmt.Errorf("import of %s into %s is %w", src, s, err)
				}
				return nil, err
			}
			held = append(held, u)
		}
	}
	return unlock, nil
}

// absolute makes the folder of a store's URL absolute: relative ones mean
// other folders elsewhere.
func absolute(url string) string {
	scheme, dir, ok := strings.Cut(url, ":")
	if abs, err := filepath.Abs(dir); ok && err == nil && !strings.HasPrefix(dir, "//") {
		return scheme + ":" + abs
	}
	return url
}
