package mathproto

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/metrics"
)

// StreamStats describes the state of a stream. It is the response to GET
// /DBSImport/{id}?status=1. All counts start at zero when the process starts. Fields
// may be added, but are never renamed.
type StreamStats struct {
	Registration
	Probe   string
	Files   int64 `json:"files"` // files stored
	Rows    int64 `json:"rows"`
	Rejects int64 `json:"rejects"`
	Failed  int64 `json:"failed"` // failed attempts to store a file
	Bytes   int64 `json:"bytes"`  // size of the stored files on disk
	// Filtered counts rows that were not selected. OtherTransform counts files that
	// were skipped because a store has them under another transform.
	Filtered       int64 `json:"filtered,omitempty"`
	OtherTransform int64 `json:"other_transform,omitempty"`
	// Others counts files that another repository stored in the meantime. Claimed
	// counts files that another repository has claimed but not yet stored.
	Others  int64 `json:"others,omitempty"`
	Claimed int64 `json:"claimed,omitempty"`
	// Unstored counts the files whose last import failed.
	Unstored int64 `json:"unstored,omitempty"`
	// RejectFile is the path of the file with the lines that this import run rejected,
	// or "" if it rejected none.
	RejectFile string `json:"-"`
	// LastFolder is the time of the newest folder from which a file was stored.
	// LagSeconds is that folder's age in seconds.
	LastFolder time.Time `json:"last_folder,omitzero"`
	LagSeconds float64   `json:"lag_seconds,omitempty"`
	// Stores describes the stores after the last pass.
	Stores    []bulk.StoreSummary `json:"stores,omitempty"`
	LastPoll  time.Time           `json:"last_poll,omitzero"`
	LastError string              `json:"last_error,omitempty"`
	ErrorTime time.Time           `json:"last_error_time,omitzero"`

	Time        time.Time `json:"-"` // time of these statistics
	LastSuccess time.Time `json:"-"` // when a file of the stream was last stored
	Hourly      []int64   `json:"-"` // rows stored per hour, oldest first; the last is the current hour
	// LateAfter is the lag above which the stream is late; 0 means never.
	LateAfter time.Duration `json:"-"`
	// ClockAhead is how far the probe's clock was ahead of the local clock
	// at ClockTime; it is negative if the clock was behind. Its resolution
	// is one second. ClockTime is zero if the probe never sent its time.
	ClockAhead time.Duration `json:"-"`
	ClockTime  time.Time     `json:"-"`
	Live       bool          `json:"-"` // see entry.Live
	Failure    error         `json:"-"` // the error described by LastError; may be nil
	To         []string      `json:"-"` // URLs of the stores, or of the repository, without secrets
}

// archiveAge is the age above which logs are assumed to come from an archive, not from
// a running Tstat.
const archiveAge = 30 * 24 * time.Hour

// Lag returns the age of the newest folder from which a file of the stream was stored. It
// returns false if no file of the stream has been stored yet.
func (s *StreamStats) Lag() (time.Duration, bool) {
	return max(0, s.Time.Sub(s.LastFolder)), !s.LastFolder.IsZero()
}

// Late reports whether logs newer than LastFolder should have been stored by now. A
// stream whose logs were all older than archiveAge is never late. Any other stream, once
// late, stays late until new logs are stored or the stream is removed.
func (s *StreamStats) Late() bool {
	lag, known := s.Lag()
	return known && s.LateAfter > 0 && lag > s.LateAfter && (s.Live || lag < archiveAge)
}

// Err returns the stream's last error, or "" if a later pass stored everything.
func (s *StreamStats) Err() string {
	if s.ErrorTime.Before(s.LastPoll) {
		return ""
	}
	return s.LastError
}

// Type returns the name of the stream's log type, or "" if the stream has several log
// types. If StreamType is unknown, Type returns it unchanged.
func (s *StreamStats) Type() string {
	if t := LogType(s.StreamType); t != nil {
		return t.Name
	}
	return s.StreamType
}

// Metrics defines the metrics of streams.
var Metrics = metrics.New("import_", []string{"probe", "stream", "type"},
	func(s *StreamStats) []string { return []string{s.Probe, s.StreamName, s.Type()} },
	metrics.Count("files_total", "Files stored.", func(s *StreamStats) int64 { return s.Files }),
	metrics.Count("rows_total", "Rows stored.", func(s *StreamStats) int64 { return s.Rows }),
	metrics.Count("rejects_total", "Lines rejected.", func(s *StreamStats) int64 { return s.Rejects }),
	metrics.Count("filtered_rows_total", "Rows not selected.", func(s *StreamStats) int64 { return s.Filtered }),
	metrics.Count("other_transform_files_total", "Files skipped because a store has them under another transform.", func(s *StreamStats) int64 { return s.OtherTransform }),
	metrics.Count("bytes_total", "Bytes of the files stored.", func(s *StreamStats) int64 { return s.Bytes }),
	metrics.Count("failed_files_total", "Failed attempts to store a file; each is retried.", func(s *StreamStats) int64 { return s.Failed }),
	metrics.Count("others_files_total", "Files that another repository stored meanwhile.", func(s *StreamStats) int64 { return s.Others }),
	metrics.Count("claimed_files", "Files that another repository has claimed, but not stored yet.", func(s *StreamStats) int64 { return s.Claimed }),
	metrics.Time("last_success_timestamp_seconds", "When a file of the stream was last stored.", func(s *StreamStats) time.Time { return s.LastSuccess }),
	metrics.Time("last_folder_timestamp_seconds", "Start of the newest log folder with a stored file.", func(s *StreamStats) time.Time { return s.LastFolder }),
	metrics.Count("unstored_files", "Files whose last attempt to be stored failed.", func(s *StreamStats) int64 { return s.Unstored }),
	metrics.Value("clock_ahead_seconds", "How far the clock of the probe is ahead of the clock of the repository.", func(s *StreamStats) (float64, bool) {
		return s.ClockAhead.Seconds(), !s.ClockTime.IsZero()
	}),
	metrics.Value("lag_seconds", "Age of the start of the newest log folder with a stored file.", func(s *StreamStats) (float64, bool) {
		lag, known := s.Lag()
		return lag.Seconds(), known
	}),
	metrics.Flag("late", "1 if the lag of the stream is longer than it should be.", (*StreamStats).Late),
	metrics.Flag("failing", "1 if the last pass over the stream did not store everything.", func(s *StreamStats) bool { return s.Err() != "" }),
)

// RefusedRegistrations counts the refused requests to register or remove streams, for all
// repositories of this process.
var RefusedRegistrations = prometheus.NewCounterFunc(prometheus.CounterOpts{
	Name: "tstatrepo_import_registrations_refused_total", Help: "Registrations of streams refused.",
}, func() float64 { return float64(refusedRegistrations.Load()) })

var refusedRegistrations atomic.Int64

// StoreStats is the state of one store of a stream. A stream can have several stores.
type StoreStats struct {
	stream *StreamStats
	bulk.StoreSummary
}

// StoresOf returns the stores of all streams.
func StoresOf(streams []StreamStats) (list []StoreStats) {
	for i := range streams {
		for _, s := range streams[i].Stores {
			list = append(list, StoreStats{&streams[i], s})
		}
	}
	return list
}

// StoreMetrics defines the metrics of the streams' stores.
var StoreMetrics = metrics.New("import_store_", []string{"probe", "stream", "type", "store"},
	func(s *StoreStats) []string {
		return []string{s.stream.Probe, s.stream.StreamName, s.stream.Type(), s.Store}
	},
	metrics.Value("lag_seconds", "Age of the start of the oldest log folder of which the store lacks a file; of the newest folder if it lacks none.", func(s *StoreStats) (float64, bool) {
		lag, known := s.Lag(s.stream.Time)
		return lag.Seconds(), known
	}),
	metrics.Flag("failing", "1 if the store is unavailable.", func(s *StoreStats) bool { return s.Error != "" }),
	metrics.Count("behind_files", "Files that the store lacks because it was unavailable.", func(s *StoreStats) int64 { return s.Behind }),
)

func (s *stream) stats(folder time.Duration) StreamStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum, now := s.before, time.Now()
	sum.Add(&s.total)
	st := StreamStats{
		Registration: s.Registration, Probe: s.probe,
		Files: sum.Files, Rows: sum.Rows, Rejects: sum.Rejects, Failed: sum.Failed, Bytes: sum.Bytes,
		Filtered: sum.Filtered, OtherTransform: sum.OtherTransform,
		Others: sum.Others, Claimed: s.total.Claimed, LastFolder: sum.Last, Stores: s.stores,
		LastPoll: s.last.poll, ErrorTime: s.last.err, Failure: s.err,
		Time: now, LastSuccess: s.last.stored, Hourly: s.rows.Values(now),
		// The folder being written cannot be stored yet and, for a while, neither can
		// the previous one.
		LateAfter: 3 * folder, Live: s.Live, Unstored: s.unstored, RejectFile: s.rejectFile,
	}
	if s.src != nil {
		st.ClockAhead, st.ClockTime = s.src.c.clock()
	}
	if s.err != nil {
		st.LastError = s.err.Error()
	}
	if !st.LastFolder.IsZero() {
		st.LagSeconds = now.Sub(st.LastFolder).Round(time.Second).Seconds()
	}
	return st
}

// Stats returns the state of all streams, ordered by ID.
func (r *Repository) Stats() []StreamStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []StreamStats
	for _, s := range r.streams {
		list = append(list, s.stats(r.opt.FolderLength))
	}
	return list
}
