package command

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/component"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// fakeProbe implements the command probe of scripts: a component that offers the
// exporters of a Tstat probe at the supervisor URL. The exporters do nothing.
//
//	probe URL [SYSTEM_ID]
func fakeProbe() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	reg, err := mplane.NewRegistries()
	if err == nil {
		var services []component.Service
		if services, err = exporters(reg, os.Args[2:]...); err == nil {
			var c *component.Component
			if c, err = component.New(component.Options{
				Services: services, Registries: reg, Poll: 50 * time.Millisecond,
				Supervisor: wire.Dialer{URL: os.Args[1], Identity: "probe"},
			}); err == nil {
				err = c.Run(ctx)
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// exporters returns the capabilities of the mPlane page of the manual, and one with
// rows.
func exporters(reg *mplane.Registries, systemID ...string) ([]component.Service, error) {
	id := ""
	for _, s := range systemID {
		id = fmt.Sprintf(`"System_ID": %q, `, s)
	}
	var list []component.Service
	for _, c := range []struct{ label, when, parameters, results string }{
		{"tstat-exporter_log", "past ... future", `"repository.url": "*"`, ""},
		{"tstat-exporter_streaming", "now ... future", `"repository.url": "*", "log.folder": "*", "log.time": "*", "log.type": "*"`, ""},
		{"tstat-exporter_rrd", "past ... future", `"repository.url": "*"`, `"rrdtimestamp", "rrdMetirc", "rrdValue"`},
	} {
		m, err := reg.Parse(fmt.Appendf(nil, `{"capability": "measure", "version": 1, "label": %q, "when": %q, "registry": %q,
			"parameters": {%s%s}, "results": [%s]}`, c.label, c.when, mplane.TstatRegistry, id, c.parameters, c.results))
		if err != nil {
			return nil, err
		}
		list = append(list, component.Service{
			Capability: m.(*mplane.Statement),
			Run: func(ctx context.Context, spec *mplane.Statement) ([][]string, error) {
				if url, _ := spec.Parameters.Get("repository.url"); url == "refused:1" {
					return nil, fmt.Errorf("no connection to %s", url)
				}
				<-ctx.Done()
				if len(spec.Results) == 0 {
					return nil, nil
				}
				return [][]string{{"1436486400", "IP.bitrate", "12.5"}, {"1436486700", "IP.bitrate", "*"}}, nil
			},
		})
	}
	return list, nil
}

// ports sets variables to free ports on the loopback address.
//
//	ports NAME...
func ports(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ts.Check(l.Close())
		ts.Setenv(name, port)
	}
}

// shows waits until a page contains a text, or no longer contains it if ! is given.
//
//	[!] shows URL TEXT
func shows(ts *testscript.TestScript, neg bool, args []string) {
	var text string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(args[0])
		if err != nil {
			text = err.Error()
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if text = string(body); strings.Contains(text, args[1]) != neg {
			return
		}
	}
	ts.Fatalf("%s does not become so: %s", args[0], text)
}

// terminal runs a command on a terminal. Whenever the program prints "= " or "| ",
// terminal types the rest of that line of FILE. The final screen must match FILE.
//
//	terminal FILE COMMAND...
func terminal(ts *testscript.TestScript, neg bool, args []string) {
	want := strings.TrimRight(os.Expand(ts.ReadFile(args[0]), func(name string) string { return ts.Getenv(name) }), "\n") + "\n"
	program, err := exec.LookPath(args[1])
	ts.Check(err)
	cmd := exec.Command(program, args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"HOME", "PATH", "STATE_DIRECTORY", "XDG_STATE_HOME", "TSTATREPO_STATE_DIR", "TSTATREPO_SUPERVISOR"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: 200})
	ts.Check(err)
	defer tty.Close()
	pieces := make(chan []byte)
	go func() {
		defer close(pieces)
		for {
			b := make([]byte, 4096)
			n, err := tty.Read(b)
			if n > 0 {
				pieces <- b[:n]
			}
			if err != nil {
				return // the program has ended
			}
		}
	}()
	var screen strings.Builder
	timeout := time.After(2 * time.Minute)
	for open := true; open; {
		got := screen.String()
		if rest, ok := strings.CutPrefix(want, got); ok && (strings.HasSuffix(got, "| ") || strings.HasSuffix(got, "= ")) {
			line, _, _ := strings.Cut(rest, "\n")
			key := line + "\r"
			if line == "^D" {
				key = "\x04"
				want = got + rest[len("^D"):]
			}
			_, err := io.WriteString(tty, key)
			ts.Check(err)
			// The terminal echoes the typed text.
			for echoed := 0; echoed < 1; {
				select {
				case p, more := <-pieces:
					if open = more; !more {
						echoed = 1
					}
					screen.Write(plain(p))
					if strings.HasPrefix(screen.String(), got+strings.TrimSuffix(line, "^D")) && strings.Contains(screen.String()[len(got):], "\n") {
						echoed = 1
					}
				case <-timeout:
					cmd.Process.Kill()
					ts.Fatalf("nothing was echoed:\n%s", screen.String())
				}
			}
			continue
		}
		select {
		case p, more := <-pieces:
			open = more
			screen.Write(plain(p))
		case <-timeout:
			cmd.Process.Kill()
			ts.Fatalf("it waits:\n%s\nwant:\n%s", got, want)
		}
	}
	err = cmd.Wait()
	if got := screen.String(); got != want {
		ts.Fatalf("the screen is:\n%s\nwant:\n%s", got, want)
	}
	if (err != nil) != neg {
		ts.Fatalf("the command ended with %v", err)
	}
}

// plain removes control sequences that only move the cursor.
func plain(b []byte) []byte {
	b = bytes.ReplaceAll(b, []byte("\r"), nil)
	for _, s := range []string{"\x1b[K", "\x1b[2K", "\x1b[D", "\x1b[C", "\x1b[?2004h", "\x1b[?2004l"} {
		b = bytes.ReplaceAll(b, []byte(s), nil)
	}
	return b
}
