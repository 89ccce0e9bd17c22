package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// mathStream is the name of the MATH stream of the probe that serve starts.
const mathStream = "bench"

// serve runs tstatrepo as a MATH probe that offers the files of t. The probe runs on the
// same CPUs as the measured commands. remote is a copy of t whose folder is the URL of
// the probe's stream. stop ends the probe.
func (b *bench) serve(ctx context.Context, t tree) (remote tree, stop func() error, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return t, nil, err
	}
	addr := l.Addr().String()
	l.Close()
	args := slices.Concat(b.prefix, b.tstatrepo("import-bulk", "--to=math://127.0.0.1:9", "--listen="+addr, "--stream="+mathStream,
		"--timezone=UTC", "--settle=1s", "--quiet", "--state-dir="+filepath.Join(b.dir, "probe"), t.dir))
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	if err := cmd.Start(); err != nil {
		return t, nil, err
	}
	stop = func() error {
		err := cmd.Process.Signal(os.Interrupt)
		cmd.Wait() // exits with status 130
		return err
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if served(addr) == t.files {
			break
		}
		if time.Now().After(end) {
			return t, nil, errors.Join(fmt.Errorf("the probe does not serve %d files", t.files), stop())
		}
	}
	remote = t
	remote.dir = "math://" + addr + "/" + mathStream
	return remote, stop, nil
}

// served returns the number of files that the MATH probe at addr lists.
func served(addr string) int {
	resp, err := http.Get("http://" + addr + "/ListDir/" + mathStream)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	list, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0
	}
	return strings.Count(string(list), ".out/")
}

// caseMath copies 2 GiB from a probe. The peer fetches the same files with curl over one
// connection, and then runs sync.
func (b *bench) caseMath(ctx context.Context) (err error) {
	t, err := b.load(ctx)
	if err != nil {
		return err
	}
	if t, err = b.multiply(t, 4); err != nil {
		return err
	}
	remote, stop, err := b.serve(ctx, t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	files, err := filepath.Glob(filepath.Join(t.dir, "*.out", "log_*"))
	if err != nil {
		return err
	}
	var list strings.Builder
	base := strings.TrimSuffix(strings.Replace(remote.dir, "math:", "http:", 1), mathStream)
	for _, f := range files {
		name := filepath.Join(filepath.Base(filepath.Dir(f)), filepath.Base(f))
		fmt.Fprintf(&list, "url = %q\noutput = %q\n", base+name, filepath.Join(b.out(), name))
	}
	config := filepath.Join(b.dir, "curl.conf")
	if err := os.WriteFile(config, []byte(list.String()), 0o644); err != nil {
		return err
	}
	curl := func(ctx context.Context) (usage, error) {
		if err := b.fresh(ctx); err != nil {
			return usage{}, err
		}
		return b.run(ctx, "sh", "-c", `curl --silent --show-error --fail --create-dirs --config "$0" && sync`, config)
	}
	name := fmt.Sprintf("math:// to copy / curl && sync, %d files of %d MiB, MiB/s", t.files, t.bytes/int64(t.files)/mib)
	return b.compare(ctx, name, float64(t.bytes)/mib, 0.9, b.imports(remote, "copy"), curl)
}
