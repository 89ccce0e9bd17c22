package main

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// caseNATS streams lines to JetStream. The peer is the function publish, which sends
// messages of the same size as tstatrepo's.
func (b *bench) caseNATS(ctx context.Context) error {
	path, lines, err := b.wire(ctx)
	if err != nil {
		return err
	}
	with := func(run func(addr string) (usage, error)) side {
		return func(ctx context.Context) (usage, error) {
			if err := b.fresh(ctx); err != nil {
				return usage{}, err
			}
			addr, err := freeAddr()
			if err != nil {
				return usage{}, err
			}
			host, port, _ := net.SplitHostPort(addr)
			server := exec.CommandContext(ctx, "nats-server", "-a", host, "-p", port, "-js", "-sd", filepath.Join(b.out(), "nats"))
			if err := server.Start(); err != nil {
				return usage{}, err
			}
			defer server.Wait()
			defer server.Process.Kill()
			if err := awaitListener(ctx, addr); err != nil {
				return usage{}, err
			}
			return run(addr)
		}
	}
	ours := with(func(addr string) (usage, error) {
		listen, err := freeAddr()
		if err != nil {
			return usage{}, err
		}
		return b.receive(ctx, listen, os.DevNull, func() error { return sendFiles(listen, []string{path}) }, true,
			b.tstatrepo("stream", "--listen="+listen, "--state-dir="+filepath.Join(b.out(), "state"), "--quiet", "--to=nats://"+addr+"/BENCH")...)
	})
	peer := with(func(addr string) (usage, error) { return publish(ctx, addr, path) })
	return b.compare(ctx, "stream to JetStream / bare publisher, lines/s", float64(lines), 0.8, ours, peer)
}

// publish publishes a file in messages of 64 KiB and waits for the acknowledgements.
func publish(ctx context.Context, addr, path string) (usage, error) {
	nc, err := nats.Connect("nats://" + addr)
	if err != nil {
		return usage{}, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(128))
	if err != nil {
		return usage{}, err
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "BENCH", Subjects: []string{"BENCH.>"}, Storage: jetstream.FileStorage}); err != nil {
		return usage{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return usage{}, err
	}
	defer f.Close()
	start := time.Now()
	for {
		buf := make([]byte, 64<<10)
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			if _, err := js.PublishAsync("BENCH.x", buf[:n], jetstream.WithStallWait(time.Minute)); err != nil {
				return usage{}, err
			}
		}
		if err != nil {
			break
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return usage{}, ctx.Err()
	}
	return usage{wall: time.Since(start)}, nil
}
