package protocol

import (
	"bytes"
	"fmt"
	"path"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
)

// Splitter groups the lines of a connection by log. A line has the form "PATH
// LINE", where PATH is the absolute path of the log.
type Splitter struct {
	Types   *Types
	MaxLine int // bytes, including the path
	Probe   string
	Peer    string        // sender of the lines, see Names.Add
	Key     string        // of the connection, see batch.Origin
	Last    *batch.Origin // of the previous line; nil at the start
	// Announced is the set that contains Probe; nil if the peer did not
	// announce the name.
	Announced *Names

	// Control is called for lines that begin with '#'. If it is nil, such
	// lines are rejected.
	Control func(line []byte) error
	// Reject is called for each malformed line.
	Reject func(reason string, line []byte)
	// Empty counts lines without text. An old exporter sends them when its log
	// has disappeared.
	Empty int64
}

// Split calls emit for each run of consecutive lines of one log, and passes the run's
// offset in text and the number of lines in the run. text must hold complete lines. Split
// returns the first error from emit or s.Control.
func (s *Splitter) Split(text []byte, emit func(o *batch.Origin, from int, run []byte, lines int) error) error {
	from, lines, pos := 0, 0, 0
	flush := func() error {
		if lines == 0 {
			return nil
		}
		err := emit(s.Last, from, text[from:pos], lines)
		lines = 0
		return err
	}
	for pos < len(text) {
		n := bytes.IndexByte(text[pos:], '\n') + 1
		line := text[pos : pos+n]
		if n > s.MaxLine {
			if err := flush(); err != nil {
				return err
			}
			s.Reject(fmt.Sprintf("line is longer than %d bytes", s.MaxLine), line[:n-1])
			pos += n
			continue
		}
		if s.Last == nil || !bytes.HasPrefix(line, s.Last.Prefix) {
			if err := flush(); err != nil {
				return err
			}
			if line[0] == '#' && s.Control != nil {
				if err := s.Control(line[:n-1]); err != nil {
					return err
				}
				pos += n
				continue
			}
			o, reason := s.origin(line[:n-1])
			if o == nil {
				s.Reject(reason, line[:n-1])
				pos += n
				continue
			}
			s.Last = o
		}
		if text := line[len(s.Last.Prefix):]; len(text) == 1 || len(text) == 2 && text[0] == '\r' {
			if err := flush(); err != nil {
				return err
			}
			s.Empty++
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

// origin parses the path at the start of a line. It returns nil and a reason if
// the line is malformed.
func (s *Splitter) origin(line []byte) (*batch.Origin, string) {
	if len(line) == 0 || line[0] != '/' {
		return nil, "it does not begin with the path of a log"
	}
	i := bytes.IndexByte(line[:min(len(line), MaxPath+1)], ' ')
	if i < 0 {
		return nil, "no space after the path of a log"
	}
	name := path.Base(string(line[:i]))
	if reason := s.Types.Check(name, s.Peer); reason != "" {
		return nil, reason
	}
	if s.Announced != nil {
		s.Announced.touch(s.Probe)
	}
	return &batch.Origin{
		Probe: s.Probe, Path: string(line[:i]), Type: name, Key: s.Key,
		Prefix: bytes.Clone(line[:i+1]),
	}, ""
}
