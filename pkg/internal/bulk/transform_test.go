package bulk

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
)

// TestAddressesInLogWithLaterColumns checks that a later header with unknown columns does
// not prevent a decision, and that the rows below that header count.
func TestAddressesInLogWithLaterColumns(t *testing.T) {
	const head = "#c_ip:1 c_isint:2 c_iscrypto:3\n10.0.0.1 1 0\n#c_ip:1 c_isint:2 c_iscrypto:3 new:4\n"
	for text, want := range map[string]anonymize.Source{head + "10.0.0.2 1 0 x\n": anonymize.Clear, head + "10.0.0.2 1 1 x\n": anonymize.Unknown} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, flagsType), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if source, err := AddressesIn(dir, time.UTC, ""); source != want || (err == nil) != (want != anonymize.Unknown) {
			t.Errorf("%q: %v, %v", text, source, err)
		}
	}
}
