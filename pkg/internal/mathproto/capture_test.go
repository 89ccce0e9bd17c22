package mathproto

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func capture(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "captures", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// exchange sends request as it is, and returns the response and its body.
func exchange(t *testing.T, addr, method, request string) (*http.Response, []byte) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

// assertSameResponse compares a response with a captured one: status line,
// body, and all headers except the values of times.
func assertSameResponse(t *testing.T, what string, resp *http.Response, body []byte, want string, method string) {
	t.Helper()
	w, err := http.ReadResponse(bufio.NewReader(strings.NewReader(want)), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	wantBody, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatalf("%s: captured body: %v", what, err)
	}
	if resp.Proto != w.Proto || resp.Status != w.Status || !bytes.Equal(body, wantBody) {
		t.Errorf("%s:\n%s %s %q\nwant\n%s %s %q", what, resp.Proto, resp.Status, body, w.Proto, w.Status, wantBody)
	}
	for _, clock := range []string{"Date", "Last-Modified"} {
		if (resp.Header.Get(clock) == "") != (w.Header.Get(clock) == "") {
			t.Errorf("%s: %s: %q", what, clock, resp.Header.Get(clock))
		}
		resp.Header.Del(clock)
		w.Header.Del(clock)
	}
	resp.Header.Del(finishedHeader) // an extension unknown to old peers
	if got, want := fmt.Sprint(resp.Header), fmt.Sprint(w.Header); got != want {
		t.Errorf("%s: headers\n%s\nwant\n%s", what, got, want)
	}
}

// exampleTree recreates the folder that was served when the exchanges were
// captured.
func exampleTree(t *testing.T) string {
	dir := t.TempDir()
	// The captured file has 105458 bytes and begins like this one.
	text := "#15#c_ip:1 c_port:2 " + strings.Repeat("x", 105458-21) + "\n"
	for _, folder := range []string{"2015_02_27_22_30", "2015_02_27_23_30", "2015_02_28_00_30"} {
		write(t, dir, "example_data/2015/02-Feb/"+folder+".out/log_tcp_complete", text)
	}
	write(t, dir, "sc_tstat.xml", "secret")
	return dir
}

// TestRepositoryAnswersLikeMathRepo sends the captured request of a math_probe,
// and expects the captured response of math_repo.
func TestRepositoryAnswersLikeMathRepo(t *testing.T) {
	request, answer, _ := strings.Cut(capture(t, "http_POST_DBSImport.txt"), "\n\n---- response ----\n")
	r := newRepo(t, nil)
	resp, body := exchange(t, r.addr, "POST", request)
	assertSameResponse(t, "registration", resp, body, answer, "POST")
	_, sent, _ := strings.Cut(request, "\r\n\r\n")
	if got := r.get("/DBSImport"); got != `{"0":`+sent+`}` {
		t.Errorf("GET /DBSImport: %s", got)
	}
	if got := r.get("/DBSImport/0"); got != sent {
		t.Errorf("GET /DBSImport/0: %s", got)
	}
}

// TestExporterRegistersLikeMathProbe checks that the exporter sends the same
// body as math_probe, and accepts the response of math_repo.
func TestExporterRegistersLikeMathProbe(t *testing.T) {
	request, reply, _ := strings.Cut(capture(t, "http_POST_DBSImport.txt"), "\n\n---- response ----\n")
	_, want, _ := strings.Cut(request, "\r\n\r\n")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	posted := make(chan string, 10)
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			answer(w, 200, "{}")
			return
		}
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path == importPath && r.Header.Get("Content-Type") == "application/json" {
			posted <- string(body)
		}
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			io.WriteString(c, reply)
			c.Close()
		}
	}))
	dir := exampleTree(t)
	_, logs, _ := runExporter(t, func(o *ExporterOptions) {
		o.Dir, o.Stream, o.Repository = dir, "example_log_tcp_complete", URL{Addr: l.Addr().String()}
		o.Advertise, o.Since = "127.0.0.1:3001", time.Unix(1136214246, 0)
	})
	select {
	case got := <-posted:
		if got != want {
			t.Errorf("posted %s, want %s", got, want)
		}
	case <-time.After(patience):
		t.Fatal("nothing was posted")
	}
	eventually(t, "registered", func() bool { return strings.Contains(logs.String(), "stream registered") })
}

// TestExporterAnswersLikeMathProbe sends captured requests of math_repo to an
// exporter.
func TestExporterAnswersLikeMathProbe(t *testing.T) {
	dir := exampleTree(t)
	addr, _, _ := runExporter(t, func(o *ExporterOptions) {
		o.Dir, o.Stream, o.Repository = dir, "example_log_tcp_complete", URL{Addr: "127.0.0.1:1"}
	})
	requests := strings.SplitAfter(capture(t, "http_repo_to_probe_requests.txt"), "\r\n\r\n")
	answers := strings.Split(capture(t, "http_probe_responses.txt"), "\n\n--------\n")
	data, err := os.ReadFile(filepath.Join(dir, "example_data/2015/02-Feb/2015_02_27_22_30.out/log_tcp_complete"))
	if err != nil {
		t.Fatal(err)
	}
	if len(requests) < 4 || len(answers) < 4 {
		t.Fatalf("%d requests and %d answers", len(requests), len(answers))
	}
	for i, want := range answers[:4] { // the capture continues with other files
		want = strings.Replace(want, "<105458 bytes file body>", string(data), 1)
		resp, body := exchange(t, addr, "GET", requests[i])
		assertSameResponse(t, requests[i], resp, body, want, "GET")
	}
	// math_repo requests such a path, which math_probe does not find.
	path := "//example_data/2015/02-Feb/2015_02_27_22_30.out/log_tcp_complete"
	if resp, body := exchange(t, addr, "GET", "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); resp.StatusCode != 200 || !bytes.Equal(body, data) {
		t.Errorf("%s: %s, %d bytes", path, resp.Status, len(body))
	}
}

// TestUnusualRequestsMatchCaptures replays unusual requests to a repository and
// an exporter.
func TestUnusualRequestsMatchCaptures(t *testing.T) {
	r := newRepo(t, nil)
	dir := exampleTree(t)
	probe, _, _ := runExporter(t, func(o *ExporterOptions) {
		o.Dir, o.Stream, o.Repository = dir, "example_log_tcp_complete", URL{Addr: "127.0.0.1:1"}
	})
	replayed := 0
	for part := range strings.SplitSeq(capture(t, "http_misc_responses.txt"), ">>> ") {
		command, want, _ := strings.Cut(part, "\n")
		f := strings.Fields(command)
		if len(f) == 0 {
			continue
		}
		if command == "curl -X DELETE 127.0.0.1:3000/DBSImport/0" {
			continue // unlike math_repo, this repository can remove streams
		}
		method, data, header := "GET", "", ""
		for i := 1; i < len(f)-1; i++ {
			switch f[i] {
			case "-X":
				method = f[i+1]
			case "-d":
				data = f[i+1]
			case "-I":
				method = "HEAD"
			case "-r":
				header = "Range: bytes=" + f[i+1] + "\r\n"
			}
		}
		host, path, _ := strings.Cut(f[len(f)-1], "/")
		addr := r.addr
		if strings.HasSuffix(host, ":3001") {
			addr = probe
		}
		request := fmt.Sprintf("%s /%s HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %d\r\n\r\n%s", method, path, host, header, len(data), data)
		resp, body := exchange(t, addr, method, request)
		assertSameResponse(t, command, resp, body, want, method)
		replayed++
	}
	if replayed != 14 {
		t.Errorf("%d exchanges were replayed", replayed)
	}
}
