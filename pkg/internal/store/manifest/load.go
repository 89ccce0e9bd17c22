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
			m.addCount(e.Location, -1)
			return true
		})
		if len(m.entries[l.Delete.Key]) == 0 {
			delete(m.entries, l.Delete.Key)
		}
	}
	if l.Put != nil {
		es := m.entries[l.Put.Key]
		if i := slices.IndexFunc(es, func(e Entry) bool { return e.Same(l.Put.Record) }); i >= 0 {
			m.addCount(es[i].Location, -1)
			es[i] = *l.Put
		} else {
			m.entries[l.Put.Key] = append(es, *l.Put)
		}
		m.addCount(l.Put.Location, 1)
	}
}

// addCount adds n to the number of entries at a location.
func (m *Manifest) addCount(location string, n int) {
	if location == "" {
		return
	}
	if m.countAt[location] += n; m.countAt[location] == 0 {
		delete(m.countAt, location)
	}
}

// reopenIfReplaced checks whether another process has rewritten the log, see
// Rewrite. If so, it reopens the log, forgets all entries and returns true.
func (m *Manifest) reopenIfReplaced() (bool, error) {
	now, err := os.Stat(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // someone removed it
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
	m.f, m.read, m.torn, m.format, m.lines, m.damaged, m.entries, m.countAt = f, 0, false, 0, 0, 0, map[store.Key][]Entry{}, map[string]int{}
	return true, nil
}

// load reads and applies the lines appended to the log since the last call.
func (m *Manifest) load() error {
	if m.f == nil {
		return nil
	}
	if _, err := m.reopenIfReplaced(); err != nil {
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
	var bannerErr error
	for {
		text, err := r.ReadBytes('\n')
		if err == io.EOF {
			// Another process is writing the last line, or a crash
			// truncated it.
			m.torn = len(text) > 0
			if bannerErr != nil && m.lines > m.damaged {
				bannerErr = nil // the lines are from this package
				m.damaged++
			}
			if bannerErr != nil {
				m.read = 0
			}
			return bannerErr
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
			if errors.Is(err, errNotManifest) {
				bannerErr = err
			} else if err != nil {
				m.read = 0
				return err
			}
		case len(text) == 0: // end of a truncated line
		default:
			m.lines++
			if !m.parse(text) {
				m.damaged++
			}
		}
	}
}

// parse parses a line of the log and applies its changes to the entries. It returns
// false if the line is damaged.
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

var errNotManifest = errors.New("is not a manifest of tstatrepo")

// checkBanner returns the format number from the first line of the log at path. It
// returns errNotManifest if that line is not a banner, and another error if the format is
// unknown or the log belongs to a store of another kind.
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
		return n, hint.New(fmt.Sprintf("%s: belongs to a %s store, not to a %s store", path, has, kind), "name another folder")
	}
	return 0, hint.Add(fmt.Errorf("%s: %w", path, errNotManifest), "name another folder, or remove the file: it is rebuilt from the stored files, except for pruned logs")
}
