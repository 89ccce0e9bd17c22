// Command kafkapeer is the broker and the peer of the Kafka case of
// pkg/internal/tools/bench:
//
//	kafkapeer serve PORT LINES               in-memory broker; on SIGTERM it checks the lines in its topic
//	kafkapeer produce ADDR COMPRESSION FILE  sends a file with franz-go's producer; prints the nanoseconds
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

const topic = "bench"

func main() {
	err := fmt.Errorf("usage: kafkapeer serve PORT LINES | produce ADDR COMPRESSION FILE")
	switch args := os.Args[1:]; {
	case len(args) == 3 && args[0] == "serve":
		err = serve(args[1], args[2])
	case len(args) == 4 && args[0] == "produce":
		err = produce(args[1], args[2], args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kafkapeer:", err)
		os.Exit(1)
	}
}

func serve(port, lines string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(n), kfake.SeedTopics(1, topic))
	if err != nil {
		return err
	}
	defer cluster.Close()
	<-stop
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics(topic))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	got, end := 0, cluster.PartitionInfo(topic, 0).HighWatermark
	for next := int64(0); next < end; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			got += bytes.Count(r.Value, []byte{'\n'})
			next = r.Offset + 1
		})
	}
	if strconv.Itoa(got) != lines {
		return fmt.Errorf("%d lines arrived of %s", got, lines)
	}
	return nil
}

// produce sends the file at path to the broker at addr. Each record consists of complete
// lines and has the size of tstatrepo's messages.
func produce(addr, compression, path string) error {
	codec := kgo.ZstdCompression()
	if compression == "none" {
		codec = kgo.NoCompression()
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(codec))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx := context.Background()
	if err := client.Ping(ctx); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	start := time.Now()
	var failure atomic.Pointer[error]
	const size = 64 << 10
	rest := []byte(nil)
	for {
		buf := make([]byte, size)
		n := copy(buf, rest)
		m, err := io.ReadFull(f, buf[n:])
		n += m
		whole := bytes.LastIndexByte(buf[:n], '\n') + 1
		rest = buf[whole:n]
		if whole > 0 {
			client.Produce(ctx, &kgo.Record{Key: []byte("probe"), Value: buf[:whole]}, func(_ *kgo.Record, err error) {
				if err != nil {
					failure.Store(&err)
				}
			})
		}
		if err != nil {
			break
		}
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	if err := failure.Load(); err != nil {
		return *err
	}
	fmt.Println(time.Since(start).Nanoseconds())
	return nil
}
