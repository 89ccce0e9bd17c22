package durable

import "testing"

// TestCheckSpace checks which free space is too little, for small and large disks.
func TestCheckSpace(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		free, size int64
		want       string
	}{
		{free: 0, size: 0},
		{free: gib / 20, size: gib},
		{free: gib/20 - 1, size: gib, want: "/store: less than 5 % of the disk is free"},
		{free: gib, size: 1000 * gib},
		{free: gib - 1, size: 1000 * gib, want: "/store: less than 1 GiB of the disk is free"},
		{free: -gib, size: 1000 * gib, want: "/store: less than 1 GiB of the disk is free"},
	} {
		got := ""
		if err := checkSpace("/store", c.free, c.size); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%d of %d bytes: %q, want %q", c.free, c.size, got, c.want)
		}
	}
}
