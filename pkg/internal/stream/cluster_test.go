package stream

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// startNATSCluster starts a cluster of n servers.
func startNATSCluster(t testing.TB, n int) map[string]*natsServer {
	t.Helper()
	var routes []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		routes = append(routes, "nats://"+l.Addr().String())
		l.Close()
	}
	servers := map[string]*natsServer{}
	for i, route := range routes {
		name := fmt.Sprint("n", i)
		servers[name] = startNATS(t, "-n", name, "--cluster_name", "tstat", "--cluster", route, "--routes", strings.Join(routes, ","))
	}
	return servers
}

// TestNATSCluster kills the leader of a stream with three replicas. The other
// servers continue, and every line is stored and read once, in order.
func TestNATSCluster(t *testing.T) {
	t.Parallel()
	servers := startNATSCluster(t, 3)
	var hosts []string
	for _, s := range servers {
		hosts = append(hosts, s.addr)
	}
	url := "nats://" + strings.Join(hosts, ",") + "/TSTAT"
	root := t.TempDir()
	w := newTstat(t, root, "log_tcp_complete", "log_udp_complete")
	s := startStream(t, Options{Follow: []Root{{Probe: "turin", Dir: root}}, To: []string{url + "?replicas=3"}, Format: Line, Start: StartBegin})
	r := startStream(t, Options{From: []string{url}, Format: Line})
	// info asks a running server.
	info := func() (found *jetstream.StreamInfo) {
		nc, err := nats.Connect("nats://" + strings.Join(hosts, ",nats://"))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		await(t, "who leads the stream", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			stream, err := js.Stream(ctx, "TSTAT")
			if err != nil {
				return false
			}
			found = stream.CachedInfo()
			if found.Cluster.Leader == "" || len(found.Cluster.Replicas) != 2 {
				return false
			}
			for _, r := range found.Cluster.Replicas {
				if !r.Current {
					return false
				}
			}
			return true
		})
		return found
	}
	written := 0
	for i := range 10 {
		w.rollOver()
		w.lines(w.logs[0], 400)
		w.lines(w.logs[1], 100)
		written += 500
		if i == 4 {
			await(t, "some lines", func() bool { return r.out.Len() > 0 && s.acked(0) > int64(written/2) })
			leader := servers[info().Cluster.Leader]
			leader.kill()
			w.lines(w.logs[0], 300)
			written += 300
			await(t, "lines while one is away", func() bool { return s.acked(0) >= int64(written-100) })
			leader.start()
		}
	}
	w.end()
	await(t, "all lines", func() bool {
		return s.acked(0) >= int64(w.count()+20) && strings.Count(r.out.String(), "\n") >= w.count()
	})
	s.stop()
	r.stop()
	if s.err != nil || r.err != nil {
		t.Error(s.err, r.err)
	}
	info()
	for _, server := range servers {
		w.check(server.text("TSTAT"))
		break
	}
	t.Logf("%d lines of %d came again to the receiver", w.checkRepeated(r.out.String()), w.count())
}
