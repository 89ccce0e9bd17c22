package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tstatrepo": func() {
		claimTime, _ = time.ParseDuration(os.Getenv("TEST_CLAIM_TIME"))
		os.Exit(Main(""))
	}, "probe": fakeProbe})
}

// TestScript runs the command as users do.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			for _, name := range []string{"STATE_DIRECTORY", "XDG_STATE_HOME"} {
				env.Setenv(name, "")
			}
			for _, name := range []string{"ADDR1", "ADDR2"} {
				env.Setenv(name, freeAddr(t))
			}
			samples, err := filepath.Abs("../../pkg/tstat/testdata/logs")
			env.Setenv("SAMPLES", samples)
			cases, cerr := filepath.Abs("testdata/cases")
			env.Setenv("CASES", cases)
			compressed, zerr := filepath.Abs("../internal/compression/testdata")
			env.Setenv("COMPRESSED", compressed)
			anonymized, aerr := filepath.Abs("../internal/anonymize/testdata")
			env.Setenv("ANONYMIZE", anonymized)
			return errors.Join(err, cerr, zerr, aerr)
		},
		Condition: func(name string) (bool, error) {
			if name != "librrd" {
				return false, fmt.Errorf("unknown condition %q", name)
			}
			return slices.Contains(rrdfile.Readers(), rrdfile.Librrd), nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status, "total": total, "ports": ports, "await": await, "shows": shows, "terminal": terminal, "crlf": crlf, "zeros": zeros, "trim": trim,
		},
	})
}

// status N COMMAND... runs a command, which must exit with status N.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND [ARGUMENT...]")
	}
	got := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := err.(interface{ ExitCode() int })
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = console.Count(int64(exit.ExitCode()))
	}
	if got != args[0] {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}

// crlf FILE... changes the line ends of files to CR LF, as on Windows.
func crlf(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: crlf FILE...")
	}
	for _, name := range args {
		text := strings.ReplaceAll(ts.ReadFile(name), "\n", "\r\n")
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o644))
	}
}

// zeros FILE N appends N bytes of zeros to a file, which it creates if it does
// not exist.
func zeros(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: zeros FILE N")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(args[0])), 0o755))
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	ts.Check(err)
	_, err = f.Write(make([]byte, n))
	ts.Check(errors.Join(err, f.Close()))
}

// trim FILE... removes the last newline of files.
func trim(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: trim FILE...")
	}
	for _, name := range args {
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(strings.TrimSuffix(ts.ReadFile(name), "\n")), 0o644))
	}
}

// await ADDR waits until the address accepts connections. await PATH waits until the
// file exists.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await ADDR|PATH")
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", args[0]); err == nil {
			c.Close()
			return
		}
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
	}
	ts.Fatalf("no %s in a minute", args[0])
}

// total FIELD=N... checks the totals of the last --json summary.
func total(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: total FIELD=N...")
	}
	var sum struct{ Total map[string]any }
	if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &sum); err != nil {
		ts.Fatalf("%v", err)
	}
	for _, arg := range args {
		name, want, _ := strings.Cut(arg, "=")
		if got := fmt.Sprint(sum.Total[name]); got != want {
			ts.Fatalf("%s is %s, want %s: %v", name, got, want, sum.Total)
		}
	}
}

func TestSignal(t *testing.T) {
	for sig, want := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		ctx, stop := signalContext()
		if err := syscall.Kill(os.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
		<-ctx.Done()
		for err, want := range map[error]int{ctx.Err(): want, store.ErrUnavailable: want, bulk.ErrSource: want, io.ErrUnexpectedEOF: exitFailed} {
			if got := exitStatus(orInterrupt(ctx, err)); got != want {
				t.Errorf("%v, %v: exit status %d, want %d", sig, err, got, want)
			}
		}
		// A signal must not hide other errors.
		lost := errors.Join(fmt.Errorf("read: %w", ctx.Err()), errors.New("disk is full"))
		if got := orInterrupt(ctx, lost); got.Error() != "disk is full\n"+context.Cause(ctx).Error() || exitStatus(got) != exitFailed {
			t.Errorf("%v, exit status %d", got, exitStatus(got))
		}
		stop()
	}
}

// TestRepeatedSignal checks that two signals in quick succession, as sent by
// timeout(1), do not kill the process.
func TestRepeatedSignal(t *testing.T) {
	ctx, stop := signalContext()
	defer stop()
	for range 2 {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		<-ctx.Done()
	}
	if got := exitStatus(orInterrupt(ctx, ctx.Err())); got != 143 {
		t.Errorf("exit status %d", got)
	}
}

// TestSignalWhileWaiting checks the error of a command that is interrupted while it
// waits for a store. It must not report an unavailable store.
func TestSignalWhileWaiting(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"--to", "postgres://u@127.0.0.1:1/db", dir},
		{"--to", "clickhouse://127.0.0.1:1/db", "--follow", dir},
	} {
		p := startProcess(t, nil, append([]string{"import-bulk", "--state-dir", dir, "--retry-timeout", "1h"}, args...)...)
		becomes(t, "the wait", func() bool { return strings.Contains(p.log.String(), "store unavailable, retrying") })
		p.signal(syscall.SIGTERM)
		p.ends(143)
	}
}
