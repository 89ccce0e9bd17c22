package stream

import (
	"bytes"
	"fmt"
	"path"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// maxPath bounds the path of a log in a line, as Linux does.
const maxPath = 4096

// maxTypes bounds the logs of unknown types: consumers keep files and columns
// of each.
const maxTypes = 64

// nameAge is how long an unused name of a full nameSet keeps its room. Consumers
// never forget a name, so nameAge bounds how fast a peer can make up names.
const nameAge = 24 * time.Hour

// perPeer returns how many of most names one peer may add: a quarter.
func perPeer(most int) int { return max(1, most/4) }

// nameSet is a set of names that peers chose. One peer cannot fill it.
type nameSet struct {
	mu    sync.Mutex
	names map[string]*nameUse
	held  map[string]int // number of names by the peer that added them
}

// nameUse records who added a name and when it was last used.
type nameUse struct {
	who  string
	last time.Time
}

// add adds a name that a peer uses, see peer.Host, unless there are most
// already, or perPeer of that peer; the peer "" has no bound but most. It
// reports whether the set has the name, and whether it is new.
func (s *nameSet) add(name, who string, most int) (has, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if use := s.names[name]; use != nil {
		use.last = now
		return true, false
	}
	room := func() bool { return len(s.names) < most && (who == "" || s.held[who] < perPeer(most)) }
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

// used records that a name is in use, if the set has it.
func (s *nameSet) used(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if use := s.names[name]; use != nil {
		use.last = time.Now()
	}
}

// forget removes the names that were last used before a time; the lock is held.
func (s *nameSet) forget(before time.Time) {
	for name, use := range s.names {
		if use.last.Before(before) {
			delete(s.names, name)
			if s.held[use.who]--; s.held[use.who] == 0 {
				delete(s.held, use.who)
			}
		}
	}
}

// typeNames are the names of logs that were met and are none of Tstat's known
// ones.
type typeNames struct{ unknown nameSet }

// check returns why lines of a log with this name are not accepted from a peer,
// "" if they are.
func (n *typeNames) check(name, who string) string {
	if _, suffix := compression.CutSuffix(name); !tstat.IsLog(name) || suffix != "" {
		return fmt.Sprintf("%q is not the name of a log", name)
	}
	if tstat.TypeByName(name) != nil {
		return ""
	}
	if has, _ := n.unknown.add(name, who, maxTypes); !has {
		return fmt.Sprintf("%q is one unknown log too many, at most %d are accepted, %d of one host", name, maxTypes, perPeer(maxTypes))
	}
	return ""
}

// splitter takes the lines of a connection apart: "PATH LINE", where PATH is
// the absolute path of the log.
type splitter struct {
	types   *typeNames
	maxLine int // bytes, with the path
	probe   string
	who     string // the peer, see nameSet
	key     string // of the connection
	last    *origin
	// announced is the set that has probe; nil: the peer did not announce it.
	announced *nameSet

	// control is given lines that begin with '#'; nil where there are none.
	control func(line []byte) error
	// reject is told of a line that is none.
	reject func(reason string, line []byte)
	empty  int64 // lines without text; an old exporter sends them when its log has gone
}

// split calls emit for each run of lines of one log in text, which are whole
// lines; from is where the run begins in text.
func (s *splitter) split(text []byte, emit func(o *origin, from int, run []byte, lines int) error) error {
	from, lines, pos := 0, 0, 0
	flush := func() error {
		if lines == 0 {
			return nil
		}
		err := emit(s.last, from, text[from:pos], lines)
		lines = 0
		return err
	}
	for pos < len(text) {
		n := bytes.IndexByte(text[pos:], '\n') + 1
		line := text[pos : pos+n]
		if n > s.maxLine {
			if err := flush(); err != nil {
				return err
			}
			s.reject(fmt.Sprintf("line is longer than %d bytes", s.maxLine), line[:n-1])
			pos += n
			continue
		}
		if s.last == nil || !bytes.HasPrefix(line, s.last.prefix) {
			if err := flush(); err != nil {
				return err
			}
			if line[0] == '#' && s.control != nil {
				if err := s.control(line[:n-1]); err != nil {
					return err
				}
				pos += n
				continue
			}
			o, reason := s.origin(line[:n-1])
			if o == nil {
				s.reject(reason, line[:n-1])
				pos += n
				continue
			}
			s.last = o
		}
		if text := line[len(s.last.prefix):]; len(text) == 1 || len(text) == 2 && text[0] == '\r' {
			if err := flush(); err != nil {
				return err
			}
			s.empty++
			pos += n
			continue
		}
		if lines == 0 {
			from = pos
		}
		lines++
		pos += n
	}
	return flush()
}

// origin reads the path that a line begins with.
func (s *splitter) origin(line []byte) (*origin, string) {
	if len(line) == 0 || line[0] != '/' {
		return nil, "it does not begin with the path of a log"
	}
	i := bytes.IndexByte(line[:min(len(line), maxPath+1)], ' ')
	if i < 0 {
		return nil, "no blank after the path of a log"
	}
	name := path.Base(string(line[:i]))
	if reason := s.types.check(name, s.who); reason != "" {
		return nil, reason
	}
	if s.announced != nil {
		s.announced.used(s.probe)
	}
	return &origin{
		probe: s.probe, path: string(line[:i]), typ: name, key: s.key,
		prefix: bytes.Clone(line[:i+1]),
	}, ""
}
