package config

import (
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

func TestListenersNeedAllowOrCertificates(t *testing.T) {
	for _, c := range []struct {
		Network
		want string // in the error, "" for none
		hint string
	}{
		{Network{Listen: []string{":9000", "[::1]:9001"}}, "", ""},
		{Network{Listen: []string{"0.0.0.0:9000"}, Allow: []string{"10.0.0.0/8"}}, "", ""},
		{Network{Listen: []string{"0.0.0.0:9000"}, Cert: "c", Key: "k", CA: "a"}, "", ""},
		{Network{Listen: []string{"0.0.0.0:9000"}}, "--listen: 0.0.0.0:9000 is open", "--allow"},
		{Network{Listen: []string{":9000"}, Allow: []string{"ten"}}, `--allow: "ten" is not a network`, ""},
		{Network{Listen: []string{":9000"}, Cert: "c"}, "belong together", "--tls-key"},
	} {
		p := &Problems{settings: c.peers()}
		list := c.listeners(p)
		switch err := p.Err(""); {
		case c.want == "":
			if err != nil || len(list) != len(c.Listen) || list[0].TLS != c.TLS() {
				t.Errorf("%+v: %v, %v", c.Network, list, err)
			}
		case err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(console.WithFlags(hint.Of(err)), c.hint):
			t.Errorf("%+v: %v (%s); want %q", c.Network, err, hint.Of(err), c.want)
		}
	}
}
