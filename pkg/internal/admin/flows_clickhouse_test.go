package admin

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store/clickhouse"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/clickhousetest"
)

// clickhouseSQL expands the macros of Altinity's Grafana plugin in a query for
// ClickHouse, according to its manual.
func clickhouseSQL(t *testing.T, sql string, interval time.Duration, probes []string) string {
	t.Helper()
	sql = strings.NewReplacer(
		"$probe", "'"+strings.Join(probes, "','")+"'",
		"$interval", fmt.Sprint(interval.Seconds()),
		"$from", fmt.Sprint(flowsFrom.Unix()),
		"$to", fmt.Sprint(flowsTo.Unix()),
	).Replace(sql)
	if strings.Contains(sql, "$") {
		t.Fatalf("not known to the plugin: %s", sql)
	}
	return sql + " FORMAT JSON"
}

// TestFlowsClickHouse runs the queries of the board on a real server.
func TestFlowsClickHouse(t *testing.T) {
	server := clickhousetest.Start(t)
	db := server.Database()
	s, err := clickhouse.Open(t.Context(), "clickhouse://"+server.Host()+"/"+db, clickhouse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	importFlows(t, s)
	grouped, logTable := regexp.MustCompile(`GROUP BY t, (\w+)`), regexp.MustCompile(`log_\w+`)
	read := 0
	board := &flowBoard{dashboard: readDashboard(t, "tstat-flows-clickhouse.json", "vertamedia-clickhouse-datasource"),
		query: func(t *testing.T, sql string, interval time.Duration, probes []string) result {
			t.Helper()
			sql = clickhouseSQL(t, sql, interval, probes)
			resp, err := http.Post("http://"+server.Host()+"/?database="+db, "text/plain", strings.NewReader(sql))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("%s: %v %s", sql, err, text)
			}
			var answer struct {
				Meta       []struct{ Name string }
				Data       []map[string]any
				Statistics struct {
					Rows int `json:"rows_read"`
				}
			}
			if err := json.Unmarshal(text, &answer); err != nil {
				t.Fatalf("%s: %v: %s", sql, err, text)
			}
			read = answer.Statistics.Rows
			key := "" // the column that names the series
			if f := grouped.FindStringSubmatch(sql); f != nil {
				key = f[1]
			}
			r := result{}
			for _, row := range answer.Data {
				for _, c := range answer.Meta {
					name, value := c.Name, ""
					switch v := row[name].(type) {
					case float64:
						value = strconv.FormatFloat(v, 'g', -1, 64)
					case string:
						value = v
					}
					switch {
					case name == "t":
						name, value = "time", strings.TrimSuffix(value, "000") // milliseconds
					case name == key:
						continue
					case key != "":
						name = row[key].(string)
					}
					r[name] = append(r[name], value)
				}
			}
			return r
		},
		quantile: interpolated}
	board.test(t)
	for _, p := range board.Panels {
		sql := p.Targets[0].Query
		board.query(t, sql, time.Minute, []string{"turin"})
		// A query must not read the partitions of 2014.
		if all := server.Number(t, "SELECT count() FROM "+db+"."+logTable.FindString(sql)+"_rows"); read >= all {
			t.Errorf("%s reads %d rows, and there are %d", p.Title, read, all)
		}
	}
}
