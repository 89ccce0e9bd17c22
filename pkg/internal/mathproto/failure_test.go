package mathproto

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// Each test reproduces a situation in which math_probe or math_repo fails or
// loses data. The numbers are those of the table of their failures.

const (
	folder1 = "data/2016_03_24_21_37.out"
	folder2 = "data/2016_03_24_22_37.out"
	folder3 = "data/2016_03_24_23_37.out"
	file    = "log_udp_complete"
)

// TestFailure01MalformedLine checks that a line with too few fields and an
// empty line are rejects, while all other lines and later files are stored.
func TestFailure01MalformedLine(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	bad := udp(200, "a") + "10.0.0.1\n\n"
	p.put(folder1+"/"+file, bad)
	p.put(folder2+"/"+file, udp(20, "b"))
	r.register("s1", p.addr())
	r.waitStored("s1", folder1+"/"+file, bad, 200)
	r.waitStored("s1", folder2+"/"+file, "", 20)
	eventually(t, "two rejects", func() bool { return r.status(0).Rejects == 2 })
}

// TestFailure02BadValue checks that an invalid value rejects its row.
func TestFailure02BadValue(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	p.put(folder1+"/"+file, udp(5, "a")+"10.0.0.1 port 1458855462170.000 x\n")
	r.register("s1", p.addr())
	r.waitStored("s1", folder1+"/"+file, "", 5)
}

// TestFailure03TimeIsDash checks that a time '-' does not reject its row.
func TestFailure03TimeIsDash(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	p.put(folder1+"/"+file, udp(5, "a")+"10.0.0.1 7 - x\n")
	r.register("s1", p.addr())
	r.waitStored("s1", folder1+"/"+file, "", 6)
}

// TestFailure04NoRows checks that a file with only a header and an empty file
// are stored, and that later files follow.
func TestFailure04NoRows(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	p.put(folder1+"/"+file, udp(0, ""))
	p.put(folder2+"/"+file, "")
	p.put(folder3+"/"+file, udp(3, "c"))
	r.register("s1", p.addr())
	r.waitStored("s1", folder1+"/"+file, udp(0, ""), 0)
	r.waitStored("s1", folder2+"/"+file, "", 0)
	r.waitStored("s1", folder3+"/"+file, "", 3)
}

// TestFailure05NoLastNewline checks that an unfinished last line is stored once
// it is complete.
func TestFailure05NoLastNewline(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	whole := udp(6, "a")
	p.putAt(folder1+"/"+file, whole[:len(whole)-3], time.Now()) // modified recently, so the repository checks it again
	p.put(folder2+"/"+file, udp(1, "b"))
	r.register("s1", p.addr())
	r.waitStored("s1", folder1+"/"+file, "", 5)
	p.put(folder1+"/"+file, whole)
	r.waitStored("s1", folder1+"/"+file, whole, 6)
}

// TestFailure06ConnectionCut checks that every store gets every file completely
// and once, although connections break at random bytes. Some files are
// compressed.
func TestFailure06ConnectionCut(t *testing.T) { cutConnections(t, true) }

// TestFailure07ConnectionCutCopy is TestFailure06ConnectionCut with a server
// that does not support ranges.
func TestFailure07ConnectionCutCopy(t *testing.T) { cutConnections(t, false) }

func cutConnections(t *testing.T, ranges bool) {
	p, r := newOldProbe(t), newRepo(t, nil)
	files := map[string]string{}
	for i := range 10 {
		name, text := fmt.Sprintf("data/2016_03_24_%02d_00.out/%s", i, file), udp(5000, fmt.Sprint(i))
		switch i % 3 {
		case 0:
			name, text = name+".gz", gz(text)
		case 1:
			name, text = name+".zst", zst(text)
		}
		p.put(name, text)
		files[name] = text
	}
	cuts := scale(200)
	done := 0
	p.set(func() {
		p.fault = func(w http.ResponseWriter, req *http.Request) bool {
			p.mu.Lock()
			f, known := p.files[strings.TrimPrefix(req.URL.Path, "/")]
			cut := known && req.Method == http.MethodGet && done < cuts
			if cut {
				done++
			}
			p.mu.Unlock()
			if !ranges {
				req.Header.Del("Range")
			}
			if !cut {
				return false
			}
			rec := httptest.NewRecorder()
			http.ServeContent(rec, req, "", f.mtime, strings.NewReader(f.text))
			c, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return false
			}
			var answer bytes.Buffer
			rec.Result().ContentLength = int64(rec.Body.Len())
			fmt.Fprintf(&answer, "HTTP/1.1 %d x\r\n", rec.Code)
			rec.Header().Write(&answer)
			fmt.Fprintf(&answer, "\r\n%s", rec.Body)
			c.Write(answer.Bytes()[:rand.IntN(answer.Len())])
			if rand.IntN(2) == 0 {
				c.(*net.TCPConn).SetLinger(0)
			}
			c.Close()
			return true
		}
	})
	r.register("s1", p.addr())
	for name, text := range files {
		r.waitStored("s1", name, text, 5000)
	}
	eventually(t, "all cuts were made or all is there", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return done > 9 })
	if s := r.status(0); s.Files != 10 || s.Rows != 50000 {
		t.Errorf("%d files, %d rows", s.Files, s.Rows)
	}
}

// TestFailure06TruncatedGzip checks that the readable part of a truncated .gz
// file is stored and its end is counted as cut. Later files must follow.
func TestFailure06TruncatedGzip(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	whole := gz(udp(5000, "a"))
	p.put(folder1+"/"+file+".gz", whole[:len(whole)/2])
	p.put(folder2+"/"+file, udp(2, "b"))
	r.register("s1", p.addr())
	r.waitStored("s1", folder2+"/"+file, "", 2)
	key := store.Key{Probe: "s1", Folder: filepath.Base(folder1), File: file}
	for _, d := range r.dest {
		var rs []store.Record
		eventually(t, "the cut file in "+d, func() bool { rs = r.records(d, key); return len(rs) > 0 })
		if len(rs) != 1 || rs[0].Cut != 1 || rs[0].Rows == 0 || rs[0].Rows >= 5000 {
			t.Errorf("%s: %+v", d, rs)
		}
	}
}

// TestFailure08ErrorPage checks that an error page is never stored as a log.
// The file is stored once the probe serves it; other files are not delayed.
func TestFailure08ErrorPage(t *testing.T) {
	for _, code := range []int{404, 500, 301, 206} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			p, r := newOldProbe(t), newRepo(t, nil)
			p.put(folder1+"/"+file, udp(3, "a"))
			p.put(folder2+"/"+file, udp(4, "b"))
			p.set(func() {
				p.fault = func(w http.ResponseWriter, req *http.Request) bool {
					if req.Method == http.MethodHead || !strings.Contains(req.URL.Path, folder1) {
						return false
					}
					w.Header().Set("Location", "http://"+p.addr()+"/"+folder2+"/"+file)
					answer(w, code, "10.0.0.1 page not found\n")
					return true
				}
			})
			r.register("s1", p.addr())
			r.waitStored("s1", folder2+"/"+file, udp(4, "b"), 4)
			r.waitForPass(0)
			r.assertNotStored("s1", filepath.Base(folder1), file)
			if code == 404 { // a missing file is not an error; it is requested again when it reappears
				p.set(func() { p.fault = nil })
				p.putAt(folder1+"/"+file, udp(3, "a"), longAgo.Add(time.Second))
				r.register("s1", p.addr())
			}
		})
	}
}

// TestFailure08HeadFails checks that a file is skipped while HEAD requests for
// it fail.
func TestFailure08HeadFails(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	p.put(folder1+"/"+file, udp(3, "a"))
	p.put(folder2+"/"+file, udp(4, "b"))
	p.set(func() {
		p.fault = func(w http.ResponseWriter, req *http.Request) bool {
			if strings.Contains(req.URL.Path, folder1) {
				answer(w, 500, "")
				return true
			}
			return false
		}
	})
	r.register("s1", p.addr())
	r.waitStored("s1", folder2+"/"+file, "", 4)
	r.waitLogged("does not describe it")
	p.set(func() { p.fault = nil })
	r.waitStored("s1", folder1+"/"+file, udp(3, "a"), 3)
}

// TestFailure09ProbeUnreachable stops the probe during a transfer and restarts
// it at the same address.
func TestFailure09ProbeUnreachable(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	text := udp(50000, "a")
	p.put(folder1+"/"+file, text)
	p.put(folder2+"/"+file, udp(4, "b"))
	reached := make(chan struct{}, 10)
	addr := p.addr()
	p.set(func() {
		p.fault = func(w http.ResponseWriter, req *http.Request) bool {
			if req.Method != http.MethodGet {
				return false
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(text)))
			io.WriteString(w, text[:len(text)/2])
			w.(http.Flusher).Flush()
			reached <- struct{}{}
			<-req.Context().Done()
			return true
		}
	})
	r.register("s1", addr)
	<-reached
	p.Listener.Close() // refuse new connections
	p.CloseClientConnections()
	r.waitLogged("retrying")
	r.assertNotStored("s1", filepath.Base(folder1), file)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p.set(func() { p.fault = nil })
	srv := &http.Server{Handler: p}
	t.Cleanup(func() { srv.Close() })
	go srv.Serve(l)
	r.waitStored("s1", folder1+"/"+file, text, 50000)
	r.waitStored("s1", folder2+"/"+file, "", 4)
	if s := r.status(0); s.Files != 2 || s.LastError == "" {
		t.Errorf("%+v", s)
	}
}

// TestFailure10PostgreSQLRestarted crashes and restarts the server while files
// arrive, then stops it for a while.
func TestFailure10PostgreSQLRestarted(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	p := newOldProbe(t)
	want := int64(0)
	for i := range 40 {
		p.put(fmt.Sprintf("data/2016_03_24_%02d_%02d.out/%s", i/2, i%2*30, file), udp(200+i, fmt.Sprint(i)))
		want += int64(200 + i)
	}
	r := newRepo(t, func(r *repo) {
		r.dest = []string{"dbstream://" + server.Host(db) + "?window=600s"}
	})
	r.register("s1", p.addr())
	eventually(t, "some rows", func() bool { return r.status(0).Rows > 0 })
	for range 2 {
		server.Crash(t)
	}
	server.Stop(t)
	p.put("data/2016_03_25_01_00.out/"+file, udp(77, "late"))
	r.waitLogged("retrying")
	eventually(t, "the reason in the status", func() bool {
		s := r.status(0)
		return s.LastError != "" && s.ErrorTime.After(s.LastPoll)
	})
	server.StartAgain(t)
	c := server.Connect(t, db)
	defer c.Close(t.Context())
	// The status cannot be used: it does not count a file whose commit was
	// not acknowledged.
	var n, told int64
	eventually(t, "all rows", func() bool {
		if err := c.QueryRow(t.Context(), "select (select count(*) from s1), (select sum(rows)::int8 from dbs.tstatrepo_files)").Scan(&n, &told); err != nil {
			t.Fatal(err)
		}
		return n >= want+77
	})
	r.waitForPass(0)
	if n != want+77 || told != n {
		t.Errorf("%d rows, records of %d, want %d", n, told, want+77)
	}
}

// TestKillMath in pkg/command covers failure 11, kill -9.

// TestFailure12ImporterRestarted checks that a restarted repository continues
// its streams without new registrations.
func TestFailure12ImporterRestarted(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	p.put(folder1+"/"+file, udp(3, "a"))
	r.register("s1", p.addr())
	r.waitStored("s1", folder1+"/"+file, "", 3)
	r.stop()
	p.put(folder2+"/"+file, udp(4, "b"))
	r.start()
	r.waitStored("s1", folder2+"/"+file, "", 4)
	r.waitStored("s1", folder1+"/"+file, "", 3)
	if n := p.requestCount(folder1 + "/" + file); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	if s := r.get("/DBSImport"); !strings.Contains(s, `"0":{`) {
		t.Errorf("streams: %s", s)
	}
}

// TestFailure13StateLost checks that a repository without its state waits for
// registrations and stores nothing twice. A damaged state must be an error.
func TestFailure13StateLost(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	p.put(folder1+"/"+file, udp(3, "a"))
	p.put(folder2+"/"+file, udp(4, "b"))
	r.register("s1", p.addr())
	r.waitStored("s1", folder2+"/"+file, "", 4)
	r.stop()
	if err := os.WriteFile(r.opt.State, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := NewRepository(r.opt); err == nil || !strings.Contains(err.Error(), "state file") {
		t.Errorf("damaged state: %v", err)
	}
	if err := os.Remove(r.opt.State); err != nil {
		t.Fatal(err)
	}
	r.start()
	if s := r.get("/DBSImport"); s != "{}" {
		t.Errorf("streams: %s", s)
	}
	r.register("s1", p.addr())
	r.waitForPass(0)
	r.waitStored("s1", folder1+"/"+file, udp(3, "a"), 3)
	r.waitStored("s1", folder2+"/"+file, udp(4, "b"), 4)
	if s := r.status(0); s.Files != 0 {
		t.Errorf("stored again: %+v", s)
	}
}

// TestFailure15aStreamName checks that invalid names are refused without side
// effects.
func TestFailure15aStreamName(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	p.put(folder1+"/"+file, udp(3, "a"))
	for _, name := range []string{"", "a b", "x'; drop table y --", "../../EVIL2", "..", "a/b", "é", strings.Repeat("x", 65), "a.b"} {
		if code, text := r.post(Registration{CallBackUrl: p.addr(), StreamName: name, StreamType: "log_udp_complete"}); code != 400 || !strings.Contains(text, "invalid stream name") {
			t.Errorf("%q: %d %s", name, code, text)
		}
	}
	r.register("My-Stream", p.addr())
	r.waitStored("My-Stream", folder1+"/"+file, udp(3, "a"), 3)
}

// TestFailure15cUnsortedList checks that neither the order of the list nor
// duplicate names matter.
func TestFailure15cUnsortedList(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	for _, f := range []string{folder2, folder1, folder3} {
		p.put(f+"/"+file, udp(3, f))
	}
	p.set(func() { p.order = append(p.order, p.order...) })
	r.register("s1", p.addr())
	for _, f := range []string{folder1, folder2, folder3} {
		r.waitStored("s1", f+"/"+file, udp(3, f), 3)
	}
	// A folder with an older time appears later.
	p.put("data/2016_03_24_20_37.out/"+file, udp(5, "late"))
	r.waitStored("s1", "data/2016_03_24_20_37.out/"+file, udp(5, "late"), 5)
}

// TestFailure16SeveralFiles checks that all files of a folder are fetched.
func TestFailure16SeveralFiles(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	p.put(folder1+"/log_dns_complete", "#c_ip:1\n10.0.0.1\n")
	p.put(folder1+"/"+file, udp(3, "a"))
	p.put(folder1+"/log_udp_nocomplete", udp(2, "n")) // an unknown type
	r.register("s1", p.addr())
	r.waitStored("s1", folder1+"/log_dns_complete", "", 1)
	r.waitStored("s1", folder1+"/"+file, udp(3, "a"), 3)
}

// TestFailure17StrayFile checks that the exporter does not serve files that are
// not logs, and that the repository does not fetch them from an old probe.
func TestFailure17StrayFile(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	for _, stray := range []string{"data/stray", "stray", "data/odd.out/" + file, folder1 + "/histo.txt", folder1 + "/deeper/" + file} {
		p.put(stray, "x\n")
	}
	p.put(folder1+"/"+file, udp(3, "a"))
	r.register("s1", p.addr())
	r.waitStored("s1", folder1+"/"+file, udp(3, "a"), 3)
	r.waitForPass(0)
	p.set(func() {
		for name, n := range p.gets {
			if name != folder1+"/"+file && !strings.HasPrefix(name, "ListDir") {
				t.Errorf("%s was fetched %d times", name, n)
			}
		}
	})

	dir := t.TempDir()
	write(t, dir, "stray", "x")
	write(t, dir, "odd.out/"+file, "x")
	write(t, dir, "2016_03_24_21_37.out/"+file, udp(3, "a"))
	write(t, dir, "2016_03_24_21_37.out/odd", udp(3, "a"))
	write(t, dir, "2016_03_24_22_37.out/"+file, udp(3, "b"))
	addr, _, _ := runExporter(t, func(o *ExporterOptions) { o.Dir, o.Stream, o.Repository = dir, "s", URL{Addr: "127.0.0.1:1"} })
	if got := body(t, "http://"+addr+"/ListDir/s"); got != `["2016_03_24_21_37.out/log_udp_complete"]` {
		t.Errorf("list: %s", got)
	}
	for _, path := range []string{"/stray", "/odd.out/" + file, "/2016_03_24_21_37.out/odd", "/2016_03_24_22_37.out/" + file, "/2016_03_24_21_37.out", "/"} {
		if got := body(t, "http://"+addr+path); got != "404 page not found\n" {
			t.Errorf("%s: %q", path, got)
		}
	}
}

func body(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestFailure18FolderRemoved checks that the exporter survives the removal of
// its folder, and serves the folder when it reappears.
func TestFailure18FolderRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	fill := func() {
		write(t, dir, "2016_03_24_21_37.out/"+file, udp(3, "a"))
		write(t, dir, "2016_03_24_22_37.out/"+file, udp(3, "b"))
	}
	fill()
	r := newRepo(t, nil)
	runExporter(t, func(o *ExporterOptions) { o.Dir, o.Stream, o.Repository = dir, "s1", URL{Addr: r.addr} })
	r.waitStored("s1", "2016_03_24_21_37.out/"+file, udp(3, "a"), 3)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	r.waitLogged("503") // status of the request for the list
	fill()
	write(t, dir, "2016_03_24_23_37.out/"+file, "")
	r.register("s1", r.status(0).CallBackUrl) // skip the back-off
	r.waitStored("s1", "2016_03_24_22_37.out/"+file, udp(3, "b"), 3)
}

// TestFailure19NewAddress checks that a registration with a new address moves
// the stream, and that no file is fetched twice.
func TestFailure19NewAddress(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	p.put(folder1+"/"+file, udp(3, "a"))
	r.register("s1", p.addr())
	r.waitStored("s1", folder1+"/"+file, "", 3)
	p.Close()
	q := newOldProbe(t)
	q.put(folder1+"/"+file, udp(3, "a"))
	q.put(folder2+"/"+file, udp(4, "b"))
	r.register("s1", q.addr())
	r.waitStored("s1", folder2+"/"+file, udp(4, "b"), 4)
	r.waitStored("s1", folder1+"/"+file, udp(3, "a"), 3)
	if n := q.requestCount(folder1 + "/" + file); n != 0 {
		t.Errorf("fetched %d times from the new address", n)
	}
	if s := r.get("/DBSImport"); strings.Count(s, "StreamName") != 1 || !strings.Contains(s, q.addr()) {
		t.Errorf("streams: %s", s)
	}
	r.stop()
	r.start()
	if s := r.get("/DBSImport/0"); !strings.Contains(s, q.addr()) {
		t.Errorf("after a restart: %s", s)
	}
}

// TestFailure20FutureTime checks that one row far in the future does not affect
// later rows.
func TestFailure20FutureTime(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	p := newOldProbe(t)
	p.put(folder1+"/"+file, udp(5, "a")+"10.0.0.1 9 99999999999999.000 future\n")
	p.put(folder2+"/"+file, udp(5, "b"))
	p.put(folder3+"/"+file, udp(5, "c"))
	r := newRepo(t, func(r *repo) { r.dest = []string{"dbstream://" + server.Host(db)} })
	r.register("s1", p.addr())
	eventually(t, "all files", func() bool { return r.status(0).Files == 3 })
	c := server.Connect(t, db)
	defer c.Close(t.Context())
	var n, late int
	if err := c.QueryRow(t.Context(), "select count(*), count(*) filter (where serial_time > 1458862200 + 86400) from s1").Scan(&n, &late); err != nil {
		t.Fatal(err)
	}
	if n != 15 || late != 0 {
		t.Errorf("%d rows, %d of them late", n, late)
	}
}

// TestFailure21NewestWindow checks that the rows of the newest window and
// unchanged files of the newest folder are stored without waiting for later
// ones.
func TestFailure21NewestWindow(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	p.put(folder1+"/"+file, udp(3, "a"))
	r.register("s1", p.addr())
	r.waitStored("s1", folder1+"/"+file, "", 3)

	// A folder is open until its time is over and its files no longer
	// change.
	now := time.Now().UTC()
	open := "data/" + now.Format("2006_01_02_15_04") + ".out"
	p.put(open+"/"+file, udp(2, "open"))
	hour := now.Add(-2 * time.Hour)
	growing := "data/" + hour.Format("2006_01_02_15_04") + ".out"
	q, s := newOldProbe(t), r
	q.putAt(growing+"/"+file, udp(2, "growing"), now)
	// This probe's clock was once ahead.
	ahead := "data/" + now.Add(time.Hour).Format("2006_01_02_15_04") + ".out"
	q.putAt(ahead+"/"+file, udp(1, "ahead"), hour)
	s.register("s2", q.addr())
	r.waitForPass(0)
	r.waitForPass(1)
	r.assertNotStored("s1", filepath.Base(open), file)
	r.assertNotStored("s2", filepath.Base(growing), file)
	q.putAt(growing+"/"+file, udp(3, "growing"), now.Add(-quietPeriod-time.Minute))
	r.waitStored("s2", growing+"/"+file, udp(3, "growing"), 3)
}

// TestFailureHostileList checks that names that lead out of the stream are
// neither requested nor stored.
func TestFailureHostileList(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	p.put(folder1+"/"+file, udp(3, "a"))
	hostile := []string{
		"../../../EVIL/2015_02_27_22_30.out/log_udp_complete", "/../x/2015_02_27_22_30.out/log_udp_complete",
		"a/../../2015_02_27_22_30.out/log_udp_complete", "", "/", "..", "x\x00/2015_02_27_22_30.out/log_udp_complete",
		"a\n/2015_02_27_22_30.out/log_udp_complete", `..\2015_02_27_22_30.out/log_udp_complete`,
		strings.Repeat("x/", 600) + "2015_02_27_22_30.out/log_udp_complete", "2015_02_27_22_30.out/../log_udp_complete",
	}
	list, err := json.Marshal(append(hostile, folder1+"/"+file))
	if err != nil {
		t.Fatal(err)
	}
	p.set(func() { p.list = func() (int, string) { return 200, string(list) } })
	r.register("s1", p.addr())
	r.waitStored("s1", folder1+"/"+file, udp(3, "a"), 3)
	r.waitForPass(0)
	r.waitLogged("probe lists an invalid name")
	for _, folder := range []string{"2015_02_27_22_30.out", "2016_03_24_21_37.out"} {
		found, _ := filepath.Glob(filepath.Join(r.dir, "*", "*", "*", folder, "*"))
		for _, f := range found {
			if !strings.HasPrefix(f, filepath.Join(r.dir, "copy", "s1", "data")+"/") {
				t.Errorf("%s was written", f)
			}
		}
	}
	r.assertNotStored("s1", "2015_02_27_22_30.out", file)
	p.set(func() {
		for name := range p.gets {
			if strings.Contains(name, "2015_02_27") {
				t.Errorf("%q was requested", name)
			}
		}
	})
}

// TestFailureBadList checks that the repository waits while the list is missing
// or invalid.
func TestFailureBadList(t *testing.T) {
	for name, list := range map[string]struct {
		code int
		text string
	}{
		"500": {500, "<html>panic</html>"}, "405": {405, "Queried Stream not available."}, "html": {200, "<html>"}, "cut": {200, `["a`},
		"object": {200, `{"a":1}`}, "numbers": {200, `[1,2]`}, "redirect": {302, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, r := newOldProbe(t), newRepo(t, nil)
			p.put(folder1+"/"+file, udp(3, "a"))
			p.set(func() { p.list = func() (int, string) { return list.code, list.text } })
			r.register("s1", p.addr())
			r.waitLogged("retrying")
			p.set(func() { p.list = nil })
			r.register("s1", p.addr())
			r.waitStored("s1", folder1+"/"+file, udp(3, "a"), 3)
		})
	}
}

// TestFailureCallback checks that the repository connects only to allowed
// addresses, even if a name later resolves to a different address.
func TestFailureCallback(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	for addr, want := range map[string]int{
		"192.0.2.1:3001": 403, "169.254.169.254:80": 403, "[::1]:3001": 403, "127.0.0.2:3001": 403,
		"": 400, "127.0.0.1": 400, "127.0.0.1:0": 400, "127.0.0.1:99999": 400, "x@127.0.0.1:1": 400, "127.0.0.1:1/x": 400,
		"http://127.0.0.1:1": 400, "no-such-host.invalid:1": 400,
	} {
		if code, text := r.post(Registration{CallBackUrl: addr, StreamName: "s1", StreamType: "log_udp_complete"}); code != want {
			t.Errorf("%q: %d %s, want %d", addr, code, text, want)
		}
	}
	if s := r.get("/DBSImport"); s != "{}" {
		t.Errorf("streams: %s", s)
	}

	some, err := peer.ParseNetworks([]string{"192.0.2.0/24"})
	if err != nil {
		t.Fatal(err)
	}
	r = newRepo(t, func(r *repo) { r.opt.AllowCallback = some })
	if code, _ := r.post(Registration{CallBackUrl: p.addr(), StreamName: "s1", StreamType: "log_udp_complete"}); code != 403 {
		t.Errorf("an address outside of --allow-callback: %d", code)
	}

	// The address of each connection is checked, not only the address at
	// registration.
	c := newClient(false, peer.TLS{}, func(netip.Addr) error { return fmt.Errorf("forbidden") }, quick)
	if _, err := c.list(t.Context(), p.addr(), "s1", nil); err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Errorf("%v", err)
	}
}

// TestFailureSlowPeer checks that a file that arrives too slowly does not delay
// other files.
func TestFailureSlowPeer(t *testing.T) {
	p, q := newOldProbe(t), newOldProbe(t)
	p.put(folder1+"/"+file, udp(5000, "a"))
	q.put(folder1+"/"+file, udp(5, "b"))
	p.set(func() {
		p.fault = func(w http.ResponseWriter, req *http.Request) bool {
			if req.Method != http.MethodGet {
				return false
			}
			w.Header().Set("Content-Length", "1000000")
			for req.Context().Err() == nil {
				io.WriteString(w, "x")
				w.(http.Flusher).Flush()
				time.Sleep(5 * time.Millisecond) // the pace of the slow peer
			}
			return true
		}
	})
	r := newRepo(t, func(r *repo) {
		r.opt.Import.Jobs = 1
		r.opt.timing.stall = 500 * time.Millisecond
	})
	r.register("s1", p.addr())
	r.register("s2", q.addr())
	r.waitStored("s2", folder1+"/"+file, udp(5, "b"), 5)
	r.waitLogged("too slow")
	r.assertNotStored("s1", filepath.Base(folder1), file)
}

// TestFailureUnknownType checks that an unknown StreamType is refused, and that
// the log names it.
func TestFailureUnknownType(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	for _, typ := range []string{"mawi_wide", "", "log_nothing", "log_tcp_complete_v16"} {
		if code, text := r.post(Registration{CallBackUrl: p.addr(), StreamName: "s1", StreamType: typ}); code != 400 || text != "unknown stream type" {
			t.Errorf("%s: %d %s", typ, code, text)
		}
	}
	r.waitLogged("mawi_wide")
	for _, typ := range []string{"log_tcp_complete_v15", "log_video_complete", "log_tcp_complete"} {
		if code, text := r.post(Registration{CallBackUrl: p.addr(), StreamName: typ, StreamType: typ}); code != 200 {
			t.Errorf("%s: %d %s", typ, code, text)
		}
	}
}

// TestFailureBigRequests checks that oversized registrations and lists are
// refused.
func TestFailureBigRequests(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	if code, _ := r.post(Registration{CallBackUrl: p.addr(), StreamName: "s1", StreamType: strings.Repeat("x", maxBody)}); code != 400 {
		t.Errorf("a large body: %d", code)
	}
	if code, _ := r.post(Registration{CallBackUrl: p.addr(), StreamName: "s1", StreamType: "log_udp_complete", StartTime: 1 << 62}); code != 400 {
		t.Errorf("a start time: %d", code)
	}
	for _, list := range []string{"[" + strings.Repeat(`"",`, maxFiles) + `""]`, `["` + strings.Repeat("x", maxList) + `"]`} {
		n := 0
		if err := decodeList(io.LimitReader(strings.NewReader(list), maxList), func(string) { n++ }); err == nil {
			t.Errorf("a list of %d names", n)
		}
	}
}

// TestFailureSymlinks checks that no link leads out of the exported folder.
func TestFailureSymlinks(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	write(t, outside, "2016_03_24_20_37.out/"+file, "secret\n")
	write(t, dir, "2016_03_24_21_37.out/"+file, udp(3, "a"))
	write(t, dir, "2016_03_24_22_37.out/"+file, udp(3, "b"))
	for from, to := range map[string]string{
		"up": outside, "2016_03_24_20_37.out": filepath.Join(outside, "2016_03_24_20_37.out"),
		"2016_03_24_21_37.out/log_dns_complete": filepath.Join(outside, "2016_03_24_20_37.out", file), "2016_03_24_21_37.out/log_mm_complete": "../../../../../../etc/passwd",
	} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	addr, _, _ := runExporter(t, func(o *ExporterOptions) { o.Dir, o.Stream, o.Repository = dir, "s", URL{Addr: "127.0.0.1:1"} })
	if got := body(t, "http://"+addr+"/ListDir/s"); got != `["2016_03_24_21_37.out/log_udp_complete"]` {
		t.Errorf("list: %s", got)
	}
	for _, path := range []string{"up/2016_03_24_20_37.out/" + file, "2016_03_24_20_37.out/" + file, "2016_03_24_21_37.out/log_dns_complete", "2016_03_24_21_37.out/log_mm_complete", "../" + filepath.Base(outside), "%2e%2e/x", "2016_03_24_21_37.out/../../" + filepath.Base(outside) + "/2016_03_24_20_37.out/" + file} {
		request := "GET /" + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n"
		if resp, got := exchange(t, addr, "GET", request); resp.StatusCode != 404 {
			t.Errorf("%s: %s %q", path, resp.Status, got)
		}
	}
}

// TestFailureSlowStreamsShareJobs checks that a peer just above the minimum
// speed does not delay other peers' streams.
func TestFailureSlowStreamsShareJobs(t *testing.T) {
	p, q := newOldProbe(t), newOldProbe(t)
	q.put(folder1+"/"+file, udp(5, "b"))
	for _, f := range []string{folder1, folder2, folder3} {
		p.put(f+"/"+file, udp(5000, "a"))
	}
	ended := make(chan struct{})
	p.set(func() {
		p.fault = func(w http.ResponseWriter, req *http.Request) bool {
			if req.Method != http.MethodGet {
				return false
			}
			w.Header().Set("Content-Length", "1000000000")
			io.WriteString(w, udp(50, "a"))
			for req.Context().Err() == nil {
				io.WriteString(w, "10.0.0.1 1 1458855462170.000 a\n")
				w.(http.Flusher).Flush()
				select {
				case <-ended:
					return true
				case <-time.After(5 * time.Millisecond): // about 6 KiB/s
				}
			}
			return true
		}
	})
	r := newRepo(t, func(r *repo) { r.opt.Import.Jobs = 2 })
	defer close(ended)
	r.register("s1", p.addr())
	r.register("s2", p.addr())
	eventually(t, "files on their way", func() bool { return p.requestCount(folder1+"/"+file)+p.requestCount(folder2+"/"+file) >= 2 })
	r.register("s3", q.addr())
	r.waitStored("s3", folder1+"/"+file, udp(5, "b"), 5)
}
