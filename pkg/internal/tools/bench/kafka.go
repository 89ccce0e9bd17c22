package main

import (
	"bytes"
	"context"
	"fmt"
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

// caseKafka streams lines to an in-memory broker. The peer is the bare producer of
// franz-go, the library that tstatrepo uses. Its records are as large as tstatrepo's.
func (b *bench) caseKafka(ctx context.Context) error {
	path, lines, err := b.wire(ctx)
	if err != nil {
		return err
	}
	peer := filepath.Join(b.dir, "kafkapeer")
	// with returns a side that runs a broker and checks the received lines.
	with := func(run func(addr string) (usage, error)) side {
		return func(ctx context.Context) (usage, error) {
			if err := b.fresh(ctx); err != nil {
				return usage{}, err
			}
			addr, err := freeAddr()
			if err != nil {
				return usage{}, err
			}
			_, port, _ := net.SplitHostPort(addr)
			args := append(slices.Clone(b.prefix), peer, "serve", port, strconv.FormatInt(lines, 10))
			server := exec.CommandContext(ctx, args[0], args[1:]...)
			server.Env = append(os.Environ(), b.env...)
			var errs bytes.Buffer
			server.Stderr = &errs
			if err := server.Start(); err != nil {
				return usage{}, err
			}
			u, err := usage{}, awaitListener(ctx, addr)
			if err == nil {
				u, err = run(addr)
			}
			server.Process.Signal(syscall.SIGTERM)
			if werr := server.Wait(); err == nil && werr != nil {
				err = fmt.Errorf("broker: %w: %s", werr, tail(errs.Bytes()))
			}
			return u, err
		}
	}
	for _, compression := range []string{"zstd", "none"} {
		ours := with(func(addr string) (usage, error) {
			listen, err := freeAddr()
			if err != nil {
				return usage{}, err
			}
			return b.receive(ctx, listen, os.DevNull, func() error { return sendFiles(listen, []string{path}) }, true,
				b.tstatrepo("stream", "--listen="+listen, "--state-dir="+filepath.Join(b.out(), "state"), "--quiet",
					"--to=kafka://"+addr+"/bench?compress="+compression)...)
		})
		bare := with(func(addr string) (usage, error) {
			u, err := b.limits.run(ctx, peer, "produce", addr, compression, path)
			if err != nil {
				return u, err
			}
			ns, err := strconv.ParseInt(strings.TrimSpace(string(u.out)), 10, 64)
			u.wall = time.Duration(ns) // without the start of the process
			return u, err
		})
		if err := b.compare(ctx, "stream to Kafka, "+compression+" / franz-go's bare producer, lines/s", float64(lines), 0.7, ours, bare); err != nil {
			return err
		}
	}
	return nil
}
