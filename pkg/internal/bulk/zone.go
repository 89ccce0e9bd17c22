package bulk

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// zoneCheck compares the times in folder names, which are in the probe's time zone, with
// the absolute times of rows. Tstat writes a row when a flow has ended. The flows in the
// first rows of a folder therefore end at about the time in the folder's name. A
// difference of hours means that Options.Location is not the probe's time zone.
type zoneCheck struct {
	quarters int  // difference in quarters of an hour
	files    int  // number of files with this difference
	done     bool // a warning was logged, or files disagree
}

const (
	zoneQuarter = 15 * time.Minute
	// The earliest end time in the first rows is between 7 minutes before the
	// creation of the folder (for a flow that timed out) and 4 minutes after
	// it. The middle of this range is zoneLag before the creation, and half
	// its width is zoneSlack.
	zoneLag   = 90 * time.Second
	zoneSlack = 330 * time.Second
	// zoneFiles is the number of files with the same difference after which
	// the zone is considered wrong.
	zoneFiles = 3
	// zoneRows is the minimum number of rows in a file's first batch. With
	// fewer rows, the earliest row may be too late for a comparison.
	zoneRows = 20
)

// add compares the end times of a file's first rows with the time of its folder. It logs
// a warning once enough files have the same difference. The end times are in microseconds
// since the epoch; 0 means unknown.
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

// offset formats an offset from UTC, in seconds, like UTC+01:00.
func offset(s int) string {
	sign := '+'
	if s < 0 {
		sign, s = '-', -s
	}
	return fmt.Sprintf("UTC%c%02d:%02d", sign, s/3600, s%3600/60)
}
