package admin

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
)

func TestRecent(t *testing.T) {
	var out bytes.Buffer
	r := NewRecent(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelError}), 3)
	log := slog.New(r)
	log.Info("not kept")
	log.Warn("first")
	log.With("a", 1).WithGroup("g").With("b", "x").Warn("second", "c", 2, slog.Group("h", "d", 3))
	log.Error("third")
	log.Warn("first")  // again
	log.Error("first") // a separate notice, since the level differs
	list := r.List()
	var got []string
	for _, n := range list {
		got = append(got, fmt.Sprint(n.Error, n.Count, " ", n.Text))
	}
	want := "[true 1 first false 2 first true 1 third]"
	if fmt.Sprint(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if list[1].First.After(list[1].Time) || list[1].First.IsZero() {
		t.Errorf("times of %+v", list[1])
	}
	if s := out.String(); strings.Count(s, "\n") != 2 || strings.Contains(s, "second") {
		t.Errorf("next handler got %q", s)
	}
	log.Error(strings.Repeat("é", maxNotice))
	if text := r.List()[0].Text; len(text) > maxNotice+len("…") || !strings.HasSuffix(text, "é…") {
		t.Errorf("long text is kept as %d bytes, end %q", len(text), text[len(text)-8:])
	}

	groups := NewRecent(slog.DiscardHandler, 3)
	slog.New(groups).With("a", 1).WithGroup("g").With("b", "x").Warn("second", "c", 2, slog.Group("h", "d", 3))
	if got, want := groups.List()[0].Text, "second a=1 g.b=x g.c=2 g.h.d=3"; got != want {
		t.Errorf("attributes %q, want %q", got, want)
	}
}

// TestRecentHandler checks that the next handler receives all records unchanged.
func TestRecentHandler(t *testing.T) {
	var out bytes.Buffer
	h := NewRecent(slog.NewJSONHandler(&out, nil), 10)
	err := slogtest.TestHandler(h, func() []map[string]any { return decode(t, out.Bytes()) })
	if err != nil {
		t.Error(err)
	}
}

func TestRecentTogether(t *testing.T) {
	r := NewRecent(slog.DiscardHandler, 10)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for k := range 200 {
				slog.New(r).With("i", i).Warn("w", "k", k%7)
				r.List()
			}
		})
	}
	wg.Wait()
	if len(r.List()) != 10 {
		t.Errorf("%d notices", len(r.List()))
	}
}
