package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/losslessjson"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

func (m *Manifest) apply(l line) {
	if l.Delete != nil {
		m.entries[l.Delete.Key] = slices.DeleteFunc(m.entries[l.Delete.Key], func(e Entry) bool {
			if e.SHA256 != l.Delete.SHA256 || e.Place != l.Delete.Place {
				return false
			}
			m.placed(e.Location, -1)
			return true
		})
		if len(m.entries[l.Delete.Key]) == 0 {
			delete(m.entries, l.Delete.Key)
		}
	}
	if l.Put != nil {
		es := m.entries[l.Put.Key]
		if i := slices.IndexFunc(es, func(e Entry) bool { return e.Same(l.Put.Record) }); i >= 0 {
			m.placed(es[i].Location, -1)
			es[i] = *l.Put
		} else {
			m.entries[l.Put.Key] = append(es, *l.Put)
		}
		m.placed(l.Put.Location, 1)
	}
}

// placed counts an entry at a location.
func (m *Manifest) placed(location string, n int) {
	if location == "" {
		return
	}
	if m.at[location] += n; m.at[location] == 0 {
		delete(m.at, location)
	}
}

// renew reopens the log and discards its records if another process has
// rewritten it, see Rewrite.
func (m *Manifest) renew() (bool, error) {
	now, err := os.Stat(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // somebody removed it
	}
	if err != nil {
		return false, err
	}
	own, err := m.f.Stat()
	if err != nil || os.SameFile(now, own) {
		return false, err
	}
	f, err := m.open()
	if err != nil {
		return false, err
	}
	m.f.Close()
	m.f, m.read, m.torn, m.format, m.lines, m.damaged, m.entries, m.at = f, 0, false, 0, 0, 0, map[store.Key][]Entry{}, map[string]int{}
	return true, nil
}

// load reads the lines appended since the last time.
func (m *Manifest) load() error {
	if m.f == nil {
		return nil
	}
	if _, err := m.renew(); err != nil {
		return err
	}
	info, err := m.f.Stat()
	if err != nil {
		return err
	}
	if info.Size() == m.read {
		return nil
	}
	r := bufio.NewReaderSize(io.NewSectionReader(m.f, m.read, info.Size()-m.read), 1<<16)
	var noBanner error
	for {
		text, err := r.ReadBytes('\n')
		if err == io.EOF {
			// A line that is being written, or was cut off by a
			// crash.
			m.torn = len(text) > 0
			if noBanner != nil && m.lines > m.damaged {
				noBanner = nil // the lines are from this package
				m.damaged++
			}
			if noBanner != nil {
				m.read = 0
			}
			return noBanner
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", m.path, err)
		}
		first := m.read == 0
		m.read += int64(len(text))
		text = text[:len(text)-1]
		switch {
		case first:
			m.format, err = checkBanner(m.path, m.kind, text)
			if errors.Is(err, errNotOurs) {
				noBanner = err
			} else if err != nil {
				m.read = 0
				return err
			}
		case len(text) == 0: // it follows a line that was cut off
		default:
			m.lines++
			if !m.parse(text) {
				m.damaged++
			}
		}
	}
}

func (m *Manifest) parse(text []byte) bool {
	sum, js, ok := bytes.Cut(text, []byte{' '})
	if !ok {
		return false
	}
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if err != nil || uint32(want) != crc32.Checksum(js, castagnoli) {
		return false
	}
	var l line
	unmarshal := losslessjson.Unmarshal
	if m.format == 1 {
		unmarshal = json.Unmarshal
	}
	if err := unmarshal(js, &l); err != nil {
		return false
	}
	m.apply(l)
	return true
}

var errNotOurs = errors.New("is not a manifest of tstatrepo")

// checkBanner returns the format number in the first line.
func checkBanner(path, kind string, text []byte) (int, error) {
	rest, ok := strings.CutPrefix(string(text), banner)
	number, has, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(number)
	switch {
	case !ok || err != nil || n < 1:
	case n > format:
		return n, state.CheckFormat(path, n, format)
	case has == kind:
		return n, nil
	case has == Parquet || has == Copy:
		return n, hint.New(fmt.Sprintf("%s: is that of a %s store, not of %s", path, has, kind), "name another folder")
	}
	return 0, hint.Add(fmt.Errorf("%s: %w", path, errNotOurs), "name another folder, or remove the file: it is rebuilt from the stored files, except for pruned logs")
}
