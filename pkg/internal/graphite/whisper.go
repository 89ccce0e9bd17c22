package graphite

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-graphite/go-whisper"

	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// WhisperOptions configures a Whisper sink.
type WhisperOptions struct {
	Dir string
	// Schemas is the path of a carbon storage-schemas.conf with the retentions
	// of new files; "" means DefaultRetentions.
	Schemas string
	Log     *slog.Logger // logs lost points; nil disables logging
	// RetryTimeout is how long a batch is retried while the file system is full
	// or read-only; 0 disables retries.
	RetryTimeout time.Duration
}

// Whisper is a Sink that writes Whisper files. Like carbon, it stores the metric
// a.b.c in DIR/a/b/c.wsp. Unlike carbon, it averages points in the same slot.
type Whisper struct {
	opt     WhisperOptions
	schemas []schema
	lost    int64
	warned  bool            // a warning about lost points was logged
	synced  map[string]bool // folders synced since their last new file
}

// NewWhisper returns a sink for Whisper files below opt.Dir.
func NewWhisper(opt WhisperOptions) (*Whisper, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	w := &Whisper{opt: opt, synced: map[string]bool{}}
	if opt.Schemas != "" {
		var err error
		if w.schemas, err = readSchemas(opt.Schemas); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// Close does nothing, since no file stays open.
func (w *Whisper) Close() error { return nil }

// Lost returns the number of points that were dropped because they were older than
// the retention of their file.
func (w *Whisper) Lost() int64 { return w.lost }

// Send stores metrics. When it returns nil, their points are durable.
func (w *Whisper) Send(ctx context.Context, metrics []Metric) error {
	lost := w.lost
	err := Retry(ctx, w.opt.RetryTimeout, func() error {
		w.lost = lost
		err := w.sendOnce(ctx, metrics)
		if durable.IsTransient(err) {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return err
	})
	if err != nil {
		w.lost = lost // the caller sends all points again
	}
	return err
}

func (w *Whisper) sendOnce(ctx context.Context, metrics []Metric) error {
	if err := durable.MkdirAll(w.opt.Dir, 0o755); err != nil {
		return fmt.Errorf("whisper: %w", err)
	}
	if err := durable.CheckSpace(w.opt.Dir); err != nil {
		return fmt.Errorf("%w: whisper: %w", ErrUnavailable, err)
	}
	for _, m := range metrics {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if len(m.Points) == 0 {
			continue
		}
		if err := w.store(m); err != nil {
			return fmt.Errorf("whisper: %s: %w", m.Path, err)
		}
	}
	// Sync all files at the end, since the first sync already makes the file system
	// write most of the data.
	for _, m := range metrics {
		if len(m.Points) == 0 {
			continue
		}
		if err := w.sync(w.file(m.Path)); err != nil {
			return fmt.Errorf("whisper: %s: %w", m.Path, err)
		}
	}
	return nil
}

// sync makes a file and its directory entry durable.
func (w *Whisper) sync(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(durable.Sync(f), f.Close()); err != nil {
		return err
	}
	dir := filepath.Dir(file)
	if !w.synced[dir] {
		if err := durable.SyncDir(dir); err != nil {
			return err
		}
		w.synced[dir] = true
	}
	return nil
}

// file returns the name of the Whisper file for the metric with the given path. The file is
// always inside opt.Dir, because CleanPath replaces slashes and each dot becomes a slash.
func (w *Whisper) file(path string) string {
	return filepath.Join(w.opt.Dir, strings.ReplaceAll(CleanPath(path), ".", "/")+".wsp")
}

func (w *Whisper) store(m Metric) error {
	file := w.file(m.Path)
	now := time.Now().Unix()
	db, err := whisper.OpenWithOptions(file, &whisper.Options{FLock: true})
	if errors.Is(err, os.ErrNotExist) {
		if err := w.create(file, m, now); err != nil {
			return err
		}
		db, err = whisper.OpenWithOptions(file, &whisper.Options{FLock: true})
	}
	if err != nil {
		return err
	}
	defer db.Close()
	// The retentions of an open file are sorted from fine to coarse. Write
	// the coarse archives first, since writing a finer archive rewrites slots
	// of coarser archives.
	archives := db.Retentions()
	if err := checkArchives(archives); err != nil {
		return hint.New(fmt.Sprintf("%s is damaged: %v", file, err), "move it away, and send its points again into a new file")
	}
	rest := m.Points
	for i := len(archives) - 1; i >= 0; i-- {
		a := archives[i]
		finer := int64(0)
		if i > 0 {
			finer = int64(archives[i-1].MaxRetention())
		}
		var points []*whisper.TimeSeriesPoint
		points, rest = w.average(m.Path, rest, int64(a.SecondsPerPoint()), now-int64(a.MaxRetention())+ageMargin, now-finer+ageMargin, i == 0)
		if len(points) == 0 {
			continue
		}
		if err := db.UpdateManyForArchive(points, a.MaxRetention()); err != nil {
			return err
		}
	}
	return nil
}

// checkArchives returns an error if the header of a Whisper file cannot be right. A file
// that a power cut filled with zeros has no archives, and would take no points.
func checkArchives(archives []whisper.Retention) error {
	if len(archives) == 0 {
		return errors.New("it has no archives")
	}
	for _, a := range archives {
		if a.SecondsPerPoint() < 1 || a.NumberOfPoints() < 1 {
			return fmt.Errorf("an archive has %d points of %d s", a.NumberOfPoints(), a.SecondsPerPoint())
		}
	}
	return nil
}

// ageMargin is a safety margin in seconds. Points that become too old for an archive
// within ageMargin are not written to that archive. The Whisper library would silently
// drop points that are too old by the time it writes them.
const ageMargin = 60

// average computes the average of the points in each slot of one archive. A slot is step
// seconds long. The archive covers the times t with begin <= t < end, or all t >= begin
// if finest is true. Points before begin are counted as lost. The first result has one
// point per slot. The second contains the points after the archive.
func (w *Whisper) average(path string, points []Point, step, begin, end int64, finest bool) (list []*whisper.TimeSeriesPoint, rest []Point) {
	old := 0
	for old < len(points) && points[old].Time < begin {
		old++
	}
	if old > 0 {
		w.lost += int64(old)
		if !w.warned {
			w.warned = true
			w.opt.Log.Warn("points are older than the retention of their Whisper files", "metric", path, "points", old,
				"time", time.Unix(points[0].Time, 0).UTC().Format(time.RFC3339))
		}
	}
	points = points[old:]
	n := 0
	for n < len(points) && (finest || points[n].Time < end) {
		slot := points[n].Time - points[n].Time%step
		sum, count := 0.0, 0
		for ; n < len(points) && (finest || points[n].Time < end) && points[n].Time-points[n].Time%step == slot; n++ {
			sum += points[n].Value
			count++
		}
		list = append(list, &whisper.TimeSeriesPoint{Time: int(slot), Value: sum / float64(count)})
	}
	return list, points[n:]
}

// create creates the file of a metric atomically.
func (w *Whisper) create(file string, m Metric, now int64) error {
	retentions := w.retentions(m, now)
	if err := durable.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	part := file + ".new"
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := whisper.CreateWithOptions(part, retentions, whisper.Average, 0.5, &whisper.Options{Sparse: true})
	if err != nil {
		return err
	}
	if err := errors.Join(durable.Sync(db.File()), db.Close()); err != nil {
		return err
	}
	delete(w.synced, filepath.Dir(file))
	return os.Rename(part, file)
}

// retentions returns the retentions for the new file of m: those of the first matching
// schema, or else DefaultRetentions.
func (w *Whisper) retentions(m Metric, now int64) whisper.Retentions {
	for _, s := range w.schemas {
		if s.pattern.MatchString(m.Path) {
			// Return a copy, since the library sorts the list.
			return slices.Clone(s.retentions)
		}
	}
	return DefaultRetentions(stepOf(m), now-m.Points[0].Time)
}

// defaultStep is the step of Tstat's RRDs in seconds.
const defaultStep = 300

// stepOf returns the step of a metric in seconds. If the step is unknown, stepOf returns
// the smallest interval between the points, but at most an hour. RRDs have points only at
// multiples of their step. If all points are at multiples of Tstat's step, stepOf returns
// that step instead of a larger interval, which may be due to missing points.
func stepOf(m Metric) int64 {
	if m.Step > 0 {
		return m.Step
	}
	step, multiples := int64(0), true
	for i, p := range m.Points {
		multiples = multiples && p.Time%defaultStep == 0
		if i > 0 {
			if d := p.Time - m.Points[i-1].Time; d > 0 && (step == 0 || d < step) {
				step = d
			}
		}
	}
	if step == 0 || step > defaultStep && multiples {
		return defaultStep
	}
	return min(step, 3600)
}

// maxStep is the maximum step of a new Whisper file in seconds. A file stores the seconds
// between two points as a 32-bit number.
const maxStep = 86400

// DefaultRetentions returns the archives of Tstat's RRDs: 600 slots of 1 step, 700 of 6
// steps, 775 of 24 steps and 797 of 288 steps. With a step of 300 seconds, these cover 2
// days, 2 weeks, 2 months and 2 years. The last archive has more slots if it needs them
// to cover a point of the given age in seconds. It has fewer if it would cover more
// seconds than fit into a Whisper file. Steps above maxStep count as maxStep.
func DefaultRetentions(step, age int64) whisper.Retentions {
	step = min(step, maxStep)
	day := 288 * step
	r := func(seconds, points int64) *whisper.Retention {
		v := whisper.NewRetention(int(seconds), int(points))
		return &v
	}
	last := min(max(797, age/day+2+(ageMargin+day-1)/day), math.MaxUint32/day)
	return whisper.Retentions{r(step, 600), r(6*step, 700), r(24*step, 775), r(day, last)}
}

// schema is a section of a storage-schemas file.
type schema struct {
	pattern    *regexp.Regexp
	retentions whisper.Retentions
}

// readSchemas reads carbon's storage-schemas.conf. Each section consists of a pattern and
// retentions. The first section whose pattern matches a metric determines its retentions.
func readSchemas(file string) ([]schema, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("storage schemas: %w", err)
	}
	defer f.Close()
	var list []schema
	var section, pattern, retentions string
	first := 0
	add := func() error {
		if section == "" {
			return nil
		}
		if pattern == "" || retentions == "" {
			return fmt.Errorf("%s:%d: [%s] needs a pattern and retentions", file, first, section)
		}
		re, err := regexp.Compile(pattern)
		if err != nil {
			return fmt.Errorf("%s:%d: [%s]: pattern: %w", file, first, section, err)
		}
		r, err := whisper.ParseRetentionDefs(strings.ReplaceAll(retentions, " ", ""))
		if err != nil {
			return fmt.Errorf("%s:%d: [%s]: retentions: %w", file, first, section, err)
		}
		slices.SortFunc(r, func(a, b *whisper.Retention) int { return cmp.Compare(a.SecondsPerPoint(), b.SecondsPerPoint()) })
		list = append(list, schema{re, r})
		return nil
	}
	scan := bufio.NewScanner(f)
	for line := 1; scan.Scan(); line++ {
		text := strings.TrimSpace(scan.Text())
		switch {
		case text == "" || text[0] == '#' || text[0] == ';':
			continue
		case text[0] == '[' && text[len(text)-1] == ']':
			if err := add(); err != nil {
				return nil, err
			}
			section, pattern, retentions, first = text[1:len(text)-1], "", "", line
			continue
		}
		key, value, ok := strings.Cut(text, "=")
		if !ok || section == "" {
			return nil, fmt.Errorf("%s:%d: neither a [section] nor \"key = value\" in one", file, line)
		}
		switch strings.TrimSpace(strings.ToLower(key)) {
		case "pattern":
			pattern = strings.TrimSpace(value)
		case "retentions":
			retentions = strings.TrimSpace(value)
		}
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("storage schemas: %s: %w", file, err)
	}
	if err := add(); err != nil {
		return nil, err
	}
	return list, nil
}
