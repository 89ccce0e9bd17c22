package legacy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// Names of the state files in math_repo's outDir.
const (
	runningFile = "running_imports.xml"
	dbsPrefix   = "dbs_stat_"
	copyPrefix  = "copy_stat_"
)

// State is the last state that math_repo saved.
type State struct {
	// Streams lists the registered streams in the order of their registration, then the
	// streams that have only a state file.
	Streams []Stream
	// Notes lists the files that could not be used.
	Notes []Note
}

// Stream is a stream of math_repo.
type Stream struct {
	Name string
	// Registered is the registration that the probe sent, or nil if the stream is not
	// in math_repo's list.
	Registered *mathproto.Registration
	// Copied is the time of the last log folder from which a file was copied, or zero
	// if unknown.
	Copied time.Time
	// Stored is the time up to which DBStream holds rows, or zero if unknown.
	Stored time.Time
}

// ReadState reads the state files in math_repo's outDir. If there are none, math_repo has
// stored nothing, and the State is empty. State.Notes lists the files that could not be
// used. math_repo writes its files in place, so a crash can leave an incomplete file.
func ReadState(dir string) (*State, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	s := &State{}
	s.readRunning(filepath.Join(dir, runningFile))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if name, ok := stateOf(e.Name(), dbsPrefix); ok {
			s.readTime(filepath.Join(dir, e.Name()), name, "lastOutputFileTime", func(st *Stream, t time.Time) { st.Stored = t })
		}
		if name, ok := stateOf(e.Name(), copyPrefix); ok {
			s.readTime(filepath.Join(dir, e.Name()), name, "lastFinishedTimestamp", func(st *Stream, t time.Time) { st.Copied = t })
		}
	}
	return s, nil
}

// stateOf returns the stream to which a state file belongs. The name of a state file is
// the given prefix, followed by the stream and ".xml". ok is false for other names.
func stateOf(file, prefix string) (stream string, ok bool) {
	stream, ok = strings.CutPrefix(file, prefix)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(stream, ".xml")
}

func (s *State) note(file string, line int, key string, err error) {
	s.Notes = append(s.Notes, Note{file, line, key, err.Error()})
}

// stream returns the stream with the given name. It adds the stream to s if necessary. If
// the name is invalid or there are too many streams, it returns nil and adds a note that
// refers to the given file and line.
func (s *State) stream(file string, line int, name string) *Stream {
	if err := store.ValidProbe(name); err != nil {
		s.note(file, line, "stream", fmt.Errorf("%q is not the name of a stream: letters, digits, '_' and '-', at most 64", name))
		return nil
	}
	if i := slices.IndexFunc(s.Streams, func(st Stream) bool { return st.Name == name }); i >= 0 {
		return &s.Streams[i]
	}
	if len(s.Streams) >= mathproto.MaxStreams {
		s.note(file, line, "stream", fmt.Errorf("there are more than %d streams", mathproto.MaxStreams))
		return nil
	}
	s.Streams = append(s.Streams, Stream{Name: name})
	return &s.Streams[len(s.Streams)-1]
}

// readElement reads a state file and returns its root element, which must have the given
// name. It returns nil if the file is missing, empty or unusable; in the last case it
// also adds a note.
func (s *State) readElement(file, root string) *element {
	text, err := ReadFile(file)
	if isMissing(err) {
		return nil
	}
	var e *element
	if err == nil {
		if len(strings.TrimSpace(string(text))) == 0 { // math_repo creates an empty file when it first starts
			return nil
		}
		e, err = parseXML(file, text)
	}
	if err == nil && e.name != root {
		err = fmt.Errorf("is not a <%s>", root)
	}
	if err == nil {
		return e
	}
	var own *Error
	if errors.As(err, &own) { // the note names the file
		s.note(file, own.Line, "<"+root+">", errors.New(own.Reason))
	} else {
		s.note(file, 0, "<"+root+">", err)
	}
	return nil
}

// readRunning reads math_repo's list of registered streams.
func (s *State) readRunning(file string) {
	root := s.readElement(file, "runningImports")
	if root == nil || root.child("imports") == nil {
		return
	}
	for _, list := range root.children {
		if list.name != "imports" {
			continue
		}
		for _, e := range list.children {
			if e.name == "DBSImportConfig" {
				s.registration(file, e)
			}
		}
	}
}

func (s *State) registration(file string, e *element) {
	reg := &mathproto.Registration{CallBackUrl: e.attr("callBackUrl"), StreamName: e.attr("streamName"), StreamType: e.attr("streamType")}
	if t := e.child("StartTime"); t != nil {
		n, err := strconv.ParseInt(strings.TrimSpace(t.text), 10, 64)
		if err != nil {
			s.note(file, t.line, "<StartTime>", fmt.Errorf("%q is not a time", t.text))
			return
		}
		reg.StartTime = n
	}
	if mathproto.LogType(reg.StreamType) == nil {
		s.note(file, e.line, "<DBSImportConfig streamType>", fmt.Errorf("%q has no counterpart: Tstat has no such log type", reg.StreamType))
		return
	}
	if st := s.stream(file, e.line, reg.StreamName); st != nil && st.Registered == nil {
		st.Registered = reg
	}
}

// maxTime is the latest valid time in a state file, in Unix seconds. It is in the year
// 36812.
const maxTime = 1 << 40

// readTime reads a time from an attribute in the state file of the named stream. It calls
// set with that stream and the time, unless the time is missing, invalid or zero.
func (s *State) readTime(file, name, attr string, set func(*Stream, time.Time)) {
	e := s.readElement(file, "state")
	if e == nil {
		return
	}
	text := e.attr(attr)
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > maxTime {
		s.note(file, e.line, "<state "+attr+">", fmt.Errorf("%q is not a time", text))
		return
	}
	if n == 0 { // nothing stored yet
		return
	}
	if st := s.stream(file, e.line, name); st != nil {
		set(st, time.Unix(n, 0))
	}
}
