package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tstatrepo": func() {
		claimTime, _ = time.ParseDuration(os.Getenv("TEST_CLAIM_TIME"))
		main()
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
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status, "total": total, "ports": ports, "await": await, "shows": shows, "terminal": terminal,
		},
	})
}

// status N COMMAND... runs a command that must end with exit status N.
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
		got = count(int64(exit.ExitCode()))
	}
	if got != args[0] {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}

// await ADDR waits until somebody listens there, await PATH until there is
// such a file.
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
		if got := exitStatus(orInterrupt(ctx, ctx.Err())); got != want {
			t.Errorf("%v: exit status %d, want %d", sig, got, want)
		}
		stop()
	}
}
