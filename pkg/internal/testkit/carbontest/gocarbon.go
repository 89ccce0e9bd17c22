package carbontest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// StartGo starts go-carbon with the given storage schemas and without a limit on new
// metrics. The test fails if go-carbon is not installed; `make matrix` downloads it.
func StartGo(t testing.TB, schemas string) *Server {
	t.Helper()
	if _, err := exec.LookPath("go-carbon"); err != nil {
		t.Fatalf("%v: make matrix downloads it", err)
	}
	s := &Server{Line: Port(t), Pickle: Port(t), Dir: t.TempDir(), t: t}
	config := fmt.Sprintf(`[common]
user = ""
metric-interval = "24h"
[whisper]
data-dir = %[1]q
schemas-file = %[2]q
[cache]
max-size = 0
[udp]
enabled = false
[tcp]
listen = "127.0.0.1:%[3]d"
[pickle]
listen = "127.0.0.1:%[4]d"
[carbonlink]
enabled = false
[grpc]
enabled = false
[[logging]]
logger = ""
file = "stdout"
level = "warn"
`, s.Whisper(), filepath.Join(s.Dir, "schemas.conf"), s.Line, s.Pickle)
	for name, text := range map[string]string{"go-carbon.conf": config, "schemas.conf": schemas} {
		if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(s.Whisper(), 0o755); err != nil {
		t.Fatal(err)
	}
	s.args = []string{"go-carbon", "-config", filepath.Join(s.Dir, "go-carbon.conf")}
	s.Up()
	t.Cleanup(s.Down)
	return s
}
