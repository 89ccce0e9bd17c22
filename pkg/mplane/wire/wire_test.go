package wire

import (
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/hint"
	"github.com/tstatrepo/tstatrepo/pkg/peer"
)

// TestErrorsOfOpenHideThePassword: what looks like a port and a path may be a
// password with a slash.
func TestErrorsOfOpenHideThePassword(t *testing.T) {
	for _, text := range []string{"http://me:secret@h:1", "http://me:1/secret@h:1", "http://me:secret", "http://h:1?password=secret", "me:1/secret@h", "http://me:1/a%zzsecret@h"} {
		_, err := Dialer{URL: text, TLS: peer.TLS{Cert: "c", Key: "k", CA: "a"}}.Open()
		if err == nil || !hint.IsUsage(err) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
