package tstat

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Layouts of the names of log folders without ".out", in the notation of package time.
// Tstat has used folderForm since 2.4 (07/2012).
const (
	folderForm    = "2006_01_02_15_04"
	oldFolderForm = "15_04_02_Jan_2006"
)

var folderName = regexp.MustCompile(`^([0-9]{4}_[0-9]{2}_[0-9]{2}_[0-9]{2}_[0-9]{2}|[0-9]{2}_[0-9]{2}_[0-9]{2}_[A-Z][a-z]{2}_[0-9]{4})\.out$`)

// FolderTime is the time in a log folder's name: the minute in which Tstat opened the
// folder, in the probe's local zone. When daylight saving time ends, an hour occurs
// twice, and the name does not show which occurrence it means.
type FolderTime struct {
	Time   time.Time // the earlier possible time, UTC
	Latest time.Time // the later possible time; equal to Time unless the name is ambiguous
}

// IsFolder reports whether name has the form of a log folder's name.
func IsFolder(name string) bool {
	_, err := ParseFolder(name, time.UTC)
	return err == nil
}

// ParseFolder parses the name of a log folder, YYYY_MM_DD_HH_MM.out or, up to
// Tstat 2.3, HH_MM_DD_Mon_YYYY.out, as a time in loc.
func ParseFolder(name string, loc *time.Location) (FolderTime, error) {
	if !folderName.MatchString(name) {
		return FolderTime{}, fmt.Errorf("%q is not a log folder name: want YYYY_MM_DD_HH_MM.out", name)
	}
	form := folderForm
	if name[4] != '_' {
		form = oldFolderForm
	}
	// Parse in UTC, where every minute exists. If loc is not the probe's zone, the name
	// may denote a minute that loc skips when daylight saving time starts.
	wall, err := time.Parse(form, strings.TrimSuffix(name, ".out"))
	if err != nil {
		return FolderTime{}, fmt.Errorf("%q is not a log folder name: no such date", name)
	}
	t := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), 0, 0, loc)
	f := FolderTime{t.UTC(), t.UTC()}
	// Clocks go back by an hour, on Lord Howe Island by half an hour.
	for d := -2 * time.Hour; d <= 2*time.Hour; d += 30 * time.Minute {
		u := t.Add(d)
		if u.Format(folderForm) != t.Format(folderForm) {
			continue
		}
		if u.Before(f.Time) {
			f.Time = u.UTC()
		}
		if u.After(f.Latest) {
			f.Latest = u.UTC()
		}
	}
	return f, nil
}

// FolderName returns the name of a log folder that was opened at t, in the form used
// since Tstat 2.4.
func FolderName(t time.Time) string { return t.Format(folderForm) + ".out" }
