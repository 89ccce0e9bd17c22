package wire

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// TestErrorsOfOpenHideThePassword checks URLs in which a password with a slash looks
// like a port and a path.
func TestErrorsOfOpenHideThePassword(t *testing.T) {
	for _, text := range []string{"http://me:secret@h:1", "http://me:1/secret@h:1", "http://me:secret", "http://h:1?password=secret", "me:1/secret@h", "http://me:1/a%zzsecret@h"} {
		_, err := Dialer{URL: text, TLS: peer.TLS{Cert: "c", Key: "k", CA: "a"}}.Open()
		if err == nil || !hint.IsUsage(err) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// many is a Backend with a list of capabilities. It responds to messages with the first.
type many struct {
	list         []*mplane.Statement
	notDelivered chan mplane.Message
}

func (b *many) Capabilities(string) []*mplane.Statement { return b.list }

func (b *many) Capability(_, token string) *mplane.Statement {
	for _, c := range b.list {
		if c.ID() == token {
			return c
		}
	}
	return nil
}

func (b *many) Answer(context.Context, string, mplane.Message) mplane.Message { return b.list[0] }

func (b *many) NotDelivered(_ string, m mplane.Message) { b.notDelivered <- m }

var href = regexp.MustCompile(`<a href='([^']*)'>`)

// TestPagesListEveryCapability checks that each page is limited in size, and that the
// pages together link to every capability, for any number and size of capabilities.
func TestPagesListEveryCapability(t *testing.T) {
	b := &many{}
	for i := range 30_000 {
		b.list = append(b.list, &mplane.Statement{Kind: mplane.Capability, Verb: "measure", Token: fmt.Sprintf("%s%d", strings.Repeat("x/", i%50), i),
			Registry: mplane.CoreRegistry, Label: strings.Repeat("l", i%4000)})
	}
	b.list[3].Metadata = mplane.Fields{{Name: "System_ID", Text: strings.Repeat("x", 1<<20)}}
	s := &Server{Backend: b}
	seen, todo, pages := map[string]bool{}, []string{"/"}, 0
	for i := 0; i < len(todo); i++ {
		if strings.HasPrefix(todo[i], "/capability/") {
			continue
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("GET", todo[i], nil))
		if w.Code != 200 || w.Header().Get("Content-Type") != "text/html" || w.Body.Len() > maxPage+20_000 {
			t.Fatalf("%s: %d, %s, %d bytes", todo[i], w.Code, w.Header(), w.Body.Len())
		}
		pages++
		for _, m := range href.FindAllStringSubmatch(w.Body.String(), -1) {
			if !seen[m[1]] {
				seen[m[1]] = true
				todo = append(todo, m[1])
			}
		}
	}
	for _, c := range b.list {
		if !seen["/capability/"+url.PathEscape(c.Token)] {
			t.Fatalf("no link to %s", c.Token)
		}
	}
	if pages < 4 {
		t.Errorf("%d pages", pages)
	}
	for path, code := range map[string]int{pagePath + "0": 200, pagePath + "99999": 200, pagePath + "-1": 404, pagePath + "x": 404, pagePath: 404} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != code {
			t.Errorf("%s: %d, want %d", path, w.Code, code)
		}
	}
}

// TestLargeMessagesAreLimitedPerHost checks that one large message of a host is
// processed at a time, and does not delay messages of other hosts or small messages.
func TestLargeMessagesAreLimitedPerHost(t *testing.T) {
	registries, err := mplane.NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		large = peer.NewShares(maxLarge, peer.PerHost(maxLarge)) // created inside this synctest bubble
		read := func(host string, body io.Reader) error {
			r := httptest.NewRequest("POST", "/", body)
			r.RemoteAddr = host + ":1"
			_, err := ReadMessage(r, registries)
			return err
		}
		exception := `{"exception": null, "message": "` + strings.Repeat("x", 3*small) + `"}`
		slow, finish := io.Pipe()
		first := make(chan error, 1)
		go func() { first <- read("10.0.0.1", slow) }()
		io.WriteString(finish, exception[:2*small])
		synctest.Wait()
		if err := read("10.0.0.2", strings.NewReader(exception)); err != nil {
			t.Errorf("another host: %v", err)
		}
		if err := read("10.0.0.1", strings.NewReader(`{"exception": null, "message": "x"}`)); err != nil {
			t.Errorf("a small message: %v", err)
		}
		if err := read("10.0.0.1", strings.NewReader(exception)); err == nil {
			t.Error("a second large message of the host was read")
		}
		io.WriteString(finish, exception[2*small:])
		finish.Close()
		if err := <-first; err != nil {
			t.Error(err)
		}
		if err := read("10.0.0.1", strings.NewReader(exception)); err != nil {
			t.Errorf("after the first: %v", err)
		}
	})
}

// TestLargeResponsesAreLimited checks that clients that do not read their responses
// cannot make the server keep a large message for each of their connections. Small
// responses are not delayed.
func TestLargeResponsesAreLimited(t *testing.T) {
	big := &mplane.Statement{Kind: mplane.Capability, Verb: "measure", Token: "big", Registry: mplane.CoreRegistry}
	big.Metadata = mplane.Fields{{Name: "System_ID", Text: strings.Repeat("x", 7<<20)}}
	small := &mplane.Statement{Kind: mplane.Capability, Verb: "measure", Token: "small", Registry: mplane.CoreRegistry}
	b := &many{list: []*mplane.Statement{big, small}}
	srv := httptest.NewServer(&Server{Backend: b})
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://")
	const clients = 20
	for range clients {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.(*net.TCPConn).SetReadBuffer(4096)
		if _, err := io.WriteString(c, "GET /capability/big HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(500 * time.Millisecond) // the responses are written as far as possible
	resp, err := http.Get(srv.URL + "/capability/small")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 100<<20 {
		t.Errorf("%d stalled clients use %d MiB", clients, m.HeapAlloc>>20)
	}
}

// TestRefusedResponseIsNotDelivered checks that the backend learns that a large response
// was not sent, because it may be a result that the backend would drop.
func TestRefusedResponseIsNotDelivered(t *testing.T) {
	for range maxLarge { // other clients do not read their responses
		if err := sending.Acquire(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		defer sending.Release("")
	}
	reg, err := mplane.NewRegistries()
	if err != nil {
		t.Fatal(err)
	}
	big := &mplane.Statement{Kind: mplane.Capability, Verb: "measure", Registry: mplane.CoreRegistry, Label: strings.Repeat("x", 1<<20)}
	b := &many{[]*mplane.Statement{big}, make(chan mplane.Message, 1)}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r := httptest.NewRequest("POST", "/", strings.NewReader(`{"exception": "x", "message": "m"}`)).WithContext(ctx)
	r.Header.Set("Content-Type", ContentType)
	w := httptest.NewRecorder()
	(&Server{Registries: reg, Backend: b}).ServeHTTP(w, r)
	select {
	case m := <-b.notDelivered:
		if m != mplane.Message(big) || w.Code != http.StatusServiceUnavailable {
			t.Errorf("%d, %v", w.Code, m)
		}
	default:
		t.Errorf("%d, and the backend does not know it", w.Code)
	}
}
