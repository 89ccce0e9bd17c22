package rrdpush

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/graphite"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

var errTooMany = fmt.Errorf("more than %d points", maxPoints)

// Reasons for leaving out a file, used in place of the index of its metric.
const (
	unnamed = -1 - iota
	notTstat
	overLimit
)

// read parses [[file, time, value], …] from body, and calls store for each batch of
// metrics. The points that it leaves out are counted in n. If the list contains an error,
// read stores only the batches before the error.
func (e *Endpoint) read(body io.Reader, probe string, from *sender, n *EndpointStats, store func([]graphite.Metric) error) error {
	d := json.NewDecoder(&pythonJSON{r: bufio.NewReader(body)})
	d.UseNumber()
	if begin, err := d.Token(); err != nil || begin != json.Delim('[') {
		return cmp.Or(err, errors.New("not a list"))
	}
	latest := time.Now().Add(maxAhead).Unix()
	var metrics []graphite.Metric
	at := map[string]int{} // index of the metric, or reason for leaving it out, by file
	flush := func() error {
		for _, m := range metrics {
			sortPoints(m.Points)
		}
		err := store(metrics)
		metrics = nil
		clear(at)
		return err
	}
	for count := 0; d.More(); count++ {
		file, point, err := nextPoint(d)
		if err != nil {
			return fmt.Errorf("point %d: %w", count, err)
		}
		if count == maxPoints {
			return errTooMany
		}
		if count > 0 && count%batchOf == 0 {
			if err := flush(); err != nil {
				return err
			}
		}
		i, known := at[file]
		if !known {
			var name string
			if i, name = e.metric(file, from); i == 0 {
				i = len(metrics)
				metrics = append(metrics, graphite.Metric{Path: e.opt.Prefix + "." + probe + "." + name})
			}
			at[file] = i
		}
		switch {
		case i == unnamed:
			n.Unnamed++
		case i == notTstat:
			n.NotTstat++
		case i == overLimit:
			n.OverLimit++
		case math.IsInf(point.Value, 0):
			n.NotFinite++
		case point.Time > latest:
			n.Ahead++
		case point.Value < 0 && !e.opt.Negative && rrdfile.IsPercentile(file):
			n.Negative++
		default:
			metrics[i].Points = append(metrics[i].Points, point)
		}
	}
	if _, err := d.Token(); err != nil {
		return unexpected(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return cmp.Or(err, errors.New("something follows the list"))
	}
	return flush()
}

// metric returns 0 and the name of the metric for an RRD file, and records the metric in
// the sender. If the file must be left out, it returns the reason instead of 0.
func (e *Endpoint) metric(file string, from *sender) (why int, name string) {
	if !rrdfile.IsTstat(file) {
		return notTstat, ""
	}
	if name = e.opt.Naming(file); name == "" {
		return unnamed, ""
	}
	id := maphash.String(e.seed, file)
	if _, known := from.metrics[id]; !known {
		if len(from.metrics) >= e.opt.MaxMetrics {
			return overLimit, ""
		}
		from.metrics[id] = struct{}{}
	}
	return 0, name
}

// nextPoint parses one [file, time, value] from d, and returns the file and the point.
// For a value of NaN, it returns an infinite value; see pythonJSON.
func nextPoint(d *json.Decoder) (string, graphite.Point, error) {
	var tokens [5]json.Token
	for i := range tokens {
		var err error
		if tokens[i], err = d.Token(); err != nil {
			return "", graphite.Point{}, unexpected(err)
		}
	}
	file, isText := tokens[1].(string)
	when, isTime := tokens[2].(json.Number)
	value, isNumber := tokens[3].(json.Number)
	if tokens[0] != json.Delim('[') || !isText || !isTime || !isNumber || tokens[4] != json.Delim(']') {
		return "", graphite.Point{}, errors.New("not like [file, time, value]")
	}
	if len(file) > maxName || file == "" {
		return "", graphite.Point{}, fmt.Errorf("file name of %d bytes", len(file))
	}
	t, err := when.Float64()
	if err != nil || t < 0 || t > 1<<40 {
		return "", graphite.Point{}, fmt.Errorf("time %.80q", when)
	}
	v, err := value.Float64()
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return "", graphite.Point{}, err
	}
	return file, graphite.Point{Time: int64(math.Round(t)), Value: v}, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// maxItem is the maximum number of bytes between two brackets or commas in a POST. A
// limit is needed because the JSON decoder keeps these bytes in memory.
const maxItem = 8 << 10

// pythonJSON is a reader that converts Python's JSON dialect to JSON: it replaces NaN
// and Infinity with a number that overflows.
type pythonJSON struct {
	r               *bufio.Reader
	rest            string // text to return before reading more from r
	quoted, escaped bool
	last            byte
	length          int // bytes since the last bracket or comma
}

// infinite is the replacement for NaN and Infinity. Its spaces separate it from
// adjacent text.
const infinite = " 1e999 "

func (p *pythonJSON) Read(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		if p.rest != "" {
			k := copy(b[n:], p.rest)
			n, p.rest = n+k, p.rest[k:]
			continue
		}
		if n > 0 && p.r.Buffered() == 0 {
			break // more text may arrive late
		}
		if b[n], err = p.r.ReadByte(); err != nil {
			break
		}
		c := b[n]
		n++
		if p.length++; p.length > maxItem {
			err = fmt.Errorf("more than %d bytes", maxItem)
		}
		switch {
		case p.escaped:
			p.escaped = false
		case p.quoted && c == '\\':
			p.escaped = true
		case c == '"':
			p.quoted = !p.quoted
		case p.quoted:
		case c == '[' || c == ']' || c == ',':
			p.length = 0
		case c == 'N' && p.follows("aN"), c == 'I' && p.follows("nfinity"):
			n, p.rest = n-1, infinite
			if p.last == '-' && c == 'I' {
				p.rest = infinite[1:]
			}
		}
		p.last = c
	}
	return n, err
}

// follows skips the given text if it comes next in the input, and reports whether it did.
func (p *pythonJSON) follows(text string) bool {
	next, _ := p.r.Peek(len(text)) // the next read returns the error
	if string(next) != text {
		return false
	}
	p.r.Discard(len(text))
	return true
}

// sortPoints sorts points by time, as sinks require.
func sortPoints(points []graphite.Point) {
	if !slices.IsSortedFunc(points, byTime) {
		slices.SortStableFunc(points, byTime)
	}
}

func byTime(a, b graphite.Point) int { return cmp.Compare(a.Time, b.Time) }
