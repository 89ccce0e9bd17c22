package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// usage is the time and memory that one run of a command used.
type usage struct {
	wall time.Duration
	cpu  time.Duration // user + system
	rss  int64         // peak, bytes
	out  []byte        // stdout
}

// limits restricts measured commands to the same two CPUs, so that tstatrepo and its peer
// have the same resources.
type limits struct {
	prefix []string // taskset -c 0,1
	cpus   []string // of prefix; empty if commands cannot be bound to CPUs
	env    []string
	what   string // for the report
}

func newLimits(ctx context.Context) limits {
	l := limits{env: []string{"GOMAXPROCS=2"}, what: "GOMAXPROCS=2, not bound to CPUs"}
	cpus := allowedCPUs()
	if len(cpus) == 0 {
		cpus = []string{"0", "1"}
	}
	prefix := bind(cpus...)
	if err := exec.CommandContext(ctx, prefix[0], append(prefix[1:], "true")...).Run(); err == nil {
		l.prefix, l.cpus = prefix, cpus
		l.what = "GOMAXPROCS=2, " + strings.Join(prefix, " ")
	}
	return l
}

// bind returns the command prefix that binds a command to the given CPUs.
func bind(cpus ...string) []string { return []string{"taskset", "-c", strings.Join(cpus, ",")} }

// allowedCPUs returns the numbers of up to two CPUs that this process may use. In a
// container, the first of them need not be 0.
func allowedCPUs() []string {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil
	}
	_, list, ok := strings.Cut(string(status), "Cpus_allowed_list:")
	if !ok {
		return nil
	}
	list, _, _ = strings.Cut(list, "\n")
	var cpus []string
	for _, r := range strings.Split(strings.TrimSpace(list), ",") {
		from, to, ok := strings.Cut(r, "-")
		a, err := strconv.Atoi(from)
		if err != nil {
			return nil
		}
		b := a
		if ok {
			if b, err = strconv.Atoi(to); err != nil {
				return nil
			}
		}
		for ; a <= b && len(cpus) < 2; a++ {
			cpus = append(cpus, strconv.Itoa(a))
		}
	}
	return cpus
}

// run runs and measures a command. Until exec, the kernel counts this process's memory as
// the command's. This program must therefore stay small, and other processes create its
// files.
func (l limits) run(ctx context.Context, args ...string) (usage, error) {
	args = append(append([]string{}, l.prefix...), args...)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), l.env...)
	// Interrupt first, because an interrupted import removes its temporary files.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	err := cmd.Run()
	u := usage{wall: time.Since(start), out: out.Bytes()}
	if err != nil {
		if ctx.Err() != nil {
			return u, ctx.Err()
		}
		return u, fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, tail(errs.Bytes()), tail(out.Bytes()))
	}
	u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	ru, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return u, errors.New("no resource usage on this system")
	}
	//lint:ignore unconvert another type on other systems
	u.rss = int64(ru.Maxrss)
	if runtime.GOOS != "darwin" { // KiB, except on macOS
		u.rss <<= 10
	}
	return u, nil
}

// tail returns the end of a command's output, for an error message.
func tail(b []byte) []byte { return b[max(0, len(b)-2000):] }
