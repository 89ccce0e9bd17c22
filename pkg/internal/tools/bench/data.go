package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tree is a Tstat log tree to import.
type tree struct {
	dir   string
	rows  int64
	files int
	bytes int64 // total size of the log files
}

// start is the time of the first folder of every tree.
var start = time.Date(2016, 3, 24, 21, 37, 0, 0, time.UTC)

// generate returns a tree with the given number of rows and folders. It runs tstatgen
// with the additional flags, unless an earlier run has already created the tree. The
// same arguments always give the same bytes.
func (b *bench) generate(ctx context.Context, rows int64, folders int, interval time.Duration, flags ...string) (tree, error) {
	dir := filepath.Join(b.dir, fmt.Sprintf("logs-%dx%d", rows, folders)+strings.Join(flags, ""))
	if _, err := os.Stat(dir); err != nil {
		b.logf("generating %d rows in %d folders", rows, folders)
		part := dir + ".part" // renamed when complete
		if err := os.RemoveAll(part); err != nil {
			return tree{}, err
		}
		args := append([]string{"-out", part, "-tz", "UTC", "-format", "v15", "-start", start.Format(time.RFC3339),
			"-rows", strconv.FormatInt(rows, 10), "-dirs", strconv.Itoa(folders), "-interval", interval.String()}, flags...)
		cmd := exec.CommandContext(ctx, filepath.Join(b.dir, "tstatgen"), args...)
		if msg, err := cmd.CombinedOutput(); err != nil {
			return tree{}, fmt.Errorf("tstatgen: %w\n%s", err, msg)
		}
		if err := os.Rename(part, dir); err != nil {
			return tree{}, err
		}
	}
	return b.measure(dir, rows, folders)
}

// multiply returns a tree with n times the rows of t. It needs no extra disk space,
// because its log files are hard links. An import identifies a file by probe, folder and
// name, so it imports each link as a separate file.
func (b *bench) multiply(t tree, n int) (tree, error) {
	dir := fmt.Sprintf("%s-times-%d", t.dir, n)
	if _, err := os.Stat(dir); err != nil {
		files, err := filepath.Glob(filepath.Join(t.dir, "*.out", "log_*"))
		if err != nil {
			return tree{}, err
		}
		part := dir + ".part"
		if err := os.RemoveAll(part); err != nil {
			return tree{}, err
		}
		for i := range n * len(files) {
			file := files[i%len(files)]
			folder := filepath.Join(part, start.Add(time.Duration(i)*time.Hour).Format("2006_01_02_15_04")+".out")
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return tree{}, err
			}
			if err := os.Link(file, filepath.Join(folder, filepath.Base(file))); err != nil {
				return tree{}, err
			}
		}
		if err := os.Rename(part, dir); err != nil {
			return tree{}, err
		}
	}
	return b.measure(dir, t.rows*int64(n), t.files*n)
}

// measure returns the tree in dir, with the given number of rows and the total size of
// its log files. It returns an error unless the tree has the given number of log files.
func (b *bench) measure(dir string, rows int64, files int) (tree, error) {
	t := tree{dir: dir, rows: rows}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasPrefix(d.Name(), "log_") {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		t.files++
		t.bytes += info.Size()
		return nil
	})
	if err == nil && t.files != files {
		err = fmt.Errorf("%s has %d log files, not %d; remove it", dir, t.files, files)
	}
	return t, err
}
