package main

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/tstatrepo/tstatrepo/"

// layers are the packages from the lowest up. A package imports only those
// of lower layers, or its own where the rule says so.
var layers = [][]string{
	{"pkg/durable", "pkg/losslessjson", "pkg/retry", "pkg/hint"},
	{"pkg/dest"},
	{"pkg/durable/durabletest"},
	{"pkg/tstat", "pkg/state", "pkg/peer", "pkg/peer/peertest", "pkg/mplane", "pkg/rrdfile", "pkg/admin"},
	{"pkg/mplane/wire", "pkg/mplane/exchange"},
	{"pkg/mplane/component", "pkg/mplane/client"},
	{"pkg/mplane/supervisor", "pkg/mplane/shell"},
	{"pkg/store", "pkg/graphite", "pkg/rrdfile/rrdtest"},
	{"pkg/store/manifest", "pkg/store/sqlstore", "pkg/graphite/carbontest"},
	{"pkg/store/copy", "pkg/store/parquet", "pkg/store/storetest", "pkg/store/pg", "pkg/store/pgtest", "pkg/store/clickhousetest"},
	{"pkg/store/postgres", "pkg/store/dbstream", "pkg/store/clickhouse"},
	{"pkg/store/stores"},
	{"pkg/bulk", "pkg/stream", "pkg/rrdpush"},
	{"pkg/mathproto", "pkg/upkeep"},
	{"pkg/repository", "pkg/probe", "pkg/legacy"},
	{"cmd/tstatrepo"},
}

// programs stand for themselves: tools of the repository.
var programs = []string{"pkg/bench", "pkg/bench/kafkapeer", "pkg/bench/rrdread", "pkg/tstatgen"}

// TestLayers: imports go only downwards, every package has its layer, and
// nothing below cmd knows the command line.
func TestLayers(t *testing.T) {
	level := map[string]int{}
	for i, names := range layers {
		for _, n := range names {
			level[n] = i + 1
		}
	}
	for _, n := range programs {
		level[n] = len(layers) + 1
	}
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		name := strings.TrimPrefix(f[0], module)
		if level[name] == 0 {
			t.Errorf("%s has no layer: add it to the table", name)
		}
		for _, imp := range f[1:] {
			if strings.Contains(imp, "urfave/cli") && !strings.HasPrefix(name, "cmd/") {
				t.Errorf("%s imports %s: only cmd knows the command line", name, imp)
			}
			dep, ok := strings.CutPrefix(imp, module)
			if ok && level[dep] >= level[name] {
				t.Errorf("%s imports %s, which is not below it", name, dep)
			}
		}
	}
}
