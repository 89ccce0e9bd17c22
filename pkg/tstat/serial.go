package tstat

import (
	"slices"
	"strconv"
	"time"
)

// Serials returns DBStream's serial_time of each row: the row's time in whole seconds
// since the epoch, which orders the rows of a stream. A row without an absolute time gets
// the time of its folder.
//
// The source of the time depends on the log type; see Ends. DBStream's own importer
// computes a TCP flow's time from last, and a video flow's time from first_abs and
// last_rel_ms. For these types, Serials repeats the importer's floating-point computation
// from the text, because the last bit can determine the second, and thus DBStream's time
// window.
func (b *Batch) Serials(folder time.Time) []int64 {
	b.serial = b.serial[:0]
	last, firstAbs, lastRel := b.Type.Column("last"), -1, -1
	if b.Type.Name == "log_video_complete" {
		firstAbs, lastRel = b.Type.Column("first_abs"), b.Type.Column("last_rel_ms")
	}
	var raw [][]byte
	for i, end := range b.Ends() {
		s := end / 1e6
		// Within 2 µs of a full second, floating-point errors and rounding to the
		// microsecond can change the second.
		edge := end%1e6 < 2 || end%1e6 >= 1e6-2
		if end > 0 && last >= 0 && (edge || firstAbs >= 0) {
			raw = b.rawFields(i, raw, last, firstAbs, lastRel)
			if sum, ok := milliseconds(raw[1], raw[2]); ok {
				s = int64(sum / 1000)
			} else if ms, ok := milliseconds(raw[0]); ok {
				s = int64(ms / 1000)
			}
		}
		if end <= 0 {
			s = folder.Unix()
		}
		b.serial = append(b.serial, s)
	}
	return b.serial
}

// rawFields returns row i's fields in the given columns, with nil for a missing field.
func (b *Batch) rawFields(i int, dst [][]byte, columns ...int) [][]byte {
	dst = append(dst[:0], make([][]byte, len(columns))...)
	text, fields, rowColumns := b.Row(i)
	for j, c := range columns {
		if f := slices.Index(rowColumns, c); c >= 0 && f >= 0 {
			dst[j] = text[fields.Begin(f):fields[f]]
		}
	}
	return dst
}

// milliseconds returns the sum of the given fields. ok is false if a field is not a
// number from 0 to maxTime/1e3, or if the sum is 0.
func milliseconds(fields ...[]byte) (sum float64, ok bool) {
	for _, f := range fields {
		x, err := strconv.ParseFloat(String(f), 64)
		if err != nil || !(x >= 0 && x <= maxTime/1e3) {
			return 0, false
		}
		sum += x
	}
	return sum, sum > 0
}
