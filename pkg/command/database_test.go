package command

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// TestDiskFull fills the server's disk. The import must fail with status 75, or wait
// until space is free. Rows and records must always match.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	server := pgtest.Start(t)
	disk := server.Dir(t, "disk")
	var owner syscall.Stat_t
	if err := syscall.Stat(disk, &owner); err != nil {
		t.Fatal(err)
	}
	mount := func(flags uintptr, size int64) {
		t.Helper()
		options := fmt.Sprintf("size=%d,uid=%d,gid=%d,mode=0700", size, owner.Uid, owner.Gid)
		if err := syscall.Mount("tmpfs", disk, "tmpfs", flags, options); err != nil {
			t.Skip("no small disk: ", err)
		}
	}
	const roomy = 200 << 20
	mount(0, roomy)
	t.Cleanup(func() { syscall.Unmount(disk, syscall.MNT_DETACH) })
	server.Exec(t, "postgres", "create tablespace small location '"+disk+"'")
	source := t.TempDir()
	total := databaseLogs(t, source, 100)

	for name, d := range databases {
		t.Run(name, func(t *testing.T) {
			db := "full_" + name
			server.Exec(t, "postgres", "create database "+db+" tablespace small")
			server.Exec(t, db, "checkpoint") // keep the files that sessions need
			var fs syscall.Statfs_t
			if err := syscall.Statfs(disk, &fs); err != nil {
				t.Fatal(err)
			}
			used := int64(fs.Blocks-fs.Bfree) * fs.Bsize
			mount(syscall.MS_REMOUNT, used+1<<20)

			state := t.TempDir()
			cmd := importCommand(source, fmt.Sprintf("%s://%s?sslmode=disable", d.scheme, server.Host(db)), state)
			cmd.Args = append(cmd.Args, "--retry-timeout", "100ms")
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			var status *exec.ExitError
			if err := cmd.Run(); !errors.As(err, &status) || status.ExitCode() != exitTryAgain || !strings.Contains(stderr.String(), "No space left") {
				t.Errorf("%v: %s", err, &stderr)
			}
			consistent(t, server, db, d.rows, d.records)

			cmd = importCommand(source, fmt.Sprintf("%s://%s?sslmode=disable", d.scheme, server.Host(db)), state)
			full := &watch{text: "No space left", seen: make(chan struct{})}
			cmd.Stderr = full
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- waitFor(cmd) }()
			select {
			case <-full.seen:
			case err := <-ended:
				t.Fatalf("the import did not wait for room: %v: %s", err, &full.out)
			}
			mount(syscall.MS_REMOUNT, roomy)
			if err := <-ended; err != nil {
				t.Errorf("%v: %s", err, &full.out)
			}
			if rows, records := counts(t, server, db, d.rows, d.records); rows != total || records != total {
				t.Errorf("%d rows, records of %d, want %d", rows, records, total)
			}
		})
	}
}

// watch collects a command's messages and reports when a text appears.
type watch struct {
	out      bytes.Buffer
	text     string
	seen     chan struct{}
	reported bool
}

func (w *watch) Write(p []byte) (int, error) {
	n, err := w.out.Write(p)
	if !w.reported && strings.Contains(w.out.String(), w.text) {
		w.reported = true
		close(w.seen)
	}
	return n, err
}

// TestServerNames checks that several hosts, a service file and a password file
// identify the server as in libpq.
func TestServerNames(t *testing.T) {
	server := pgtest.Start(t)
	dir := t.TempDir()
	services := filepath.Join(dir, "services")
	passwords := filepath.Join(dir, "passwords")
	log := filepath.Join(dir, "2016_03_24_21_37.out", "log_tcp_complete")
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		t.Fatal(err)
	}
	server.Exec(t, "postgres", "create role scram login superuser password 'from the file'")
	for i, dest := range []string{
		"postgres://postgres@127.0.0.1:1,127.0.0.1:PORT/DB?sslmode=disable", // nothing listens on port 1
		"postgres://?service=tstat&sslmode=disable",
		"postgres://scram@127.0.0.1:PORT/DB?sslmode=disable",
	} {
		db := server.Database(t)
		for file, text := range map[string]string{
			log:       "#c_ip:1 c_port:2\n10.0.0.1 7\n",
			services:  "[tstat]\nhost=127.0.0.1\nport=PORT\nuser=postgres\ndbname=DB\n",
			passwords: "127.0.0.1:PORT:DB:scram:from the file\n",
		} {
			text = strings.NewReplacer("PORT", fmt.Sprint(server.Port), "DB", db).Replace(text)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		dest = strings.NewReplacer("PORT", fmt.Sprint(server.Port), "DB", db).Replace(dest)
		cmd := importCommand(dir, dest, filepath.Join(dir, "state"))
		cmd.Env = append(os.Environ(), "PGSERVICEFILE="+services, "PGPASSFILE="+passwords)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%d: %v: %s", i, err, out)
			continue
		}
		if seen, _ := counts(t, server, db, databases["postgres"].rows, databases["postgres"].records); seen != 1 {
			t.Errorf("%d: %d rows", i, seen)
		}
	}
}
