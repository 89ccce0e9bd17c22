package carbontest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Prometheus is a Prometheus server that accepts remote writes. It stops when its
// test ends.
type Prometheus struct {
	Addr string // host:port

	t   testing.TB
	dir string
	cmd *exec.Cmd
}

// StartPrometheus starts a Prometheus server that keeps points for 30 years. window is
// its out-of-order window, such as 20y; "" disables it. args are additional flags.
func StartPrometheus(t testing.TB, window string, args ...string) *Prometheus {
	t.Helper()
	Need(t, "prometheus", "sh", "-c", "command -v prometheus")
	p := &Prometheus{Addr: fmt.Sprintf("127.0.0.1:%d", Port(t)), t: t, dir: t.TempDir()}
	config := "global: {scrape_interval: 1h}\n"
	if window != "" {
		config += "storage: {tsdb: {out_of_order_time_window: " + window + "}}\n"
	}
	file := filepath.Join(p.dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(p.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.Command("prometheus", append([]string{"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(p.dir, "data"),
		"--storage.tsdb.retention.time=30y", "--web.listen-address=" + p.Addr, "--web.enable-remote-write-receiver"}, args...)...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	WaitFor(t, "Prometheus", func() bool {
		resp, err := http.Get("http://" + p.Addr + "/-/ready")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	})
	return p
}

// Points returns all points that a selector such as {probe="p"} matches. The keys of the
// result are the names of the series, as formatted by seriesText.
func (p *Prometheus) Points(selector string) Points {
	p.t.Helper()
	resp, err := http.PostForm("http://"+p.Addr+"/api/v1/query", url.Values{"query": {selector + "[30y]"}})
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Error != "" {
		p.t.Fatal(resp.Status, err, answer.Error)
	}
	points := Points{}
	for _, s := range answer.Data.Result {
		m := map[int64]float64{}
		for _, v := range s.Values {
			value, err := strconv.ParseFloat(v[1].(string), 64)
			if err != nil {
				p.t.Fatal(err)
			}
			m[int64(v[0].(float64))] = value
		}
		points[seriesText(s.Metric)] = m
	}
	return points
}

// seriesText formats the name of a series as NAME{LABEL="VALUE",...}, or as NAME if it
// has no labels.
func seriesText(metric map[string]string) string {
	var labels []string
	for _, name := range slices.Sorted(maps.Keys(metric)) {
		if name != "__name__" {
			labels = append(labels, fmt.Sprintf("%s=%q", name, metric[name]))
		}
	}
	if labels == nil {
		return metric["__name__"]
	}
	return metric["__name__"] + "{" + strings.Join(labels, ",") + "}"
}
