package source

import "testing"

// TestFetchSize checks that a fetch asks for 64 messages if the limit is NATS's
// default of 1 MiB, and for fewer if it is larger.
func TestFetchSize(t *testing.T) {
	for payload, want := range map[int64]int{0: 64, 1 << 10: 64, 1 << 20: 64, 1<<20 + 1: 63, 8 << 20: 8, 64 << 20: 1, 1 << 40: 1} {
		if got := fetchSize(payload); got != want {
			t.Errorf("messages of %d bytes: %d at once, want %d", payload, got, want)
		}
	}
}
