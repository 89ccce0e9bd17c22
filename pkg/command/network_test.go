package command

import (
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

func TestListeners(t *testing.T) {
	for _, c := range []struct {
		network
		want string // in the error, "" for none
		hint string
	}{
		{network{listen: []string{":9000", "[::1]:9001"}}, "", ""},
		{network{listen: []string{"0.0.0.0:9000"}, allow: []string{"10.0.0.0/8"}}, "", ""},
		{network{listen: []string{"0.0.0.0:9000"}, cert: "c", key: "k", caPEM: "a"}, "", ""},
		{network{listen: []string{"0.0.0.0:9000"}}, "--listen: 0.0.0.0:9000 is open", "--allow"},
		{network{listen: []string{":9000"}, allow: []string{"ten"}}, `--allow: "ten" is not a network`, ""},
		{network{listen: []string{":9000"}, cert: "c"}, "belong together", "--tls-key"},
	} {
		p := &problems{settings: c.settings("take lines")}
		list := c.listeners(p)
		switch err := p.err("stream"); {
		case c.want == "":
			if err != nil || len(list) != len(c.listen) || list[0].TLS != c.tls() {
				t.Errorf("%+v: %v, %v", c.network, list, err)
			}
		case err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(console.WithFlags(hint.Of(err)), c.hint):
			t.Errorf("%+v: %v (%s); want %q", c.network, err, hint.Of(err), c.want)
		}
	}
}
