package dbstream

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/pgtest"
)

// cutCommits forwards connections to a server. It closes the first n connections that
// commit a record after the server has answered, so that the client cannot know whether
// the commit succeeded. It returns the address to connect to.
func cutCommits(t *testing.T, server string, n int64) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var left atomic.Int64
	left.Store(n)
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", server)
			if err != nil {
				client.Close()
				continue
			}
			var cut atomic.Bool
			go func() {
				defer client.Close()
				defer up.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := up.Read(buf)
					if err != nil || cut.Load() {
						return
					}
					client.Write(buf[:n])
				}
			}()
			go func() {
				defer up.Close()
				buf := make([]byte, 64<<10)
				recorded := false
				for {
					n, err := client.Read(buf)
					if err != nil {
						return
					}
					recorded = recorded || bytes.Contains(buf[:n], []byte(`insert into "dbs"."tstatrepo_files"`))
					if recorded && bytes.Contains(buf[:n], []byte("commit")) && left.Add(-1) >= 0 {
						cut.Store(true)
					}
					up.Write(buf[:n])
				}
			}()
		}
	}()
	return l.Addr().String()
}

// TestUnknownCommit checks that the windows of a log are announced to the scheduler even
// if the connection breaks during the commit of the log, and the server has stored it.
func TestUnknownCommit(t *testing.T) {
	server := pgtest.Start(t)
	db := server.Database(t)
	_, path, _ := strings.Cut(server.Host(db), "@")
	at, name, _ := strings.Cut(path, "/")
	sched := startScheduler(t)
	src := t.TempDir()
	folders, err := filepath.Glob("testdata/golden/input/*")
	if err != nil || len(folders) < 2 {
		t.Fatal(folders, err)
	}
	slices.Sort(folders)
	for _, f := range folders[:2] {
		if err := os.CopyFS(filepath.Join(src, filepath.Base(f)), os.DirFS(f)); err != nil {
			t.Fatal(err)
		}
	}
	opt := Options{Stream: "s"}
	w := &warnings{}
	opt.Log = slog.New(slog.NewTextHandler(w, nil))
	opt.RetryTimeout = time.Minute
	s, err := Open(t.Context(), "dbstream://postgres@"+cutCommits(t, at, 1)+"/"+name+"?sslmode=disable&scheduler="+sched.addr, opt)
	if err != nil {
		t.Fatal(err)
	}
	_, err = bulk.Run(context.Background(), bulk.Options{Sources: []string{src}, Stores: bulk.Opened(s), Probe: "p1", RetryTimeout: time.Minute,
		Location: time.UTC, IncludeOpen: true, Jobs: 1, MaxRejects: bulk.DefaultMaxRejects, StateDir: t.TempDir(), Log: opt.Log})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	conn := server.Connect(t, db)
	rows, _ := conn.Query(t.Context(), "select serial_time::int8 from dbs.view_info_s order by 1")
	windows, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil || len(windows) < 5 {
		t.Fatal(windows, err)
	}
	if got, want := sched.told(), lines(0, windows[:len(windows)-1]...); !slices.Equal(got, want) {
		t.Errorf("told\n%q, want\n%q\n%s", got, want, w.buf.String())
	}
	var n int64
	if err := conn.QueryRow(t.Context(), "select count(*) from s").Scan(&n); err != nil || n != 600 {
		t.Error(n, err)
	}
}
