package shell

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/client"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// TestShellShowsWhatItSends types the examples of mPlane's page in one session, which
// keeps the scope and the address of the first example. The shell prints kept values,
// the specification, a refusal by the component after 'ok', and the state of a stopped
// job. ^C ends only the questions of runcap.
func TestShellShowsWhatItSends(t *testing.T) {
	reg, err := mplane.NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	var capabilities []*mplane.Statement
	for label, parameters := range map[string]string{
		"tstat-exporter_log":       `"repository.url": "*"`,
		"tstat-exporter_streaming": `"log.folder": "*", "log.time": "*", "log.type": "*", "repository.url": "*"`,
		"tstat-exporter_rrd":       `"repository.url": "*"`,
	} {
		m, err := reg.Parse([]byte(`{"capability": "measure", "label": "` + label + `", "registry": "` + mplane.TstatRegistry +
			`", "when": "now ... future", "parameters": {` + parameters + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		capabilities = append(capabilities, m.(*mplane.Statement))
	}
	refused := false
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var head struct{ Label, Token, Redemption string }
		text, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(text, &head); err != nil {
			t.Error(err)
		}
		if strings.HasPrefix(head.Label, "tstat-exporter_rrd") && head.Redemption != "" {
			refused = true
			wire.Write(w, http.StatusOK, &mplane.Exception{Token: head.Token, Message: "no RRD is read here"})
			return
		}
		m, err := reg.Parse(text)
		if err != nil {
			t.Error(err)
			return
		}
		wire.Write(w, http.StatusOK, m.(*mplane.Statement).Notice(mplane.Receipt))
	}))
	defer srv.Close()
	cl, err := client.Open(wire.Dialer{URL: srv.URL}, reg)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	sh := &Shell{Session: Session{Client: cl, Out: &out, Memory: &Memory{Dir: t.TempDir(), Registries: reg}}}
	defer func() { sh.Client.Close() }()
	sh.Know(capabilities)
	typed := []string{
		"runcap tstat-exporter_log", "now + inf", "localhost:3000",
		"runcap tstat-exporter_streaming", "/log/", "\x03", // the kept address is wrong here
		"set repository.url localhost:9001",
		"when now + 1d",
		"runcap tstat-exporter_streaming", "60", "log_tcp_complete",
		"runcap tstat-exporter_rrd",
		"stopmeas tstat-exporter_log-0",
		"unset",
		"runcap tstat-exporter_log", "\x03",
	}
	read := func(prompt string) (string, error) {
		if len(typed) == 0 {
			fmt.Fprintln(&out, prompt)
			return "", io.EOF
		}
		line := typed[0]
		typed = typed[1:]
		if line == "\x03" {
			fmt.Fprintln(&out, prompt)
			return "", ErrInterrupted
		}
		fmt.Fprintln(&out, prompt+line)
		return line, nil
	}
	if err := sh.Run(t.Context(), read); err != nil {
		t.Fatal(err)
	}
	got := out.String()
	for i, j := range mustJobs(t, sh) {
		got = strings.ReplaceAll(got, j.Token, fmt.Sprint("TOKEN", i))
	}
	_, got, _ = strings.Cut(got, "\n\n")
	const want = `|mplane| runcap tstat-exporter_log
|when| = now + inf
repository.url = localhost:3000
Invoking tstat-exporter_log with parameters {'repository.url': 'localhost:3000'}
ok
|mplane| runcap tstat-exporter_streaming
|when| = now + 100000d
log.folder = /log/
log.time = 
|mplane| set repository.url localhost:9001
repository.url = localhost:9001
|mplane| when now + 1d
when = now + 1d
|mplane| runcap tstat-exporter_streaming
|when| = now + 1d
log.folder = /log/
log.time = 60
log.type = log_tcp_complete
repository.url = localhost:9001
Invoking tstat-exporter_streaming with parameters {'log.folder': '/log/', 'log.time': '60', 'log.type': 'log_tcp_complete', 'repository.url': 'localhost:9001'}
ok
|mplane| runcap tstat-exporter_rrd
|when| = now + 1d
repository.url = localhost:9001
Invoking tstat-exporter_rrd with parameters {'repository.url': 'localhost:9001'}
ok
<Exception: tstat-exporter_rrd-2 (token TOKEN2) no RRD is read here>
|mplane| stopmeas tstat-exporter_log-0
Receipt tstat-exporter_log-0 (token TOKEN0): now + 100000d
|mplane| unset
ok
|mplane| runcap tstat-exporter_log
|when| = 
|mplane| 
Ciao!
`
	if got != want || !refused {
		t.Errorf("printed\n%s\nwant\n%s", got, want)
	}
}

func mustJobs(t *testing.T, sh *Shell) []Job {
	t.Helper()
	jobs, err := sh.Memory.Jobs(sh.Client.Root())
	if err != nil {
		t.Fatal(err)
	}
	return jobs
}

// TestInterruptClearsTheLine checks that ^C ends a line on a terminal, wherever the
// cursor is, and that the next line starts empty. ^D ends the input.
func TestInterruptClearsTheLine(t *testing.T) {
	keyboard, terminal, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer keyboard.Close()
	defer terminal.Close()
	lines := NewLines(t.Context(), terminal, terminal)
	if !lines.Terminal() {
		t.Fatal("it is no terminal")
	}
	screen := make(chan string, 100)
	go func() {
		buf := make([]byte, 1024)
		for {
			n, err := keyboard.Read(buf)
			if err != nil {
				return
			}
			screen <- string(buf[:n])
		}
	}()
	// expect waits until text appears on the screen.
	expect := func(text string) {
		t.Helper()
		for shown := ""; !strings.Contains(shown, text); {
			select {
			case s := <-screen:
				shown += s
			case <-time.After(10 * time.Second):
				t.Fatalf("%q is not in %q", text, shown)
			}
		}
	}
	for _, step := range []struct {
		typed string
		shown string // the screen shows it before the last key
		last  string
		line  string
		err   error
	}{
		{"listcap", "listcap", "\r", "listcap", nil},
		{"unset repo\x01", "unset repo", "\x03", "", ErrInterrupted},
		{"show", "show", "\r", "show", nil},
		{"", Prompt, "\x03", "", ErrInterrupted},
		{"", Prompt, "\x04", "", io.EOF},
	} {
		type result struct {
			line string
			err  error
		}
		read := make(chan result, 1)
		go func() {
			line, err := lines.Read(Prompt)
			read <- result{line, err}
		}()
		if step.typed != "" {
			expect(Prompt)
			io.WriteString(keyboard, step.typed)
		}
		expect(step.shown)
		io.WriteString(keyboard, step.last)
		if r := <-read; r.line != step.line || !errors.Is(r.err, step.err) {
			t.Errorf("%q: %q, %v", step.typed+step.last, r.line, r.err)
		}
	}
}
