package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// wireLine is the length of the log lines written by bench.latency, in bytes.
const wireLine = 640

// wire writes the log lines of a tree to a file in the wire format of old exporters. It
// returns the file's path and the number of lines in the file.
func (b *bench) wire(ctx context.Context) (path string, lines int64, err error) {
	t, err := b.generate(ctx, b.rows, 1, 8*time.Hour)
	if err != nil {
		return "", 0, err
	}
	logs, err := filepath.Glob(filepath.Join(t.dir, "*.out", "log_tcp_complete"))
	if err != nil || len(logs) != 1 {
		return "", 0, fmt.Errorf("%s: no log_tcp_complete (%w)", t.dir, err)
	}
	path = t.dir + ".wire"
	if _, err := os.Stat(path); err != nil {
		prefix := "/var/tstat/2016_03_24_21_37.out/log_tcp_complete "
		cmd := exec.CommandContext(ctx, "sh", "-c", `sed "s|^|$0|" "$1" >"$2.part" && mv "$2.part" "$2"`, prefix, logs[0], path)
		if msg, err := cmd.CombinedOutput(); err != nil {
			return "", 0, fmt.Errorf("%w: %s", err, msg)
		}
	}
	return path, t.rows + 1, nil // including the header
}

// freeAddr returns an unused loopback address.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// receive runs and measures a program that listens on addr. The program's command line is
// args, and its output is written to the file named by out. receive calls send once the
// program listens. If stop is set, receive then stops the program; otherwise the program
// must exit by itself.
func (b *bench) receive(ctx context.Context, addr, out string, send func() error, stop bool, args ...string) (usage, error) {
	f, err := os.Create(out)
	if err != nil {
		return usage{}, err
	}
	defer f.Close()
	args = append(slices.Clone(b.prefix), args...)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), b.env...)
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = f, &errs
	if err := cmd.Start(); err != nil {
		return usage{}, err
	}
	if err := awaitListener(ctx, addr); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return usage{}, fmt.Errorf("%s: %w: %s", args[0], err, errs.Bytes())
	}
	start := time.Now()
	err = send()
	if stop {
		cmd.Process.Signal(syscall.SIGTERM)
	}
	werr := cmd.Wait()
	u := usage{wall: time.Since(start)}
	if ps := cmd.ProcessState; err == nil && werr != nil && !(stop && ps.ExitCode() == 128+int(syscall.SIGTERM)) {
		err = fmt.Errorf("%s: %w: %s", args[0], werr, tail(errs.Bytes()))
	}
	u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if ru, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		//lint:ignore unconvert another type on other systems
		u.rss = int64(ru.Maxrss) << 10
	}
	return u, err
}

// awaitListener waits until a program listens on addr. It does not connect, since socat
// serves only one connection.
func awaitListener(ctx context.Context, addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	want := fmt.Sprintf(":%04X 00000000:0000 0A", n)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		table, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			return err
		}
		if strings.Contains(string(table), want) {
			return nil
		}
	}
	return errors.New("does not listen")
}

// sendFiles sends files concurrently, each over its own connection.
func sendFiles(addr string, paths []string) error {
	errs := make(chan error, len(paths))
	for _, path := range paths {
		go func() {
			errs <- func() error {
				f, err := os.Open(path)
				if err != nil {
					return err
				}
				defer f.Close()
				c, err := net.Dial("tcp", addr)
				if err != nil {
					return err
				}
				defer c.Close()
				if _, err = io.Copy(c, f); err != nil {
					return err
				}
				// Wait until the other side has read everything and closes.
				if err := c.(*net.TCPConn).CloseWrite(); err != nil {
					return err
				}
				_, err = io.Copy(io.Discard, c)
				return err
			}()
		}()
	}
	var all error
	for range paths {
		all = errors.Join(all, <-errs)
	}
	return all
}

// split splits the file that bench.wire wrote at path into n files of complete lines. It
// returns their paths.
func (b *bench) split(ctx context.Context, path string, n int) ([]string, error) {
	dir := filepath.Join(b.dir, fmt.Sprintf("wire-%d-%d", b.rows, n))
	if _, err := os.Stat(dir); err != nil {
		part := dir + ".part"
		if err := errors.Join(os.RemoveAll(part), os.MkdirAll(part, 0o755)); err != nil {
			return nil, err
		}
		cmd := exec.CommandContext(ctx, "split", "-n", "l/"+strconv.Itoa(n), path, filepath.Join(part, "x"))
		if msg, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("split: %w: %s", err, msg)
		}
		if err := os.Rename(part, dir); err != nil {
			return nil, err
		}
	}
	return filepath.Glob(filepath.Join(dir, "x*"))
}

// endpoint returns a side that runs "tstatrepo stream" as an endpoint for lines. The side
// sends it the files at paths, each over its own connection. lines is the total number of
// lines that must arrive.
func (b *bench) endpoint(paths []string, lines int64, flags ...string) side {
	return func(ctx context.Context) (usage, error) {
		if err := b.fresh(ctx); err != nil {
			return usage{}, err
		}
		addr, err := freeAddr()
		if err != nil {
			return usage{}, err
		}
		out := filepath.Join(b.out(), "lines")
		u, err := b.receive(ctx, addr, out, func() error { return sendFiles(addr, paths) }, true,
			b.tstatrepo("stream", append([]string{"--listen=" + addr, "--state-dir=" + filepath.Join(b.out(), "state"), "--quiet"}, flags...)...)...)
		if err == nil {
			err = checkLines(out, lines)
		}
		return u, err
	}
}

// socat returns a side that runs socat and sends it one file. lines is the number of
// lines that must arrive.
func (b *bench) socat(path string, lines int64) side {
	return func(ctx context.Context) (usage, error) {
		if err := b.fresh(ctx); err != nil {
			return usage{}, err
		}
		addr, err := freeAddr()
		if err != nil {
			return usage{}, err
		}
		_, port, _ := net.SplitHostPort(addr)
		out := filepath.Join(b.out(), "lines")
		u, err := b.receive(ctx, addr, out, func() error { return sendFiles(addr, []string{path}) }, false,
			"socat", "-u", "TCP4-LISTEN:"+port+",bind=127.0.0.1,reuseaddr", "STDOUT")
		if err == nil {
			err = checkLines(out, lines)
		}
		return u, err
	}
}

// checkLines returns an error unless a file has the given number of lines.
func checkLines(path string, want int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var got int64
	buf := make([]byte, 256<<10)
	for {
		n, err := f.Read(buf)
		got += int64(bytes.Count(buf[:n], []byte{'\n'}))
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if got != want {
		return fmt.Errorf("%d lines arrived of %d", got, want)
	}
	return nil
}

// caseStream measures tstatrepo's endpoint for lines with 1 and with 100 connections. It
// compares both rates with that of socat, which serves only one connection.
func (b *bench) caseStream(ctx context.Context) error {
	path, lines, err := b.wire(ctx)
	if err != nil {
		return err
	}
	if err := b.compare(ctx, "stream to stdout / socat, lines/s", float64(lines), 0.95, b.endpoint([]string{path}, lines), b.socat(path, lines)); err != nil {
		return err
	}
	parts, err := b.split(ctx, path, 100)
	if err != nil {
		return err
	}
	if err := b.compare(ctx, "stream of 100 connections / socat of one, lines/s", float64(lines), 0.95, b.endpoint(parts, lines), b.socat(path, lines)); err != nil {
		return err
	}
	return b.rate(ctx, "stream to stdout as JSON, lines/s", float64(lines), 250_000, b.endpoint([]string{path}, lines-1, "--format=json"))
}

// rate runs a side several times and compares its median rate with target, in units per
// second. units is the amount of work in one run. If b.base is set, rate compares the
// side with that older tstatrepo instead.
func (b *bench) rate(ctx context.Context, name string, units, target float64, ours side) error {
	if b.base != nil {
		return b.compare(ctx, name, units, 0, ours, nil)
	}
	var s series
	for i := range b.pairs + 1 {
		u, err := ours(ctx)
		if err != nil {
			return err
		}
		if i > 0 {
			s.add(u, units)
		}
	}
	b.add(result{
		name: name, ours: s.String(), peer: "-", ratio: "-", target: ">= " + count(target),
		met: quantile(s.rates, 0.5) >= target, rss: fmt.Sprint(s.rss / mib),
	})
	return nil
}

// caseFollow streams a followed folder to a TCP peer. It measures the rate, and the
// latency from the write of a block to its arrival.
func (b *bench) caseFollow(ctx context.Context) error {
	t, err := b.generate(ctx, b.rows, 1, 8*time.Hour)
	if err != nil {
		return err
	}
	err = b.rate(ctx, "follow to TCP, lines/s", float64(t.rows), 500_000, func(ctx context.Context) (usage, error) {
		return b.follow(ctx, t.dir, func(l net.Listener) error {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			defer c.Close()
			var got int64
			buf := make([]byte, 256<<10)
			for got < t.rows+1 {
				n, err := c.Read(buf)
				if err != nil {
					return fmt.Errorf("%d lines arrived: %w", got, err)
				}
				got += int64(bytes.Count(buf[:n], []byte{'\n'}))
			}
			return nil
		}, "--type=log_tcp_complete", "--start=begin")
	})
	if err != nil {
		return err
	}
	if b.base != nil {
		return b.compare(ctx, "follow: blocks to the sink, one after the other, blocks/s", 1, 0, func(ctx context.Context) (usage, error) {
			u, _, err := b.latency(ctx)
			return u, err
		}, nil)
	}
	u, slow, err := b.latency(ctx)
	if err != nil {
		return err
	}
	median := ms(u.wall)
	b.add(result{
		name: "follow: a block to the sink, ms", ours: fmt.Sprintf("%.2f (99 %%: %.2f)", median, slow), peer: "-", ratio: "-",
		target: "< 50 ms", met: median < 50, rss: "-",
	})
	return nil
}

// follow runs tstatrepo until peer returns. tstatrepo streams the folder dir to a TCP
// listener, and peer receives the lines from the listener.
func (b *bench) follow(ctx context.Context, dir string, peer func(net.Listener) error, flags ...string) (usage, error) {
	if err := b.fresh(ctx); err != nil {
		return usage{}, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return usage{}, err
	}
	defer l.Close()
	args := slices.Concat(b.prefix, b.tstatrepo("stream", append([]string{"--follow=bench=" + dir, "--to=tcp://" + l.Addr().String(),
		"--state-dir=" + filepath.Join(b.out(), "state"), "--timezone=UTC", "--drain-timeout=1ms", "--quiet"}, flags...)...)) // the peer has received everything
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), b.env...)
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return usage{}, err
	}
	err = peer(l)
	u := usage{wall: time.Since(start)}
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
	u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if ru, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		//lint:ignore unconvert another type on other systems
		u.rss = int64(ru.Maxrss) << 10
	}
	return u, err
}

// latency appends blocks to a followed log as Tstat does, and measures how long the last
// complete line of each block takes to arrive. The wall time in u is the median of these
// times, and slow is their 99th percentile in milliseconds.
func (b *bench) latency(ctx context.Context) (u usage, slow float64, err error) {
	root := filepath.Join(b.dir, "live")
	folder := filepath.Join(root, "2016_03_24_21_37.out")
	if err := errors.Join(os.RemoveAll(root), os.MkdirAll(folder, 0o755)); err != nil {
		return u, 0, err
	}
	defer os.RemoveAll(root)
	f, err := os.Create(filepath.Join(folder, "log_tcp_complete"))
	if err != nil {
		return u, 0, err
	}
	defer f.Close()
	var times []float64
	u, err = b.follow(ctx, root, func(l net.Listener) error {
		line := append(bytes.Repeat([]byte{'x'}, wireLine-1), '\n')
		if _, err := f.Write(bytes.Repeat(line, 7)[:4096]); err != nil {
			return err
		}
		c, err := l.Accept()
		if err != nil {
			return err
		}
		defer c.Close()
		in := bufio.NewReader(c)
		pos := 4096
		for range 4096 / wireLine {
			if _, err := in.ReadSlice('\n'); err != nil {
				return err
			}
		}
		for range 200 {
			time.Sleep(10 * time.Millisecond) // until tstatrepo is idle
			before := pos / wireLine
			start := time.Now()
			part := make([]byte, 4096)
			for i := range part {
				part[i] = line[(pos+i)%wireLine]
			}
			if _, err := f.Write(part); err != nil {
				return err
			}
			pos += len(part)
			for range pos/wireLine - before {
				if _, err := in.ReadSlice('\n'); err != nil {
					return err
				}
			}
			times = append(times, float64(time.Since(start))/float64(time.Millisecond))
		}
		return nil
	})
	u.wall = time.Duration(quantile(times, 0.5) * float64(time.Millisecond))
	return u, quantile(times, 0.99), err
}

// caseConnections measures the memory used by a thousand connections.
func (b *bench) caseConnections(ctx context.Context) error {
	path, lines, err := b.wire(ctx)
	if err != nil {
		return err
	}
	parts, err := b.split(ctx, path, 1000)
	if err != nil {
		return err
	}
	if b.base != nil {
		return b.compare(ctx, "stream of 1 000 connections, lines/s", float64(lines), 0, b.endpoint(parts, lines), nil)
	}
	u, err := b.endpoint(parts, lines)(ctx)
	if err != nil {
		return err
	}
	b.add(result{
		name: "stream of 1 000 connections: peak memory", ours: fmt.Sprintf("%d MiB", u.rss/mib), peer: "-", ratio: "-",
		target: "< 128 MiB", met: u.rss < 128*mib, rss: fmt.Sprint(u.rss / mib),
	})
	return nil
}
