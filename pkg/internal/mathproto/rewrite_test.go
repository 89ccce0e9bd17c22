package mathproto

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
)

const anonymized = "../anonymize/testdata"

func anonymizer(t *testing.T, names string) *anonymize.Anonymizer {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("32-char-str-for-AES-key-and-pad.\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := anonymize.New(anonymize.Options{Mode: "tstat", KeyFile: key, Networks: anonymized + "/networks", Except: anonymized + "/except", Names: names})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestExporterAnonymizes checks that the exporter serves logs as Tstat's -Y
// writes them, with the same bytes every time, as a whole and in ranges. It
// must refuse a log whose folder does not record whether it is already
// anonymized.
func TestExporterAnonymizes(t *testing.T) {
	const folder = "2023_11_14_22_13.out"
	dir, spool := t.TempDir(), filepath.Join(t.TempDir(), "spool")
	put := func(path string, data []byte) {
		t.Helper()
		path = filepath.Join(dir, path)
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-24 * time.Hour)
		os.Chtimes(path, old, old)
		os.Chtimes(filepath.Dir(path), old, old)
	}
	read := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(anonymized, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var zipped bytes.Buffer
	zw := gzip.NewWriter(&zipped)
	zw.Write(read("clear/log_udp_complete"))
	zw.Close()
	put(folder+"/log_udp_complete.gz", zipped.Bytes())
	put(folder+"/log_tcp_complete", read("clear/log_tcp_complete"))
	put(folder+"/log_http_complete", read("clear/log_http_complete"))
	put("2023_11_14_23_13.out/log_http_complete", read("clear/log_http_complete"))
	put("CPanKey_2023_11_14_22_13", []byte("SECRET\n"))
	put(folder+"/log_udp_periodic", []byte("10.1.2.3 80\n"))
	var log logs
	p, err := NewExporter(ExporterOptions{Dir: dir, Stream: "s", Anonymize: anonymizer(t, "encrypt"), Spool: spool, Settle: time.Minute, Location: time.UTC, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer p.rewrites.close()
	get := func(method, path string, header ...string) *http.Response {
		t.Helper()
		req := httptest.NewRequest(method, "http://p"+path, nil)
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		rec := httptest.NewRecorder()
		p.ServeHTTP(deadliner{rec}, req)
		return rec.Result()
	}
	body := func(r *http.Response) string {
		t.Helper()
		data, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, name := range []string{"log_tcp_complete", "log_http_complete"} {
		want := string(read("enc/" + name))
		head, whole := get("HEAD", "/"+folder+"/"+name), get("GET", "/"+folder+"/"+name)
		if got := body(whole); got != want || head.StatusCode != 200 || head.ContentLength != int64(len(want)) || head.Header.Get("Content-Length") != strconv.Itoa(len(want)) {
			t.Errorf("%s: %d bytes, HEAD says %v, want %d", name, len(got), head.Header, len(want))
		}
		part := get("GET", "/"+folder+"/"+name, "Range", "bytes=1000-", "If-Range", head.Header.Get("Etag"))
		if got := body(part); part.StatusCode != http.StatusPartialContent || got != want[1000:] {
			t.Errorf("%s: range: %s, %d bytes", name, part.Status, len(got))
		}
	}
	udp := body(get("GET", "/"+folder+"/log_udp_complete.gz"))
	zr, err := gzip.NewReader(strings.NewReader(udp))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(zr); err != nil || string(got) != string(read("enc/log_udp_complete")) {
		t.Errorf("compressed: %d bytes, %v", len(got), err)
	}
	// A new process, without the state of the first.
	p.rewrites.close()
	if again := body(get("GET", "/"+folder+"/log_udp_complete.gz")); again != udp {
		t.Error("other bytes at the second time")
	}
	for range 2 {
		for _, method := range []string{"GET", "HEAD"} {
			if r := get(method, "/2023_11_14_23_13.out/log_http_complete"); r.StatusCode != http.StatusForbidden || strings.Contains(body(r), "10.") {
				t.Errorf("%s without the log of TCP flows: %s", method, r.Status)
			}
		}
	}
	if r := get("GET", "/"+folder+"/log_udp_periodic"); r.StatusCode != http.StatusForbidden || !strings.Contains(log.String(), "none of 1 lines is a row: line 1: 2 columns") {
		t.Errorf("without rows: %s, log: %s", r.Status, &log)
	}
	if text := log.String(); strings.Count(text, "log cannot be anonymized, not served") != 2 || !strings.Contains(text, "source-is") {
		t.Errorf("log: %s", text)
	}
	if r := get("GET", "/CPanKey_2023_11_14_22_13"); r.StatusCode != http.StatusNotFound {
		t.Errorf("the key is served: %s", r.Status)
	}
	if left, err := os.ReadDir(spool); err != nil || len(left) > 0 {
		t.Errorf("left in the spool: %v, %v", left, err)
	}
	// Another transform yields another version of the file.
	other, err := NewExporter(ExporterOptions{Dir: dir, Stream: "s", Anonymize: anonymizer(t, "drop"), Spool: spool, Settle: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	k := rewriteKey{"x", 1, time.Unix(1, 0)}
	if p.rewrites.etag(k) == other.rewrites.etag(k) {
		t.Error("two transforms have the same tag")
	}
}

// deadliner is a response recorder with the SetWriteDeadline method that
// ServeHTTP needs.
type deadliner struct{ *httptest.ResponseRecorder }

func (deadliner) SetWriteDeadline(time.Time) error { return nil }

// TestIdleRewritesAreClosed opens more logs than may be kept open.
func TestIdleRewritesAreClosed(t *testing.T) {
	dir := t.TempDir()
	text, err := os.ReadFile(anonymized + "/clear/log_udp_complete")
	if err != nil {
		t.Fatal(err)
	}
	w := newRewrites(&ExporterOptions{Dir: dir, Spool: t.TempDir(), Anonymize: anonymizer(t, "keep"), SourceIs: anonymize.Clear}, slog.New(slog.DiscardHandler))
	var open []*rewritten
	for i := range 3 * keptFiles {
		path := filepath.Join(dir, "log_udp_complete")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		r, err := w.open(rewriteKey{"log_udp_complete", int64(i), time.Time{}}, f)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, r)
	}
	for _, r := range open {
		if _, err := r.f.Stat(); err != nil {
			t.Errorf("closed while it is used: %v", err)
		}
		w.release(r)
	}
	if len(w.files) != keptFiles {
		t.Errorf("%d files are kept", len(w.files))
	}
	w.close()
	for _, r := range open {
		if _, err := r.f.Stat(); err == nil {
			t.Error("a file is left open")
		}
	}
}

// TestRewritesReportEachRefusedLog checks that each refused log is logged once.
func TestRewritesReportEachRefusedLog(t *testing.T) {
	var logs strings.Builder
	w := newRewrites(&ExporterOptions{}, slog.New(slog.NewTextHandler(&logs, nil)))
	for i := range keptRefused {
		w.refused[fmt.Sprint(i)] = true
	}
	for range 2 {
		w.reportRefused("new", anonymize.ErrSource)
	}
	if n := strings.Count(logs.String(), "file=new"); n != 1 {
		t.Errorf("reported %d times:\n%s", n, logs.String())
	}
	if len(w.refused) > keptRefused {
		t.Errorf("%d paths are kept", len(w.refused))
	}
}
