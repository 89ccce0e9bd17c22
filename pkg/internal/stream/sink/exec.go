package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"

	"github.com/tstatrepo/tstatrepo/pkg/internal/stream/batch"
)

// pollEvery is the interval at which a sink checks how many bytes a command or a
// peer has received.
const pollEvery = 5 * time.Millisecond

// command is a running command that reads lines from its standard input. This process
// also keeps the read end of the pipe open, so that it can determine how many bytes the
// command had left unread when it exited.
type command struct {
	ending  // fails when the command exits
	cmd     *exec.Cmd
	r, w    *os.File
	written atomic.Int64 // bytes
	poll    sync.WaitGroup
	ack     func(int64)
}

// killAfter is how long to wait, after a command has exited, for the end of its output.
// Processes started by the command may still hold the output open.
const killAfter = 5 * time.Second

func openCommand(line string, stdout, stderr io.Writer) opener {
	return func(ctx context.Context, ack func(int64)) (session, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		c := &command{ending: newEnding(), r: r, w: w, ack: ack}
		c.cmd = exec.Command("/bin/sh", "-c", line)
		c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = r, stdout, stderr
		c.cmd.WaitDelay = killAfter
		// Keep ^C in a terminal from reaching the command, which must read its
		// input to the end.
		c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := c.cmd.Start(); err != nil {
			r.Close()
			w.Close()
			return nil, err
		}
		go func() {
			err := c.cmd.Wait()
			if err == nil {
				err = errors.New("exit status 0")
			}
			c.fail(fmt.Errorf("command has ended: %w", err))
			w.SetWriteDeadline(time.Now()) // unblocks write
		}()
		c.poll.Go(c.watch)
		return c, nil
	}
}

// watch acks the bytes that the command has read, until the command exits.
func (c *command) watch() {
	last := int64(0)
	for retry.Sleep(c.ctx, pollEvery) == nil {
		if n := c.read(); n > last {
			last = n
			c.ack(n)
		}
	}
}

// read returns the number of bytes that the command has read.
func (c *command) read() int64 {
	written := c.written.Load() // before unread: more may be written in between
	rc, err := c.r.SyscallConn()
	if err != nil {
		return 0 // resend lines rather than lose them
	}
	n, err := unread(rc)
	if err != nil {
		return 0
	}
	return written - int64(n)
}

func (c *command) write(_ *batch.Batch, text []byte) error {
	n, err := c.w.Write(text)
	c.written.Add(int64(n))
	if err != nil {
		return cmp.Or(c.err(), err)
	}
	return nil
}

func (c *command) abort() { syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) }

func (c *command) end(ctx context.Context) {
	c.w.Close()
	select {
	case <-c.broken():
	case <-ctx.Done():
	}
}

func (c *command) close() int64 {
	c.abort() // kills remaining processes of the group
	<-c.broken()
	c.poll.Wait()
	n := c.read()
	c.w.Close()
	c.r.Close()
	return n
}
