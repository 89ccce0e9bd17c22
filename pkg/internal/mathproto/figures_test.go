package mathproto

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// TestFiguresCountAllRuns checks that files are counted as soon as they are
// stored, across all import runs.
func TestFiguresCountAllRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stream{figures: newFigures()}
		start, folder := time.Now(), time.Date(1999, 12, 31, 22, 0, 0, 0, time.UTC)
		check := func(files, rows int64, last time.Time, hourly ...int64) {
			t.Helper()
			st := s.stats(time.Hour)
			if tail := st.Hourly[24-len(hourly):]; st.Files != files || st.Rows != rows || !st.LastSuccess.Equal(last) || !slices.Equal(tail, hourly) {
				t.Errorf("%d files, %d rows, by hour %v, the last at %v; want %d, %d, %v, %v", st.Files, st.Rows, tail, st.LastSuccess, files, rows, hourly, last)
			}
			if !st.Time.Equal(time.Now()) || !st.LastFolder.IsZero() && st.LagSeconds != st.Time.Sub(folder).Seconds() || st.LateAfter != 3*time.Hour {
				t.Errorf("lag %v s at %v, late after %v", st.LagSeconds, st.Time, st.LateAfter)
			}
		}
		check(0, 0, time.Time{}, 0, 0)
		s.recordCounts(bulk.TypeSummary{Files: 1, Rows: 5, Last: folder})
		check(1, 5, start, 0, 5)
		time.Sleep(time.Hour)
		s.recordCounts(bulk.TypeSummary{Files: 1, Rows: 5, Skipped: 7, Last: folder}) // nothing new was stored
		check(1, 5, start, 5, 0)
		s.recordCounts(bulk.TypeSummary{Files: 2, Rows: 8, Skipped: 7, Last: folder})
		again := start.Add(time.Hour)
		check(2, 8, again, 5, 3)
		s.recordPass(&bulk.Summary{Stores: []bulk.StoreSummary{{Store: "a"}}}, errors.New("the other store is unavailable"))
		if st := s.stats(time.Hour); len(st.Stores) != 1 || st.Err() != "the other store is unavailable" || !st.LastPoll.Equal(again) {
			t.Errorf("%+v", st)
		}
		s.endRun()
		check(2, 8, again, 5, 3)
		time.Sleep(time.Hour)
		s.recordCounts(bulk.TypeSummary{Files: 1, Rows: 2, Last: folder})
		check(3, 10, again.Add(time.Hour), 5, 3, 2)
		s.recordPass(&bulk.Summary{}, nil)
		if st := s.stats(time.Hour); st.Err() != "" || len(st.Stores) != 0 {
			t.Errorf("after a pass without an error: %+v", st)
		}
	})
}

// TestFiguresDistinguishStores checks that the figures describe each store
// separately after a pass.
func TestFiguresDistinguishStores(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	p.put(folder1+"/"+file, udp(3, "a"))
	r.register("s1", p.addr())
	eventually(t, "both stores", func() bool {
		list := r.status(0).Stores
		return len(list) == 2 && list[0].Files == 1 && list[1].Files == 1
	})
	for i, s := range r.status(0).Stores {
		want := time.Date(2016, 3, 24, 21, 37, 0, 0, time.UTC)
		if s.Store != r.dest[i] || s.Rows != 3 || s.Behind != 0 || !s.Last.Equal(want) {
			t.Errorf("store %d: %+v", i, s)
		}
	}
}

// TestStoppedStreamIsLate checks that a stream that delivered new logs is late
// when no more arrive, even after a restart. A stream that only had old logs is
// not late.
func TestStoppedStreamIsLate(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	recent := time.Now().UTC().Add(-5 * time.Hour)
	p.put(tstat.FolderName(recent)+"/"+file, udpAt(recent, 3, "a"))
	r.register("s1", p.addr())
	q := newOldProbe(t)
	q.put(folder1+"/"+file, udp(3, "b"))
	r.register("s2", q.addr())
	r.waitStored("s2", folder1+"/"+file, "", 3)
	var saved registry
	eventually(t, "the saved live stream", func() bool {
		return state.Load(r.opt.State, stateFormat, &saved) == nil && len(saved.Streams) == 2 && saved.Streams[0].Live
	})
	r.stop()
	repository, err := NewRepository(r.opt)
	if err != nil {
		t.Fatal(err)
	}
	for i, st := range repository.Stats() {
		st.Time, st.LastFolder = time.Now(), time.Now().Add(-40*24*time.Hour)
		if st.Late() != (i == 0) {
			t.Errorf("stream %s is late: %v", st.StreamName, st.Late())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := repository.Run(ctx); err != nil {
		t.Error(err)
	}
	r.start()
}

// TestChangedStreamStaysLive checks that a live stream stays live when its
// probe registers it with another start time.
func TestChangedStreamStaysLive(t *testing.T) {
	r := newRepo(t, nil)
	addr := newOldProbe(t).addr()
	r.register("s1", addr)
	first := r.running.streams[0]
	r.running.markLive(first)
	if code, text := r.post(Registration{CallBackUrl: addr, StreamName: "s1", StreamType: "log_udp_complete", StartTime: time.Now().Unix()}); code != 200 {
		t.Fatalf("%d %s", code, text)
	}
	if s := r.running.Stats()[0]; r.running.streams[0] == first || !s.Live {
		t.Errorf("changed: %v, live: %v", r.running.streams[0] != first, s.Live)
	}
}

// TestStreamWaitingForStoreFails checks that a stream that waits for a store is
// failing, and that its status names the store before anything is stored.
func TestStreamWaitingForStoreFails(t *testing.T) {
	p := newOldProbe(t)
	p.put(folder1+"/"+file, udp(3, "a"))
	r := newRepo(t, func(r *repo) { r.dest = []string{"postgres://u:secret@127.0.0.1:1/db?sslmode=disable"} })
	r.register("s1", p.addr())
	eventually(t, "the store", func() bool { return len(r.status(0).Stores) == 1 })
	s := r.status(0)
	if st := s.Stores[0]; !strings.Contains(st.Error, "refused") || strings.Contains(st.Error+st.Store, "secret") || !strings.HasPrefix(st.Store, "postgres://") {
		t.Errorf("%+v", st)
	}
	if !strings.Contains(s.LastError, "refused") || s.Err() == "" {
		t.Errorf("%+v", s)
	}
}

// TestRemovedWhileStoreLacksFiles checks that removing a stream logs how many
// files a store will never receive.
func TestRemovedWhileStoreLacksFiles(t *testing.T) {
	p := newOldProbe(t)
	p.put(folder1+"/"+file, udp(3, "a"))
	r := newRepo(t, func(r *repo) { r.dest[1] = "postgres://u@127.0.0.1:1/db?sslmode=disable" })
	r.register("s1", p.addr())
	eventually(t, "the missing file", func() bool { s := r.status(0).Stores; return len(s) == 2 && s[1].Behind == 1 })
	if resp, _ := exchange(t, r.addr, "DELETE", "DELETE /DBSImport/0 HTTP/1.1\r\nHost: localhost\r\n\r\n"); resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	if log := r.logs.String(); strings.Count(log, "removed stream has files that a store lacks") != 1 || !strings.Contains(log, "store=\"postgres://u@127.0.0.1:1/db?sslmode=disable\" files=1") {
		t.Error("no warning")
	}
}

// flakyStores fails to open its stores a given number of times.
type flakyStores struct {
	Stores
	failures atomic.Int64
}

func (f *flakyStores) Open(s Stream) ([]bulk.Destination, func() error, error) {
	if f.failures.Add(-1) >= 0 {
		return nil, nil, errors.New("cannot be opened")
	}
	return f.Stores.Open(s)
}

// TestSuccessResetsBackoff checks that the delay before an import restarts
// grows, and that a successful pass resets it.
func TestSuccessResetsBackoff(t *testing.T) {
	p, q := newOldProbe(t), newOldProbe(t)
	first := new(flakyStores)
	first.failures.Store(3)
	r := newRepo(t, func(r *repo) {
		first.Stores, r.opt.Stores = r, first
		r.dest = r.dest[1:]
		r.opt.Import.ProbeGuessed = true // makes the import end when another probe stored its logs
	})
	p.put(folder1+"/"+file, udp(3, "a"))
	p.put(folder2+"/"+file, udp(3, "b"))
	waits := func() (list []time.Duration) {
		for line := range strings.Lines(r.logs.String()) {
			if _, text, ok := strings.Cut(line, "retry_in="); ok {
				d, err := time.ParseDuration(strings.Fields(text)[0])
				if err != nil {
					t.Fatal(err)
				}
				list = append(list, d)
			}
		}
		return list
	}
	for i := range 3 {
		r.register("s1", p.addr()) // skips the back-off
		eventually(t, "a failure", func() bool { return len(waits()) == i+1 })
	}
	r.register("s1", p.addr())
	eventually(t, "the files", func() bool { return r.status(0).Files == 2 })
	q.put(folder3+"/"+file, udp(3, "c"))
	q.put("data/2016_03_25_02_37.out/"+file, udp(3, "d"))
	r.register("s2", q.addr())
	eventually(t, "the files of the other", func() bool { return r.status(1).Files == 2 })
	p.put(folder3+"/"+file, udp(3, "c"))
	eventually(t, "the end of the import", func() bool { return len(waits()) == 4 })
	if list := waits(); list[2] <= minRestart || list[3] > minRestart {
		t.Errorf("waits %v, want that the last is at most %v", list, minRestart)
	}
}

// TestRefusedFileInStatus checks that the status of a stream names a refused
// file and the reject file until the probe removes the file.
func TestRefusedFileInStatus(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, func(r *repo) { r.dest = r.dest[1:] }) // a copy accepts every line
	p.put(folder1+"/"+file, udp(50, "a")+strings.Repeat("bad\n", 101))
	r.register("s1", p.addr())
	eventually(t, "the refused file", func() bool { return r.status(0).Unstored == 1 })
	r.waitForPass(0)
	r.waitForPass(0)
	st := r.running.Stats()[0]
	if text := st.Err(); !strings.Contains(text, folder1) || !strings.Contains(text, "101 of 151 lines rejected") {
		t.Errorf("error %q", text)
	}
	if text, err := os.ReadFile(st.RejectFile); err != nil || !strings.Contains(string(text), `"bad"`) {
		t.Errorf("rejects in %q: %v, %.200s", st.RejectFile, err, text)
	}
	p.set(func() { p.list = func() (int, string) { return http.StatusOK, "[]" } })
	eventually(t, "no refused file", func() bool {
		st := r.running.Stats()[0]
		return st.Unstored == 0 && st.Err() == ""
	})
}

// TestClockDifferenceFromResponses checks that a client derives the clock
// difference from its peer's responses.
func TestClockDifferenceFromResponses(t *testing.T) {
	ahead := -time.Hour
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
	}))
	defer srv.Close()
	c := newClient(false, peer.TLS{}, nil, quick)
	if _, at := c.clock(); !at.IsZero() {
		t.Errorf("known before the first answer, at %v", at)
	}
	for _, ahead = range []time.Duration{-time.Hour, 0, 2 * time.Minute} {
		resp, err := c.do(t.Context(), http.MethodGet, srv.Listener.Addr().String(), "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got, at := c.clock(); (got-ahead).Abs() > time.Minute || time.Since(at) > time.Minute {
			t.Errorf("%v ahead at %v, want %v", got, at, ahead)
		}
	}
}

// TestRowsNeverDecrease checks that the rows stored, a counter of Prometheus, do not
// decrease when a second store rejects a row of a log that is counted already.
func TestRowsNeverDecrease(t *testing.T) {
	f := newFigures()
	for _, c := range []struct{ rows, rejects, want int64 }{{100, 0, 100}, {99, 1, 100}, {149, 1, 149}} {
		f.recordCounts(bulk.TypeSummary{Rows: c.rows, Rejects: c.rejects})
		if f.total.Rows != c.want || f.total.Rejects != c.rejects {
			t.Errorf("%d rows and %d rejects: recorded %+v", c.rows, c.rejects, f.total)
		}
	}
}
