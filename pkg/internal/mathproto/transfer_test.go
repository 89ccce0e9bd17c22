package mathproto

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/compression"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// TestTransferIntoAllStores transfers folders with four log types each over TLS
// into all stores. Some files are compressed. Each type is a stream.
func TestTransferIntoAllStores(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	dir := t.TempDir()
	types := []string{"log_udp_complete", "log_tcp_complete", "log_dns_complete", "log_mm_complete"}
	texts := map[string]string{} // texts of the files by name
	rows := map[string]int64{}   // rows by log type
	for i := range scale(200) + 1 {
		for j, typ := range types {
			n := 1 + (i*7+j)%40
			at := time.Date(2016, 3, 1, i, 0, 0, 0, time.UTC)
			text := udpAt(at, n, fmt.Sprintf("%d-%s", i, typ))
			if typ == "log_tcp_complete" {
				text = strings.Replace(text, "c_first_abs:3", "last:3", 1)
			}
			name := at.Format("2006/01/2006_01_02_15_04") + ".out/" + typ
			switch (i + j) % 4 {
			case 0:
				text, name = gz(text), name+".gz"
			case 1:
				text, name = zst(text), name+".zst"
			}
			write(t, dir, name, text)
			// Make files old: the newest folder of each month has
			// no later folder beside it.
			if err := os.Chtimes(filepath.Join(dir, name), longAgo, longAgo); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(filepath.Dir(filepath.Join(dir, name)), longAgo, longAgo); err != nil {
				t.Fatal(err)
			}
			texts[name] = text
			rows[typ] += int64(n)
		}
	}
	files := certificate(t)
	r := newRepo(t, func(r *repo) {
		r.opt.Listen[0].TLS, r.opt.TLS = files, files
		r.dest = append(r.dest, "postgres://"+server.Host(db)+"?schema=plain", "dbstream://"+server.Host(db)+"?window=86400s&analyze=none")
		server.Exec(t, db, "create schema plain")
	})
	runExporter(t, func(o *ExporterOptions) {
		o.Dir, o.Repository, o.TLS = dir, URL{Addr: r.addr, TLS: true}, files
		o.Listen = []peer.Options{{Addr: "127.0.0.1:0", TLS: files}}
	})

	keys := map[string][]store.Key{}
	for name, text := range texts {
		typ, _ := compression.CutSuffix(filepath.Base(name))
		path := filepath.Join(r.dir, "copy", "p1_"+typ, name)
		eventually(t, path, func() bool {
			data, err := os.ReadFile(path)
			return err == nil && string(data) == text
		})
		// The certificate names the probe.
		keys[typ] = append(keys[typ], store.Key{Probe: "turin", Folder: filepath.Base(filepath.Dir(name)), File: typ})
	}
	for _, d := range r.dest {
		for _, typ := range types {
			st, err := stores.Open(t.Context(), d, stores.Options{ReadOnly: true, Stream: "p1_" + typ})
			if err != nil {
				t.Fatal(err)
			}
			records := func() int {
				rs, err := st.Lookup(t.Context(), keys[typ])
				if err != nil {
					t.Fatal(err)
				}
				return len(rs)
			}
			if !strings.HasPrefix(d, "copy:") && !strings.HasPrefix(d, "parquet:") { // those stores read their records only once
				eventually(t, fmt.Sprintf("all %s in %s", typ, d), func() bool { return records() >= len(keys[typ]) })
			}
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	r.stop()
	copies := 0
	filepath.WalkDir(filepath.Join(r.dir, "copy"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasPrefix(d.Name(), "log_") {
			copies++
		}
		return err
	})
	if copies != len(texts) {
		t.Errorf("%d copies of %d files", copies, len(texts))
	}
	for _, d := range r.dest {
		for _, typ := range types {
			st, err := stores.Open(t.Context(), d, stores.Options{ReadOnly: true, Stream: "p1_" + typ})
			if err != nil {
				t.Fatal(err)
			}
			rs, err := st.Lookup(t.Context(), keys[typ])
			var n int64
			for _, rec := range rs {
				n += rec.Rows
			}
			if err != nil || len(rs) != len(keys[typ]) || n != rows[typ] {
				t.Errorf("%s has %d records of %d rows of %s, want %d of %d: %v", d, len(rs), n, typ, len(keys[typ]), rows[typ], err)
			}
			st.Close()
		}
	}
	c := server.Connect(t, db)
	defer c.Close(t.Context())
	for _, typ := range types {
		for _, table := range []string{"plain." + typ, "p1_" + typ} {
			var n int64
			if err := c.QueryRow(t.Context(), "select count(*) from "+table).Scan(&n); err != nil {
				t.Fatal(err)
			}
			if n != rows[typ] {
				t.Errorf("%s has %d rows, want %d", table, n, rows[typ])
			}
		}
	}
	r.start() // so that the cleanup can stop it
}

// TestStreamWithSeveralTypes checks that rows of the stream's StreamType are
// stored in the table of the stream, and rows of other types in a separate
// table.
func TestStreamWithSeveralTypes(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	p := newOldProbe(t)
	p.put(folder1+"/log_udp_complete", udp(3, "a"))
	p.put(folder1+"/log_tcp_complete", strings.Replace(udp(5, "a"), "c_first_abs:3", "last:3", 1))
	r := newRepo(t, func(r *repo) { r.dest = []string{"dbstream://" + server.Host(db)} })
	if code, text := r.post(Registration{CallBackUrl: p.addr(), StreamName: "polito", StreamType: "log_tcp_complete_v15"}); code != 200 {
		t.Fatal(text)
	}
	eventually(t, "both files", func() bool { return r.status(0).Files == 2 })
	c := server.Connect(t, db)
	defer c.Close(t.Context())
	var tcp, udp, columns int
	if err := c.QueryRow(t.Context(), `select (select count(*) from polito), (select count(*) from polito_log_udp_complete),
		(select count(*) from information_schema.columns where table_name = 'polito')`).Scan(&tcp, &udp, &columns); err != nil {
		t.Fatal(err)
	}
	if tcp != 5 || udp != 3 || columns != 131 { // the number of columns of log_tcp_complete_v15
		t.Errorf("%d and %d rows, %d columns", tcp, udp, columns)
	}
}

// TestGrownFileIsFetchedAgain checks that a file that grows after it was
// fetched is fetched again once it no longer changes.
func TestGrownFileIsFetchedAgain(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	now := time.Now()
	p.putAt(folder1+"/"+file, udp(3, "a"), now)
	p.put(folder2+"/"+file, udp(3, "b"))
	r.register("s1", p.addr())
	r.waitStored("s1", folder1+"/"+file, udp(3, "a"), 3)
	p.putAt(folder1+"/"+file, udp(5, "a"), now.Add(time.Second))
	r.waitForPass(0)
	r.waitStored("s1", folder1+"/"+file, udp(3, "a"), 3)
	p.putAt(folder1+"/"+file, udp(6, "a"), now.Add(-time.Hour))
	r.waitStored("s1", folder1+"/"+file, udp(6, "a"), 6)
	r.waitForPass(0)
	// One GET compares the file with the stored rows, another stores it.
	if n := p.requestCount(folder1 + "/" + file); n != 3 {
		t.Errorf("%d GETs", n)
	}
}

// TestStartTimeSkipsOlderFolders checks that folders before StartTime are
// skipped.
func TestStartTimeSkipsOlderFolders(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	p.put(folder1+"/"+file, udp(3, "a"))
	p.put(folder2+"/"+file, udp(4, "b"))
	start := time.Date(2016, 3, 24, 22, 37, 0, 0, time.UTC).Unix()
	reg := Registration{CallBackUrl: p.addr(), StreamName: "s1", StreamType: "log_udp_complete", StartTime: start}
	if code, text := r.post(reg); code != 200 {
		t.Fatal(text)
	}
	r.waitStored("s1", folder2+"/"+file, udp(4, "b"), 4)
	r.waitForPass(0)
	r.assertNotStored("s1", filepath.Base(folder1), file)
	// A changed StartTime restarts the import.
	reg.StartTime = 0
	if code, text := r.post(reg); code != 200 {
		t.Fatal(text)
	}
	r.waitStored("s1", folder1+"/"+file, udp(3, "a"), 3)
	r.waitStored("s1", folder2+"/"+file, udp(4, "b"), 4)
	// The stream keeps its figures.
	r.waitForPass(0)
	if s := r.status(0); s.Files != 2 || s.Rows != 7 {
		t.Errorf("%d files with %d rows in all", s.Files, s.Rows)
	}
}

// TestRemovedStreamNeverReturns checks that a removed stream does not return
// after a restart.
func TestRemovedStreamNeverReturns(t *testing.T) {
	p, r := newOldProbe(t), newRepo(t, nil)
	p.put(folder1+"/"+file, udp(3, "a"))
	r.register("s1", p.addr())
	r.waitStored("s1", folder1+"/"+file, "", 3)
	for path, want := range map[string]int{"/DBSImport/0": 200, "/DBSImport/7": 404, "/DBSImport/x": 400, "/DBSImport": 500} {
		resp, _ := exchange(t, r.addr, "DELETE", "DELETE "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if resp.StatusCode != want {
			t.Errorf("DELETE %s: %s", path, resp.Status)
		}
	}
	p.put(folder2+"/"+file, udp(3, "b"))
	r.stop()
	r.start()
	if s := r.get("/DBSImport"); s != "{}" {
		t.Errorf("streams: %s", s)
	}
	r.register("s2", p.addr())
	if s := r.get("/DBSImport"); !strings.HasPrefix(s, `{"1":`) { // IDs are not reused
		t.Errorf("streams: %s", s)
	}
	r.assertNotStored("s1", filepath.Base(folder2), file)
}

// TestExporterRegistersForgottenStream checks that an exporter registers again
// when the repository has lost the registration, and retries while the
// repository is down.
func TestExporterRegistersForgottenStream(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "2016_03_24_21_37.out/"+file, udp(3, "a"))
	write(t, dir, "2016_03_24_22_37.out/"+file, udp(3, "b"))
	r := newRepo(t, nil)
	r.stop()
	// Restart the repository at the same address.
	r.opt.Listen[0].Addr = r.addr
	_, logs, _ := runExporter(t, func(o *ExporterOptions) {
		o.Dir, o.Stream, o.Repository = dir, "s1", URL{Addr: r.addr}
		o.timing = quick
		o.check = 50 * time.Millisecond
	})
	eventually(t, "a failure", func() bool { return strings.Contains(logs.String(), "not registered") })
	r.start()
	r.waitStored("s1", "2016_03_24_21_37.out/"+file, udp(3, "a"), 3)
	exchange(t, r.addr, "DELETE", "DELETE /DBSImport/0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
	eventually(t, "a new registration", func() bool { return strings.HasPrefix(r.get("/DBSImport"), `{"1":`) })
	if n := strings.Count(logs.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings: %s", n, logs.String())
	}
}

// TestImportWithoutRepository fetches the files of a stream directly from its
// probe.
func TestImportWithoutRepository(t *testing.T) {
	p := newOldProbe(t)
	p.put(folder1+"/"+file, udp(3, "a"))
	p.put(folder2+"/"+file, udp(4, "b"))
	src := newSource(URL{Addr: p.addr(), Stream: "s1"}, "x", SourceOptions{Location: time.UTC, timing: quick}, nil)
	dest := "parquet:" + filepath.Join(t.TempDir(), "out")
	run := func() (*bulk.Summary, error) {
		st, err := stores.Open(t.Context(), dest, stores.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		return bulk.Run(t.Context(), bulk.Options{Remote: []bulk.Source{src}, Stores: bulk.Opened(st), Probe: "s1", Location: time.UTC, StateDir: t.TempDir()})
	}
	if sum, err := run(); err != nil || sum.Total.Files != 2 || sum.Total.Rows != 7 {
		t.Errorf("%+v, %v", sum, err)
	}
	if sum, err := run(); err != nil || sum.Total.Files != 0 || sum.Total.Skipped != 2 {
		t.Errorf("%+v, %v", sum, err)
	}
	if p.requestCount(folder1+"/"+file) != 1 {
		t.Error("fetched again")
	}
	p.Close()
	if _, err := run(); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v", err)
	}
}

// TestStreamBelongsToCertificate checks that a peer with another certificate
// cannot change a stream.
func TestStreamBelongsToCertificate(t *testing.T) {
	r := newRepo(t, nil)
	r.register("s1", "127.0.0.1:1")
	s := &Repository{opt: r.opt, log: r.opt.Log}
	s.streams = []*stream{{entry: entry{Registration: Registration{StreamName: "s1"}, Identity: "org.probes.turin"}}}
	if code, err := s.accept(entry{Registration: Registration{StreamName: "s1"}, Identity: "org.probes.rome"}, false); code != 403 || err == nil {
		t.Errorf("%d %v", code, err)
	}
}

func TestParseURL(t *testing.T) {
	for text, want := range map[string]URL{
		"math://probe:3001/polito_tcp":       {Addr: "probe:3001", Stream: "polito_tcp"},
		"math+tls://[2001:db8::1]:3001/a-b/": {Addr: "[2001:db8::1]:3001", Stream: "a-b", TLS: true},
	} {
		if u, err := ParseURL(text, true); err != nil || u != want {
			t.Errorf("%s: %+v, %v", text, u, err)
		}
	}
	if u, err := ParseURL("math://repository:3000", false); err != nil || u.Addr != "repository:3000" {
		t.Errorf("%+v, %v", u, err)
	}
	for _, bad := range []string{"math://probe/x", "math://probe:0/x", "math://:3001/x", "math://p:1/a/b", "math://p:1/", "math://u:pw@p:1/x", "math://u:pw@p:1/x\x00", "math://p:1/x?y", "http://p:1/x", "math://p:1/a%20b",
		// Passwords that contain a slash, or are not followed by a
		// host.
		"math://u:p/pw@h:1/s", "math://u:pw/x@h:1/s", "math://u:12/pw@h:1/s", "math+tls://u:1/pw@h", "math://u:pw", "math://u:pw/s", "math://u:1pw/s",
		"math://u:1/s?password=pw", "math://u:1/s?password=p@pw", "math://u:p?pw@h:1/s"} {
		for _, stream := range []bool{true, false} {
			if stream || bad != "math://p:1/" {
				_, err := ParseURL(bad, stream)
				if err == nil || strings.Contains(err.Error()+hint.Of(err), "pw") {
					t.Errorf("%s: %v", bad, err)
				}
			}
		}
	}
	if _, err := ParseURL("math://p:1/x", false); err == nil {
		t.Error("a repository with a stream")
	}
}

// FuzzParseListed checks that all accepted names stay below the stream.
func FuzzParseListed(f *testing.F) {
	for _, s := range []string{"data/2016_03_24_21_37.out/log_udp_complete", "//x/../2016_03_24_21_37.out/log_udp_complete.gz", "..", "/", "a//./2016_03_24_21_37.out/log_x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, ok, err := parseListed(s, time.UTC)
		if ok && (err != nil || !filepath.IsLocal(l.name) || strings.Contains(l.name, "..") && strings.Contains("/"+l.name+"/", "/../") || l.folder == "" || l.file == "") {
			t.Errorf("%q: %+v, %v", s, l, err)
		}
	})
}

// FuzzDecodeList checks that decoding a list never panics.
func FuzzDecodeList(f *testing.F) {
	for _, s := range []string{"null", "[]", " [ \"a\" , \"b\\\"\\u00e9]\" ] ", "[1]", "{", `["a"`, `["a",]`, `["a" "b"]`, "nul", "[\"\n\"]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var names []string
		err := decodeList(strings.NewReader(s), func(name string) { names = append(names, name) })
		var want []string
		wantErr := json.NewDecoder(strings.NewReader(s)).Decode(&want)
		if strings.Contains(s, "null") && len(want) > 0 || slices.ContainsFunc(want, func(name string) bool { return len(name) > maxName }) {
			return // null instead of a name, or a truncated name
		}
		if (err == nil) != (wantErr == nil) || err == nil && !slices.Equal(names, want) {
			t.Errorf("%q: %q, %v, want %q, %v", s, names, err, want, wantErr)
		}
	})
}

// TestGoneRepositoryIsNotReported checks that no log line says that a folder cannot be
// read when a repository has closed its connection during a scan of the folder.
func TestGoneRepositoryIsNotReported(t *testing.T) {
	var log bytes.Buffer
	p, err := NewExporter(ExporterOptions{
		Dir: t.TempDir(), Repository: URL{Addr: "127.0.0.1:1"}, Listen: []peer.Options{{Addr: "127.0.0.1:0"}}, Stream: "{probe}_{type}", Probe: "p",
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.CloseAll(p.listeners)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/ListDir/p_log_tcp_complete", nil).WithContext(ctx))
	if log.Len() > 0 {
		t.Errorf("logged %s", log.String())
	}
}
