package admin

import (
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

const alertRules = "../../../conf/prometheus/tstatrepo.rules.yml"

// TestAlertRulesNameMetrics checks that the alert rules only use metrics that serve
// exports, or that import-bulk and rrd-push write to a metrics file.
func TestAlertRulesNameMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(NewCollector(broken), peer.Refusals, mathproto.RefusedRegistrations)
	peer.Refusals.WithLabelValues("127.0.0.1:1", "test").Add(0)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, f := range families {
		shown[f.GetName()] = true
	}
	list, err := os.ReadFile("../../command/testdata/metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^(tstatrepo_(?:import|rrd_push|store)_\w+)\{.*  textfile: `).FindAllSubmatch(list, -1) {
		shown[string(m[1])] = true
	}
	text, err := os.ReadFile(alertRules)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`\btstatrepo_\w+`).FindAllString(string(text), -1)
	if len(found) < 10 {
		t.Errorf("%d metrics", len(found))
	}
	for _, name := range found {
		if !shown[name] {
			t.Errorf("no metric %s", name)
		}
	}
}

// TestAlertRules runs the unit tests of the rules.
func TestAlertRules(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("no promtool (apt-get install prometheus)")
	}
	for _, args := range [][]string{{"check", "rules", alertRules}, {"test", "rules", "../../../conf/prometheus/tstatrepo.rules.test.yml"}} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}
