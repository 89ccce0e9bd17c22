package graphite

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
)

// ErrSpoolFull is wrapped by the error that Spool.Send returns if the destination
// is down and the spool is full. That error also wraps ErrUnavailable.
var ErrSpoolFull = errors.New("spool is full")

// Spool is a Sink that passes metrics to another sink, and keeps them on disk while that
// sink is unavailable. When the sink is available again, Spool first sends the metrics on
// disk, starting with the oldest.
type Spool struct {
	sink   Sink
	dir    string
	log    *slog.Logger
	shared *spools
}

// spools is the state shared by all Spools of one sink; see Spool.Beside.
type spools struct {
	dirs  []string
	max   int64     // maximum total size of all spools in bytes
	down  error     // error of the last batch; nil if the sink accepted it
	until time.Time // when to retry the sink if it is down
}

// spoolSuffix is the suffix of the file names of batches. Names begin with the time
// of writing, so that they sort by age; see nextName.
const spoolSuffix = ".batch"

// spoolHead is the format of the first line of a batch. The line holds spoolFormat and
// the SHA-256 of the rest of the batch.
const (
	spoolHead   = "tstatrepo-spool %d %x"
	spoolFormat = 1
)

// downTime is how long a Spool waits before it sends to an unavailable sink again.
const downTime = 30 * time.Second

// NewSpool returns a spool that stores up to max bytes in dir. Only one Spool may
// use the folder at a time. log receives warnings; nil disables logging.
func NewSpool(sink Sink, dir string, max int64, log *slog.Logger) (*Spool, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Spool{sink: sink, log: log, shared: &spools{max: max}}
	return s.Beside(dir)
}

// Beside returns another spool for the sink of s. The new spool keeps its batches in dir.
// Both spools share one size limit, the state of the sink and the order of batches. They
// must not be used concurrently, and closing either of them closes the sink.
func (s *Spool) Beside(dir string) (*Spool, error) {
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	s.shared.dirs = append(s.shared.dirs, dir)
	return &Spool{sink: s.sink, dir: dir, log: s.log, shared: s.shared}, nil
}

// Close closes the sink. Batches stay on disk.
func (s *Spool) Close() error { return s.sink.Close() }

// Down returns the last error of the sink if the sink is down, and nil otherwise.
func (s *Spool) Down() error { return s.shared.down }

// batches returns the paths of the batches in the given folders, oldest first, and their
// total size in bytes.
func batches(dirs ...string) (paths []string, size int64, err error) {
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, 0, fmt.Errorf("spool: %w", err)
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), spoolSuffix) {
				continue
			}
			info, err := e.Info()
			if err != nil {
				return nil, 0, fmt.Errorf("spool: %w", err)
			}
			paths = append(paths, filepath.Join(dir, e.Name()))
			size += info.Size()
		}
	}
	slices.SortStableFunc(paths, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	return paths, size, nil
}

// Len returns the number of batches in the spool and their total size in bytes.
func (s *Spool) Len() (n int, size int64, err error) {
	paths, size, err := batches(s.dir)
	return len(paths), size, err
}

// Flush sends the batches in the spool and in the spools beside it, oldest first. If the
// sink was unavailable less than downTime ago, Flush sends nothing and returns the error
// that the sink returned then.
func (s *Spool) Flush(ctx context.Context) error {
	if s.shared.down != nil && time.Now().Before(s.shared.until) {
		return s.shared.down
	}
	paths, _, err := batches(s.shared.dirs...)
	if err != nil {
		return err
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("spool: %w", err) // the batch may be intact
		}
		metrics, err := parseBatch(path, text)
		if errors.Is(err, state.ErrNewer) {
			return fmt.Errorf("spool: %w", err)
		}
		if err != nil {
			// Keep the file for the operator, but do not let it block other
			// batches.
			s.log.Warn("damaged batch of the spool set aside", "file", path, "err", err)
			if err := durable.Rename(path, path+".damaged"); err != nil {
				return fmt.Errorf("spool: %w", err)
			}
			continue
		}
		if err := s.sink.Send(ctx, metrics); err != nil {
			return s.markDown(err)
		}
		s.shared.down = nil
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("spool: %w", err)
		}
	}
	return nil
}

// markDown records that the sink is down if err wraps ErrUnavailable. It returns err.
func (s *Spool) markDown(err error) error {
	if errors.Is(err, ErrUnavailable) {
		s.shared.down, s.shared.until = err, time.Now().Add(downTime)
	}
	return err
}

// Send sends the batches in the spool, then metrics. If the sink is down, Send
// stores the metrics on disk. It returns nil if they were sent or stored.
func (s *Spool) Send(ctx context.Context, metrics []Metric) error {
	err := s.Flush(ctx)
	if err == nil {
		if err = s.sink.Send(ctx, metrics); err == nil {
			s.shared.down = nil
			return nil
		}
		s.markDown(err)
	}
	if !errors.Is(err, ErrUnavailable) {
		return err
	}
	return s.put(metrics)
}

// put writes metrics to the spool as a batch. If the spool has no room for them, the
// error wraps ErrSpoolFull and ErrUnavailable.
func (s *Spool) put(metrics []Metric) error {
	text := AppendText(nil, metrics)
	if len(text) == 0 {
		return nil
	}
	paths, size, err := batches(s.shared.dirs...)
	if err != nil {
		return err
	}
	head := fmt.Appendf(nil, spoolHead+"\n", spoolFormat, sha256.Sum256(text))
	if size+int64(len(head)+len(text)) > s.shared.max {
		return fmt.Errorf("%w: %w: %d bytes in %s: %w", ErrUnavailable, ErrSpoolFull, size, s.dir, s.shared.down)
	}
	if err := durable.WriteFile(filepath.Join(s.dir, nextName(paths, time.Now())), append(head, text...)); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}

// nextName returns the name of a batch that is written now, after the batches with the
// given paths, oldest first. The name sorts after theirs even if the clock was set back.
func nextName(paths []string, now time.Time) string {
	at := now.UnixNano()
	if len(paths) > 0 {
		last := strings.TrimSuffix(filepath.Base(paths[len(paths)-1]), spoolSuffix)
		if t, err := strconv.ParseInt(last, 10, 64); err == nil && t < math.MaxInt64 {
			at = max(at, t+1)
		}
	}
	return fmt.Sprintf("%020d%s", at, spoolSuffix)
}

// parseBatch parses text, the content of the batch at path.
func parseBatch(path string, text []byte) ([]Metric, error) {
	head, text, _ := bytes.Cut(text, []byte("\n"))
	var format int
	if _, err := fmt.Sscanf(string(head), spoolHead[:strings.LastIndex(spoolHead, " ")], &format); err == nil {
		if err := state.CheckFormat(path, format, spoolFormat); err != nil {
			return nil, err
		}
	}
	if string(head) != fmt.Sprintf(spoolHead, spoolFormat, sha256.Sum256(text)) {
		return nil, errors.New("its checksum is wrong")
	}
	return ParseText(text)
}

// ParseText is the inverse of AppendText. Adjacent lines with the same path become
// one Metric.
func ParseText(text []byte) ([]Metric, error) {
	var metrics []Metric
	for line := range bytes.Lines(text) {
		f := bytes.Split(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
		if len(f) != 3 {
			return nil, fmt.Errorf("%q is not a line of a path, a value and a time", line)
		}
		v, err := strconv.ParseFloat(string(f[1]), 64)
		if err != nil {
			return nil, err
		}
		t, err := strconv.ParseInt(string(f[2]), 10, 64)
		if err != nil {
			return nil, err
		}
		if n := len(metrics); n == 0 || metrics[n-1].Path != string(f[0]) {
			metrics = append(metrics, Metric{Path: string(f[0])})
		}
		m := &metrics[len(metrics)-1]
		m.Points = append(m.Points, Point{Time: t, Value: v})
	}
	return metrics, nil
}
