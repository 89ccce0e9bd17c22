package command

import (
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// TestSetWithoutEffectIsRefused checks that runcap does not pass over a value that it
// cannot send: that of a parameter that the capability lacks, or whose value is fixed.
func TestSetWithoutEffectIsRefused(t *testing.T) {
	c := &mplane.Statement{Label: "log", Parameters: mplane.Fields{
		{Name: "repository.url", Type: mplane.URL, Text: "repository:3000"},
		{Name: "log.time", Type: mplane.Natural, Text: mplane.None},
	}}
	for text, want := range map[string]string{
		"repository.url=repository:3000": "",
		"repository.url=elsewhere:3000":  "--set repository.url: log allows only repository:3000",
		"log.time=60":                    "",
		"log.tiem=60":                    "--set log.tiem: log has no such parameter",
	} {
		name, value, _ := strings.Cut(text, "=")
		got := ""
		if err := checkValues(c, map[string]string{name: value}); err != nil {
			if got = err.Error(); !hint.IsUsage(err) {
				t.Errorf("%s: %v is not a usage error", text, err)
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
