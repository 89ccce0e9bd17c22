package upkeep

import "time"

// Before is the start of the first UTC day that stays if rows are kept for
// that long: days that ended at least that long ago go.
func Before(now time.Time, keep time.Duration) time.Time {
	return now.UTC().Add(-keep).Truncate(24 * time.Hour)
}
