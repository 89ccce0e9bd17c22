package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
)

// TestHideSecrets looks at what ps would show while a command waits for its
// database.
func TestHideSecrets(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	source := t.TempDir()
	for _, to := range []string{"postgres://me:hunter2secret@%s/db?sslmode=disable", "postgres://me@%s/db?sslmode=disable&password=hunter2secret"} {
		cmd := importCommand(source, fmt.Sprintf(to, l.Addr()), t.TempDir())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stop := func() { cmd.Process.Kill(); cmd.Wait() }
		c, err := l.Accept() // it has come so far
		if err != nil {
			stop()
			t.Fatal(err)
		}
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid))
		stop()
		c.Close()
		if err != nil || bytes.Contains(line, []byte("hunter2")) || !bytes.Contains(line, []byte("import-bulk")) {
			t.Errorf("%q, %v", line, err)
		}
	}
}
