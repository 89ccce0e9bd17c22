package stream

import (
	"bytes"
	"fmt"
	"path"
	"strings"
	"sync"

	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// maxPath bounds the path of a log in a line, as Linux does.
const maxPath = 4096

// maxTypes bounds the logs of unknown types: consumers keep files and columns
// of each.
const maxTypes = 64

// nameSet is a set of names that others chose.
type nameSet struct {
	mu    sync.Mutex
	names map[string]bool
}

// add adds a name unless there are as many already. It reports whether the set
// has the name, and whether it is new.
func (s *nameSet) add(name string, most int) (has, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.names[name]:
		return true, false
	case len(s.names) >= most:
		return false, false
	case s.names == nil:
		s.names = map[string]bool{}
	}
	s.names[name] = true
	return true, true
}

// typeNames are the names of logs that were met and are none of Tstat's known
// ones.
type typeNames struct{ unknown nameSet }

// ok reports whether lines of a log with this name are taken.
func (n *typeNames) ok(name string) bool {
	if !tstat.IsLog(name) || strings.HasSuffix(name, ".gz") {
		return false
	}
	if tstat.TypeByName(name) != nil {
		return true
	}
	has, _ := n.unknown.add(name, maxTypes)
	return has
}

// splitter takes the lines of a connection apart: "PATH LINE", where PATH is
// the absolute path of the log.
type splitter struct {
	types   *typeNames
	maxLine int // bytes, with the path
	probe   string
	key     string // of the connection
	last    *origin

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
	if !s.types.ok(name) {
		return nil, fmt.Sprintf("%q is not the name of a log", name)
	}
	return &origin{
		probe: s.probe, path: string(line[:i]), typ: name, key: s.key,
		prefix: bytes.Clone(line[:i+1]),
	}, ""
}
