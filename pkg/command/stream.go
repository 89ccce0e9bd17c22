package command

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/config"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/retry"
	"github.com/tstatrepo/tstatrepo/pkg/internal/stream"
)

var streamExamples = []example{
	{"the lines of all probes of a network, to standard output", "tstatrepo stream --listen 0.0.0.0:9001 --allow 10.0.0.0/8"},
	{"to a command, to hourly files and to JetStream", "tstatrepo stream --listen :9001 --to exec:'webrowse --stdin' --to file:/srv/live --to nats://localhost:4222/TSTAT"},
	{"the probe's side; no line is lost", "tstatrepo stream --follow /var/lib/tstat --type log_tcp_complete --to ack://repository:9001"},
	{"the probe's side, to Kafka", "tstatrepo stream --follow /var/lib/tstat --to kafka://b1,b2,b3/tstat"},
	{"the repository's side, from Kafka", "tstatrepo stream --from kafka://b1,b2,b3/tstat --to file:/srv/live"},
	{"three columns as JSON", "tstatrepo stream --follow /var/lib/tstat --format json --select 'c_ip,s_ip,s_bytes_all'"},
}

func streamCommand(con *console.Console) *cli.Command {
	return &cli.Command{
		Name:     "stream",
		Usage:    "deliver live log lines to sinks",
		Category: groupProduct,
		Description: "Delivers lines of logs to sinks while Tstat writes them. Lines come from exporters that connect (--listen), from " +
			"Tstat's output folder (--follow) and from brokers (--from). Lines of a log keep their order. The slowest sink of " +
			"--to sets the pace.\n\n" +
			"Sinks are - (standard output), file:DIR, exec:COMMAND, tcp://HOST:PORT, tls://, ack:// (another tstatrepo stream), " +
			"kafka://HOST:PORT/TOPIC and nats://HOST:PORT/STREAM.\n\n" +
			"See 'tstatrepo man stream' for their options.",
		Flags:  commandFlags("stream"),
		Action: func(c *cli.Context) error { return runStream(c, con) },
	}
}

// runStream runs the stream command with options from flags and config.
func runStream(c *cli.Context, con *console.Console) error {
	var opt stream.Options
	cfg, err := configure(c, con, func(cfg *config.Config, p *config.Problems) { opt = cfg.Stream.Options(p) })
	if cfg == nil {
		return err
	}
	s := &cfg.Stream
	opt.StateDir = cfg.StateDir
	switch {
	case c.Args().Present():
		return hint.Add(hint.Usagef("stream takes no arguments, got %q", c.Args().First()), "folders are named with --follow")
	case len(s.Listen) == 0 && len(s.Follow) == 0 && len(s.From) == 0:
		return hint.Add(hint.Usagef("stream needs --listen, --follow or --from"),
			"for example: tstatrepo stream --follow /var/lib/tstat --to tcp://repository:9001")
	}
	if s.Quiet {
		con.Quiet()
	}
	if err := s.CheckFollow(opt.Follow); err != nil {
		return err
	}
	log := con.Logger()
	opt.Log, opt.Stdout, opt.Stderr = log, c.App.Writer, os.Stderr
	run, err := stream.New(opt)
	if err != nil {
		return err
	}
	for _, a := range run.Addrs() {
		log.Info("listening", "address", a)
	}
	writing, ended := context.WithCancel(context.Background())
	defer ended()
	var metrics sync.WaitGroup
	if s.MetricsFile != "" {
		metrics.Go(func() { writeStreamMetrics(writing, s, run, log) })
	}
	err = run.Run(c.Context)
	logStats(log, run.Stats())
	ended()
	metrics.Wait()
	return errors.Join(err, orInterrupt(c.Context, c.Context.Err()))
}

// writeStreamMetrics writes a stream's metrics file every 15 seconds, and once more
// when ctx is done.
func writeStreamMetrics(ctx context.Context, s *config.Stream, run *stream.Stream, log *slog.Logger) {
	for last := false; !last; {
		last = retry.Sleep(ctx, 15*time.Second) != nil
		reg := prometheus.NewRegistry()
		updated := prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tstatrepo_stream_updated_timestamp_seconds", Help: "When the metrics file was written.", ConstLabels: prometheus.Labels{"stream": s.Name},
		})
		updated.Set(float64(time.Now().UnixMilli()) / 1000)
		reg.MustRegister(run, updated, peer.Refusals)
		if err := metricsFile(s.MetricsFile).Write(reg); err != nil {
			log.Warn("metrics file not written", "err", err)
		}
	}
}

// logStats logs the counts of a stream and its sinks.
func logStats(log *slog.Logger, sum *stream.Stats) {
	for _, s := range sum.Sinks {
		log.Info("sink closed", "sink", s.Name, "lines", s.Lines, "dropped", s.Dropped)
	}
	log.Info("stream ended", "lines", sum.Lines, "duration", sum.Duration.Round(time.Millisecond), "rejects", sum.Rejects,
		"cut", sum.Cuts, "empty", sum.Empty, "refused", sum.Refused, "vanished", sum.Vanished, "lost", sum.Unacked)
}
