package bulk

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// zoneCheck compares the times in folder names, which are local to the probe, with the
// absolute times of rows. Tstat writes a row when its flow has ended, so the first rows
// of a folder end at about the time of the folder. A difference of hours means that the
// time zone of the options is not that of the probe.
type zoneCheck struct {
	quarters int  // difference in quarters of an hour
	files    int  // number of files with this difference
	done     bool // a warning was logged, or files disagree
}

const (
	zoneQuarter = 15 * time.Minute
	// The earliest of the first rows ends at most 7 minutes before the folder
	// was created, if its flow timed out, or shortly after. The middle of this
	// range is zoneLag before that time, and zoneSlack is half its width.
	zoneLag   = 90 * time.Second
	zoneSlack = 330 * time.Second
	// zoneFiles is the number of files with the same difference after which
	// the zone is considered wrong.
	zoneFiles = 3
	// zoneRows is the least number of rows in a file's first batch. In a file
	// with fewer rows the first row may be late.
	zoneRows = 20
)

// add compares ends with the time of folder, and logs a warning once enough files have
// the same time difference. ends holds the end times of a file's first rows, in
// microseconds since the epoch; 0 if unknown.
func (z *zoneCheck) add(log *slog.Logger, folder tstat.FolderTime, loc *time.Location, ends []int64) {
	if z.done || len(ends) < zoneRows {
		return
	}
	first := int64(0)
	for _, e := range ends {
		if e > 0 && (first == 0 || e < first) {
			first = e
		}
	}
	if first == 0 || folder.Latest != folder.Time {
		return
	}
	d := time.UnixMicro(first).Sub(folder.Time) + zoneLag
	if d > 24*time.Hour || d < -24*time.Hour {
		return // not explained by a zone
	}
	q := int(d.Round(zoneQuarter) / zoneQuarter)
	off := d - time.Duration(q)*zoneQuarter
	if off > zoneSlack || off < -zoneSlack {
		return
	}
	if q > -2 && q < 2 || z.files > 0 && q != z.quarters {
		z.done = true // the zone is right, or nothing can be concluded
		return
	}
	z.quarters = q
	if z.files++; z.files < zoneFiles {
		return
	}
	z.done = true
	_, now := folder.Time.In(loc).Zone()
	likely := now - q*int(zoneQuarter/time.Second)
	log.Warn("row times do not match the folder names in this time zone",
		"difference", time.Duration(q)*zoneQuarter, "used", offset(now), "likely", offset(likely),
		"hint", "name the probe's zone with `timezone`")
}

// offset formats s, an offset from UTC in seconds, as in UTC+01:00.
func offset(s int) string {
	sign := '+'
	if s < 0 {
		sign, s = '-', -s
	}
	return fmt.Sprintf("UTC%c%02d:%02d", sign, s/3600, s%3600/60)
}
