package stream

import (
	"bytes"
	"fmt"
	"path"
)

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
