// Package client is the mPlane client. It uses the capabilities of a supervisor or
// component by sending HTTP requests.
package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// maxCapabilities is the maximum number of capabilities and pages of links, taken
// together, that a client reads from one server. The client skips the rest.
const maxCapabilities = 50000

// Client uses the capabilities of one supervisor or component. It is safe for
// concurrent use.
type Client struct {
	conn       *wire.Conn
	registries *mplane.Registries
	max        int // maximum number of requested pages and capabilities
}

// Open returns a client. It does not send anything yet.
func Open(d wire.Dialer, registries *mplane.Registries) (*Client, error) {
	conn, err := d.Open()
	if err != nil {
		return nil, err
	}
	return &Client{conn, registries, maxCapabilities}, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.conn.Close() }

// Root returns the URL of the peer.
func (c *Client) Root() string { return c.conn.Root() }

// noMessage returns the error for a response that is not an mPlane message. request is
// the method and URL of the request.
func noMessage(request string, resp *wire.Response) error {
	reason := fmt.Sprintf("%s: status %d %s", request, resp.Status, http.StatusText(resp.Status))
	if resp.Status == http.StatusOK {
		reason = fmt.Sprintf("%s: answered with %q, not with an mPlane message", request, resp.Type)
	}
	return hint.New(reason, "is that URL the root of a supervisor's port for clients, like http://127.0.0.1:8890/?")
}

// Capabilities follows the links on the peer's pages, starting at its root page, and
// returns the capabilities that it finds, in the order of the links. It ignores links to
// other servers. unread describes what was skipped: unreadable capabilities, capabilities
// beyond the maximum, and the rest of each page that is too long.
func (c *Client) Capabilities(ctx context.Context) (list []*mplane.Statement, unread error, err error) {
	var problems []error
	seen := map[string]bool{"/": true}
	todo := []string{"/"}
	more := 0
	for i := 0; i < len(todo); i++ {
		resp, err := c.conn.Do(ctx, http.MethodGet, todo[i], nil)
		if err != nil {
			return nil, nil, err
		}
		switch {
		case resp.Status == http.StatusNotFound && i > 1: // the capability was removed after it was listed
		case resp.Status != http.StatusOK:
			return nil, nil, noMessage("GET "+c.Root()+strings.TrimPrefix(todo[i], "/"), resp)
		case resp.Type == wire.ContentType:
			m, err := c.registries.Parse(resp.Body)
			if err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", todo[i], err))
				continue
			}
			if s, ok := m.(*mplane.Statement); ok && s.Kind == mplane.Capability {
				list = append(list, s)
			}
		case wire.IsPage(resp.Type):
			if resp.Cut {
				problems = append(problems, fmt.Errorf("%s: everything after the first %d bytes of the page", todo[i], mplane.MaxMessage))
			}
			for path := range links(resp.Body, todo[i]) {
				switch {
				case seen[path]:
				case len(todo) > c.max:
					more++
				default:
					seen[path] = true
					todo = append(todo, path)
				}
			}
		default:
			return nil, nil, noMessage("GET "+c.Root()+strings.TrimPrefix(todo[i], "/"), resp)
		}
	}
	if more > 0 {
		problems = append(problems, fmt.Errorf("%d capabilities: %s offers more than %d", more, c.Root(), c.max))
	}
	return list, errors.Join(problems...), nil
}

var anchor = regexp.MustCompile(`(?i)<a\s+href\s*=\s*(?:'([^']*)'|"([^"]*)")`)

// links returns the escaped paths of the links on a page, but omits links to other
// servers. base is the path of the page itself.
func links(page []byte, base string) iter.Seq[string] {
	return func(yield func(string) bool) {
		from, err := url.Parse(base)
		if err != nil {
			return
		}
		for match := anchor.FindSubmatchIndex(page); match != nil; match = anchor.FindSubmatchIndex(page) {
			target := ""
			for _, group := range []int{2, 4} { // single or double quotes
				if match[group] >= 0 {
					target = string(page[match[group]:match[group+1]])
				}
			}
			u, err := from.Parse(target)
			if err == nil && u.Host == "" && u.Scheme == "" && strings.HasPrefix(u.Path, "/") && !yield(u.EscapedPath()) {
				return
			}
			page = page[match[1]:]
		}
	}
}

// Send posts m to the peer's root, even if the capability of m has a link to another URL,
// and returns the response.
func (c *Client) Send(ctx context.Context, m mplane.Message) (mplane.Message, error) {
	resp, err := c.conn.Do(ctx, http.MethodPost, "/", m)
	if err != nil {
		return nil, err
	}
	if resp.Type != wire.ContentType || resp.Status != http.StatusOK && resp.Status != http.StatusBadRequest {
		return nil, noMessage("POST "+c.Root(), resp)
	}
	reply, err := c.registries.Parse(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", c.Root(), err)
	}
	return reply, nil
}
