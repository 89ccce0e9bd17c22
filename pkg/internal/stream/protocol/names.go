package protocol

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// MaxPath bounds the path of a log in a line, as Linux does.
const MaxPath = 4096

// maxTypes limits the logs of unknown types: sinks keep files and columns for
// each.
const maxTypes = 64

// nameAge is how long an unused name of a full Names keeps its room. Sinks
// never drop a name, so nameAge limits how fast a peer can invent names.
const nameAge = 24 * time.Hour

// PerPeer returns how many of most names one peer may add: a quarter.
func PerPeer(most int) int { return max(1, most/4) }

// Names is a set of names that peers chose. One peer cannot fill it.
type Names struct {
	mu    sync.Mutex
	names map[string]*nameUse
	held  map[string]int // number of names by the peer that added them
}

// nameUse records who added a name and when it was last used.
type nameUse struct {
	who  string
	last time.Time
}

// Add adds a name that a peer uses, see peer.Host, unless there are already
// most names, or PerPeer(most) of that peer. The peer "" is only limited by
// most. Add reports whether the set has the name, and whether it is new.
func (s *Names) Add(name, who string, most int) (has, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if use := s.names[name]; use != nil {
		use.last = now
		return true, false
	}
	room := func() bool { return len(s.names) < most && (who == "" || s.held[who] < PerPeer(most)) }
	if !room() {
		s.forget(now.Add(-nameAge))
	}
	if !room() {
		return false, false
	}
	if s.names == nil {
		s.names, s.held = map[string]*nameUse{}, map[string]int{}
	}
	s.names[name] = &nameUse{who, now}
	s.held[who]++
	return true, true
}

// used records that a name is in use, if it is in the set.
func (s *Names) used(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if use := s.names[name]; use != nil {
		use.last = time.Now()
	}
}

// forget removes the names that were last used before a time; the lock is held.
func (s *Names) forget(before time.Time) {
	for name, use := range s.names {
		if use.last.Before(before) {
			delete(s.names, name)
			if s.held[use.who]--; s.held[use.who] == 0 {
				delete(s.held, use.who)
			}
		}
	}
}

// Types are the unknown log names that peers have used.
type Types struct{ unknown Names }

// Check returns why lines of a log with this name are not accepted from a peer,
// or "".
func (n *Types) Check(name, who string) string {
	if _, suffix := compression.CutSuffix(name); !tstat.IsLog(name) || suffix != "" {
		return fmt.Sprintf("%q is not the name of a log", name)
	}
	if tstat.TypeByName(name) != nil {
		return ""
	}
	if has, _ := n.unknown.Add(name, who, maxTypes); !has {
		return fmt.Sprintf("%q is one unknown log too many, at most %d are accepted, %d of one host", name, maxTypes, PerPeer(maxTypes))
	}
	return ""
}

// WordChars are the characters of a name that can also be a token of a NATS
// subject.
const WordChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

// IsName reports whether name has 1 to most characters, and only these.
func IsName(name, chars string, most int) bool {
	return name != "" && len(name) <= most && strings.Trim(name, chars) == ""
}

// IsSession reports whether name is valid for a session or a probe: files and
// folders have such names, which programs must not mistake for options.
func IsSession(name string) bool { return IsName(name, WordChars, 64) && name[0] != '-' }
