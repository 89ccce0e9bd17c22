package main

import (
	"context"
	"os"
	"testing"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		v       []float64
		q, want float64
	}{
		{[]float64{3}, 0.5, 3},
		{[]float64{4, 1, 2, 3}, 0.5, 2.5},
		{[]float64{5, 1, 4, 2, 3}, 0.25, 2},
		{[]float64{5, 1, 4, 2, 3}, 0.75, 4},
		{[]float64{1, 2}, 1, 2},
	} {
		if got := quantile(c.v, c.q); got != c.want {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.v, c.q, got, c.want)
		}
	}
}

func TestCount(t *testing.T) {
	for x, want := range map[float64]string{0: "0", 999.6: "1 000", 12345: "12 345", 1234567: "1 234 567"} {
		if got := count(x); got != want {
			t.Errorf("count(%v) = %q, want %q", x, got, want)
		}
	}
}

// TestRun measures a command that takes memory and time.
func TestRun(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("only on Linux")
	}
	ctx := context.Background()
	u, err := newLimits(ctx).run(ctx, "sh", "-c", "echo $GOMAXPROCS; sleep 0.05")
	if err != nil {
		t.Fatal(err)
	}
	if string(u.out) != "2\n" || u.wall.Milliseconds() < 50 || u.rss < 1<<18 || u.rss > 1<<30 {
		t.Errorf("got %q, %v, %d bytes", u.out, u.wall, u.rss)
	}
	if _, err := newLimits(ctx).run(ctx, "sh", "-c", "exit 3"); err == nil {
		t.Error("no error of a command that fails")
	}
}
