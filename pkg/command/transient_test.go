package command

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/testkit/rrdtest"
)

const sampleLogs = "../../pkg/tstat/testdata/logs/v321"

// exitsTryAgain runs a command, which must retry and then exit with status 75.
func exitsTryAgain(t *testing.T, says string, args ...string) {
	t.Helper()
	p := startProcess(t, nil, args...)
	p.ends(exitTryAgain)
	if text := p.log.String(); !strings.Contains(text, says) {
		t.Errorf("%s: no %q in\n%s", strings.Join(args, " "), says, text)
	}
}

// TestUnresolvableNameIsUnavailable checks that a name that cannot be resolved
// counts as an unavailable server, wherever a URL names it.
func TestUnresolvableNameIsUnavailable(t *testing.T) {
	const host = "no-such-host.invalid"
	dir := t.TempDir()
	for _, to := range []string{"postgres://u@" + host + "/db", "dbstream://u@" + host + "/db", "clickhouse://" + host + "/db"} {
		exitsTryAgain(t, "store unavailable, retrying", "import-bulk", "--state-dir", dir, "--probe", "p", "--retry-timeout", "100ms", "--to", to, sampleLogs)
		exitsTryAgain(t, host, "store", "list", "--retry-timeout", "100ms", to)
	}
	exitsTryAgain(t, host, "import-bulk", "--state-dir", dir, "--probe", "p", "--to", dir+"/store", "math://"+host+":3001/s")
	rrds := rrdtest.Samples(t)
	for _, to := range []string{"graphite://" + host, "prometheus+http://" + host + ":9090", "http://" + host + ":9000"} {
		exitsTryAgain(t, host, "rrd-push", "--state-dir", t.TempDir(), "--probe", "p", "--retry-timeout", "100ms", "--to", to, rrds)
	}
	exitsTryAgain(t, host, "runcap", "--state-dir", dir, "--supervisor", "http://"+host+":8888", "--list")
}

// TestFullDiskIsNamed checks that the error of a store on a full disk names the cause.
func TestFullDiskIsNamed(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	disk, dir := t.TempDir(), t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("no small disk: ", err)
	}
	t.Cleanup(func() { syscall.Unmount(disk, syscall.MNT_DETACH) })
	p := startProcess(t, nil, "import-bulk", "--state-dir", dir, "--probe", "p", "--include-open", "--retry-timeout", "100ms", "--to", disk+"/p", sampleLogs)
	p.ends(exitTryAgain)
	if text := p.log.String(); !strings.Contains(text, "no space left on device") || strings.Contains(text, "unknown error type") {
		t.Errorf("it says\n%s", text)
	}
}

// TestReadOnlyFileSystemIsUnavailable checks that a read-only file system counts as
// unavailable. After a disk fault, it may become writable again.
func TestReadOnlyFileSystemIsUnavailable(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount a read-only file system")
	}
	disk, dir := t.TempDir(), t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_RDONLY, ""); err != nil {
		t.Skip("no read-only file system: ", err)
	}
	t.Cleanup(func() { syscall.Unmount(disk, syscall.MNT_DETACH) })
	const says = "read-only file system"
	for _, to := range []string{"parquet:" + disk + "/p", "copy:" + disk + "/c"} {
		exitsTryAgain(t, says, "import-bulk", "--state-dir", dir, "--probe", "p", "--retry-timeout", "100ms", "--to", to, sampleLogs)
	}
	exitsTryAgain(t, says, "import-bulk", "--state-dir", disk+"/state", "--probe", "p", "--to", dir+"/store", sampleLogs)
	exitsTryAgain(t, says, "import-bulk", "--state-dir", dir, "--probe", "p", "--to", dir+"/store", "--metrics-file", disk+"/m.prom", sampleLogs)
	exitsTryAgain(t, says, "rrd-push", "--state-dir", dir, "--probe", "p", "--retry-timeout", "100ms", "--to", "whisper:"+disk+"/w", rrdtest.Samples(t))
	exitsTryAgain(t, says, "stream", "--state-dir", disk+"/state", "--follow", sampleLogs)
	exitsTryAgain(t, says, "supervisor", "--state-dir", disk+"/state")
	exitsTryAgain(t, says, "serve", "--state-dir", disk+"/state")
}
