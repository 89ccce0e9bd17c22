package filter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Sample selects about one flow in N by a hash of its addresses and ports. The selection
// is the same in every run, on every probe, in both directions and in all log types. A
// sample is a subset of every sample with a smaller N.
type Sample struct {
	n uint64 // at least 1
}

// ParseSample parses "1/N". Errors are usage errors.
func ParseSample(text string) (Sample, error) {
	rest, ok := strings.CutPrefix(text, "1/")
	n, err := strconv.ParseUint(rest, 10, 32)
	if !ok || err != nil || n == 0 {
		return Sample{}, hint.Usage(fmt.Sprintf("%q is not a sample", text), "write 1/N, for example 1/100 for one flow of a hundred")
	}
	return Sample{n}, nil
}

func (s Sample) String() string { return fmt.Sprintf("1/%d", s.n) }

// flowColumns lists the columns that identify a flow.
var flowColumns = []string{"c_ip", "c_port", "s_ip", "s_port"}

// Sampler applies a Sample to logs of one type. It is not safe for concurrent use.
type Sampler struct {
	most    uint64    // the greatest selected hash
	columns []int     // indexes of flowColumns in the columns of the log type
	ends    [2][]byte // buffers for the client's and the server's end of a flow
}

// For returns the sampler for a log type. Errors are usage errors.
func (s Sample) For(t *tstat.LogType) (*Sampler, error) {
	p := &Sampler{most: math.MaxUint64 / s.n}
	for _, name := range flowColumns {
		c := t.Column(name)
		if c < 0 {
			return nil, hint.Usage(fmt.Sprintf("%s has no column %s: its rows are not of flows", t.Name, name), "name the log types that the sample is for")
		}
		p.columns = append(p.columns, c)
	}
	return p, nil
}

// Select clears keep[i] if the flow of row i is not in the sample. It returns the number
// of rows that are still kept.
func (p *Sampler) Select(b *tstat.Batch, keep []bool) (selected int) {
	var texts [2][][]byte // of c_ip, s_ip
	var ints [2][]int64
	var defs [2][2][]int16 // nil for columns missing from the log
	for side := range texts {
		ip, _ := b.Decoded(p.columns[2*side])
		port, _ := b.Decoded(p.columns[2*side+1])
		texts[side], ints[side], defs[side] = ip.Texts, port.Ints, [2][]int16{ip.Def, port.Def}
	}
	for i := range keep[:b.Len()] {
		for side := range texts {
			end := p.ends[side][:0]
			if d := defs[side][0]; d != nil && d[i] == 1 {
				end = append(end, texts[side][0]...)
				texts[side] = texts[side][1:]
			}
			end = append(end, ' ')
			if d := defs[side][1]; d != nil && d[i] == 1 {
				end = binary.BigEndian.AppendUint64(end, uint64(ints[side][0]))
				ints[side] = ints[side][1:]
			}
			p.ends[side] = end
		}
		keep[i] = keep[i] && hashFlow(p.ends[0], p.ends[1]) <= p.most
		if keep[i] {
			selected++
		}
	}
	return selected
}

// hashFlow returns the hash of a flow between the ends a and b, whose order does not
// matter. The hash must never change, because it decides which flows are in the stores.
// It is the FNV-1a hash of the lesser end, a zero byte and the greater end, mixed as in
// SplitMix64.
func hashFlow(a, b []byte) uint64 {
	if bytes.Compare(a, b) > 0 {
		a, b = b, a
	}
	h := uint64(14695981039346656037)
	add := func(c byte) { h = (h ^ uint64(c)) * 1099511628211 }
	for _, c := range a {
		add(c)
	}
	add(0)
	for _, c := range b {
		add(c)
	}
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
