package admin

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

// dashboard holds the parts of a Grafana dashboard that the tests check.
type dashboard struct {
	UID        string
	Title      string
	Templating struct {
		List []struct {
			Name, Type, Query string
		}
	}
	Panels []struct {
		ID                       int
		Type, Title, Description string
		Datasource               source
		GridPos                  struct{ X, Y, W, H int }
		FieldConfig              struct{ Defaults struct{ Unit string } }
		Targets                  []struct {
			RefID, LegendFormat string
			// Exactly one of these is set.
			Expr, Target, RawSQL, Query string
			Datasource                  source
		}
	}
}

type source struct{ Type, UID string }

// readDashboard parses a dashboard and checks its structure.
func readDashboard(t *testing.T, name, kind string) *dashboard {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../../conf/grafana", name))
	if err != nil {
		t.Fatal(err)
	}
	d := &dashboard{}
	if err := json.Unmarshal(text, d); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if d.UID == "" || d.Title == "" || len(d.Panels) < 10 || d.Templating.List[0].Query != kind {
		t.Errorf("%s: %q %q, %d panels", name, d.UID, d.Title, len(d.Panels))
	}
	taken := map[[2]int]int{}
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || p.Description == "" || len(p.Targets) == 0 || p.FieldConfig.Defaults.Unit == "" {
			t.Errorf("%s: panel %d %q: id, title, description, target or unit", name, p.ID, p.Title)
		}
		ids[p.ID] = true
		from := source{kind, "${datasource}"}
		for _, q := range p.Targets {
			if q.Datasource != from || p.Datasource != from || q.RefID == "" {
				t.Errorf("%s: panel %q has another data source", name, p.Title)
			}
		}
		g := p.GridPos
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != 0 || x >= 24 {
					t.Fatalf("%s: panel %d lies over %d or beside the grid", name, p.ID, other)
				}
				taken[[2]int{x, y}] = p.ID
			}
		}
	}
	return d
}

var direction = regexp.MustCompile(`_(in|out|loc)\.`)

// tstatMetrics returns the metrics of the RRDs in rrdfile's testdata. They include
// each histogram in all of its directions.
func tstatMetrics(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../rrdfile/testdata/names.tsv")
	if err != nil {
		t.Fatal(err)
	}
	naming, _ := rrdfile.NamingOf("default", nil)
	var names []string
	for line := range strings.Lines(string(text)) {
		file, _, _ := strings.Cut(line, "\t")
		if !strings.HasSuffix(file, ".rrd") {
			continue
		}
		for _, d := range []string{"_in.", "_out.", "_loc."} {
			names = append(names, naming(direction.ReplaceAllString(file, d)))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// expand returns the paths that a Graphite path with {a,b} matches.
func expand(path string) []string {
	before, rest, ok := strings.Cut(path, "{")
	if !ok {
		return []string{path}
	}
	list, after, _ := strings.Cut(rest, "}")
	var paths []string
	for _, one := range strings.Split(list, ",") {
		paths = append(paths, expand(before+one+after)...)
	}
	return paths
}

// TestGrafanaTstat checks that the dashboard only uses metrics that rrd-push creates.
func TestGrafanaTstat(t *testing.T) {
	names := tstatMetrics(t)
	path := regexp.MustCompile(`\$prefix\.\$probe\.((?:\{[^}]*\}|[^ ,(){}'])+)`)
	d := readDashboard(t, "tstat-graphite.json", "graphite")
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			found := path.FindAllStringSubmatch(q.Target, -1)
			if len(found) == 0 {
				t.Errorf("%s: no metric in %s", p.Title, q.Target)
			}
			for _, f := range found {
				for _, one := range expand(f[1]) {
					pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(one), `\*`, `[^.]*`) + "$")
					if !slices.ContainsFunc(names, pattern.MatchString) {
						t.Errorf("%s: no RRD is named %s", p.Title, one)
					}
				}
			}
		}
	}
	for _, of := range mainMetrics {
		for _, name := range of {
			if !slices.Contains(names, name) {
				t.Errorf("the page puts %s first, but no RRD is named so", name)
			}
		}
	}
	for _, prefix := range related {
		if !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, prefix) }) {
			t.Errorf("the page puts %s first, but no RRD is named so", prefix)
		}
	}
	for _, name := range names {
		if unit(name) == "" && !strings.HasSuffix(name, ".Variance") && !statistic.MatchString(name) {
			t.Errorf("%s has no unit", name)
		}
	}
}

// TestGrafanaOwn checks that the dashboard only uses metrics and labels that serve
// exports.
func TestGrafanaOwn(t *testing.T) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(NewCollector(busy), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string][]string{}
	for _, f := range families {
		labels[f.GetName()] = []string{"instance"} // added by Prometheus
		for _, l := range f.Metric[0].Label {
			labels[f.GetName()] = append(labels[f.GetName()], l.GetName())
		}
	}
	metric := regexp.MustCompile(`\b((?:tstatrepo|process|go)_\w+)(?:\{([^}]*)\})?`)
	matcher := regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`)
	by := regexp.MustCompile(`by \(([^)]*)\)`)
	legend := regexp.MustCompile(`\{\{(\w+)\}\}`)
	check := func(where, expr, legends string) {
		found := metric.FindAllStringSubmatch(expr, -1)
		if len(found) == 0 {
			t.Errorf("%s: no metric in %s", where, expr)
		}
		for _, f := range found {
			has, ok := labels[f[1]]
			if !ok {
				t.Errorf("%s: no metric %s", where, f[1])
				continue
			}
			var wanted []string
			for _, m := range matcher.FindAllStringSubmatch(f[2], -1) {
				wanted = append(wanted, m[1])
			}
			for _, m := range by.FindAllStringSubmatch(expr, -1) {
				wanted = append(wanted, strings.Split(m[1], ", ")...)
			}
			for _, m := range legend.FindAllStringSubmatch(legends, -1) {
				wanted = append(wanted, m[1])
			}
			for _, w := range wanted {
				if !slices.Contains(has, w) {
					t.Errorf("%s: %s has no label %s", where, f[1], w)
				}
			}
		}
	}
	d := readDashboard(t, "tstatrepo.json", "prometheus")
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			check(p.Title, q.Expr, q.LegendFormat)
		}
	}
	for _, v := range d.Templating.List[1:] {
		name, _, _ := strings.Cut(strings.TrimPrefix(v.Query, "label_values("), ",")
		check(fmt.Sprint("variable ", v.Name), name, "")
	}
}
