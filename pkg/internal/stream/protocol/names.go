package protocol

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// MaxPath is the maximum length of a log's path in bytes, as on Linux.
const MaxPath = 4096

// maxTypes limits the number of unknown log types, since sinks keep files and
// columns for each.
const maxTypes = 64

// nameAge is how long a name must be unused before it is dropped to make room in a full
// set. Sinks never forget a name, so nameAge limits the rate at which a peer can invent
// names.
const nameAge = 24 * time.Hour

// PerPeer returns how many names a single peer may add to a set with the given limit: a
// quarter of the limit, but at least one.
func PerPeer(limit int) int { return max(1, limit/4) }

// Names is a set of names chosen by peers. A single peer cannot fill it. It is
// safe for concurrent use; the zero value is empty.
type Names struct {
	mu     sync.Mutex
	names  map[string]*nameUse
	byPeer map[string]int // number of names that each peer has added
}

// nameUse records which peer added a name and when it was last used.
type nameUse struct {
	peer string
	last time.Time
}

// Add adds a name used by the given peer, unless the set is full. limit is the maximum
// size of the set. Each peer may add up to PerPeer(limit) names; the peer "" has no such
// restriction. Add reports whether the set now has the name, and whether the name is new.
func (s *Names) Add(name, peer string, limit int) (has, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if use := s.names[name]; use != nil {
		use.last = now
		return true, false
	}
	room := func() bool { return len(s.names) < limit && (peer == "" || s.byPeer[peer] < PerPeer(limit)) }
	if !room() {
		s.forget(now.Add(-nameAge))
	}
	if !room() {
		return false, false
	}
	if s.names == nil {
		s.names, s.byPeer = map[string]*nameUse{}, map[string]int{}
	}
	s.names[name] = &nameUse{peer, now}
	s.byPeer[peer]++
	return true, true
}

// touch records that a name is in use, if it is in the set.
func (s *Names) touch(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if use := s.names[name]; use != nil {
		use.last = time.Now()
	}
}

// forget removes the names last used before the given time. The caller must hold
// the lock.
func (s *Names) forget(before time.Time) {
	for name, use := range s.names {
		if use.last.Before(before) {
			delete(s.names, name)
			if s.byPeer[use.peer]--; s.byPeer[use.peer] == 0 {
				delete(s.byPeer, use.peer)
			}
		}
	}
}

// Types limits how many unknown log types peers may use.
type Types struct{ unknown Names }

// Check returns "" if lines of a log with this name are accepted from the peer,
// and otherwise the reason for rejecting them.
func (n *Types) Check(name, peer string) string {
	if _, suffix := compression.CutSuffix(name); !tstat.IsLog(name) || suffix != "" {
		return fmt.Sprintf("%q is not the name of a log", name)
	}
	if tstat.TypeByName(name) != nil {
		return ""
	}
	if has, _ := n.unknown.Add(name, peer, maxTypes); !has {
		return fmt.Sprintf("%q is one unknown log too many, at most %d are accepted, %d of one host", name, maxTypes, PerPeer(maxTypes))
	}
	return ""
}

// WordChars contains the characters allowed in names that also serve as NATS
// subject tokens.
const WordChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

// IsName reports whether name is not empty, contains only characters from chars, and is
// no longer than the limit in bytes.
func IsName(name, chars string, limit int) bool {
	return name != "" && len(name) <= limit && strings.Trim(name, chars) == ""
}

// IsSession reports whether name is valid as the name of a session or a probe. Such
// names become names of files and folders. They must not begin with "-", because
// programs would parse them as options.
func IsSession(name string) bool { return IsName(name, WordChars, 64) && name[0] != '-' }
