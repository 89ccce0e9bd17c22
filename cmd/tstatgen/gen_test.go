package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestClientsAreDistinct generates as many rows as there are clients, in several folders.
func TestClientsAreDistinct(t *testing.T) {
	c := &config{out: t.TempDir(), rows: 1000, dirs: 3, interval: time.Hour, loc: time.UTC, format: "v15", types: []string{"tcp"}, ipv6: 0.3, clients: 1000, workers: 1}
	if _, _, err := run(c); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(c.out, "*.out", "log_tcp_complete"))
	if err != nil || len(files) != 3 {
		t.Fatal(files, err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for row := range bytes.Lines(text) {
			client, _, _ := bytes.Cut(row, []byte{' '})
			seen[string(client)] = true
		}
	}
	if len(seen) != 1000 {
		t.Errorf("%d clients, not 1000", len(seen))
	}
}

// TestFoldersHaveDistinctNames checks that no folder overwrites another one.
func TestFoldersHaveDistinctNames(t *testing.T) {
	rome, err := time.LoadLocation("Europe/Rome")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []config{
		{dirs: 2, interval: 10 * time.Second, loc: time.UTC},
		{dirs: 4, interval: 30 * time.Minute, loc: rome, start: time.Date(2016, 10, 30, 0, 0, 0, 0, time.UTC)},
	} {
		c.out, c.rows, c.format, c.types, c.workers = t.TempDir(), 100, "v15", []string{"tcp"}, 1
		if _, _, err := run(&c); err == nil {
			t.Errorf("%d folders every %v: no error", c.dirs, c.interval)
		}
	}
}
