package storetest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// Durations of claims; see store.Claimer. A longClaim outlasts the test; a shortClaim
// expires during the test.
const (
	longClaim  = time.Hour
	shortClaim = 200 * time.Millisecond
)

// claims checks that only one owner can claim a file until the claim is released or
// expires. It is skipped unless the store is a store.Claimer.
func (s *suite) claims() {
	if _, ok := s.store.(store.Claimer); !ok {
		s.Skip("no Claimer")
	}
	first, other := s.store.(store.Claimer), s.Open(s.T).(store.Claimer)
	defer other.Close()
	keys := claimKeys(9)
	s.claim(first, "a", longClaim, keys[:3], keys[:3])
	s.claim(other, "b", longClaim, []store.Key{keys[1], keys[3]}, keys[3:4])
	s.claim(other, "a", longClaim, keys[:4], keys[:3]) // the owner counts, not the connection
	s.claim(first, "a", longClaim, nil, nil)
	s.claim(first, "a", longClaim, keys[4:5], keys[4:5])

	s.release(first, "a", keys[1])
	s.release(other, "b", keys[0], keys[8]) // b has claimed neither
	s.release(other, "b")
	s.claim(other, "b", longClaim, keys[:3], keys[1:2])

	// Another probe, folder or file is another key.
	k := keys[0]
	others := []store.Key{{Probe: "p2", Folder: k.Folder, File: k.File}, {Probe: k.Probe, Folder: k.Folder, File: "log_tcp_complete"}}
	s.claim(other, "b", longClaim, others, others)

	// A renewed claim does not expire at its original time; other claims
	// do.
	start := time.Now()
	s.claim(first, "a", shortClaim, keys[5:7], keys[5:7])
	s.claim(first, "a", longClaim, keys[5:6], keys[5:6])
	s.claimWhenFree(other, "b", keys[6])
	if took := time.Since(start); took < shortClaim {
		s.Errorf("a claim of %v was taken over after %v", shortClaim, took)
	}
	s.claim(other, "b", longClaim, keys[5:6], nil)
	s.claim(first, "a", longClaim, keys[6:7], nil)
	s.release(first, "a", keys[6]) // a no longer has the claim
	s.claim(first, "a", longClaim, keys[6:7], nil)

	// A process's claims outlive the process.
	first = s.reopen().(store.Claimer)
	s.claim(first, "c", longClaim, keys, keys[7:])
	s.claimAtOnce()
}

// claimAtOnce checks that if several owners claim a file at the same time, exactly one of
// them gets it.
func (s *suite) claimAtOnce() {
	const owners, files = 6, 60
	keys := claimKeys(10 + files)[10:]
	var mu sync.Mutex
	granted := map[store.Key]int{}
	var wg sync.WaitGroup
	for o := range owners {
		st := s.Open(s.T).(store.Claimer)
		wg.Go(func() {
			defer st.Close()
			mine := slices.Clone(keys)
			rand.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
			for chunk := range slices.Chunk(mine, 7) {
				got, err := st.Claim(s.ctx, fmt.Sprint("owner ", o), chunk, longClaim)
				if err != nil {
					s.Error(err)
				}
				mu.Lock()
				for _, k := range got {
					granted[k]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		if granted[k] != 1 {
			s.Errorf("%s was granted %d times", k, granted[k])
		}
	}
}

func claimKeys(n int) []store.Key {
	var keys []store.Key
	for i := range n {
		folder := time.Date(2016, 3, 24, i, 37, 0, 0, time.UTC).Format("2006_01_02_15_04") + ".out"
		keys = append(keys, store.Key{Probe: "p1", Folder: folder, File: logType})
	}
	return keys
}

func (s *suite) claim(st store.Claimer, owner string, ttl time.Duration, keys, want []store.Key) {
	s.Helper()
	got, err := st.Claim(s.ctx, owner, keys, ttl)
	if err != nil {
		s.Fatal(err)
	}
	order := func(a, b store.Key) int {
		return cmp.Or(strings.Compare(a.Folder, b.Folder), strings.Compare(a.Probe, b.Probe), strings.Compare(a.File, b.File))
	}
	got, want = slices.SortedFunc(slices.Values(got), order), slices.SortedFunc(slices.Values(want), order)
	if !slices.Equal(got, want) {
		s.Errorf("%s claims %v: got %v, want %v", owner, keys, got, want)
	}
}

// claimWhenFree waits until the current claim on k expires, and then claims k for the
// given owner.
func (s *suite) claimWhenFree(st store.Claimer, owner string, k store.Key) {
	s.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		got, err := st.Claim(s.ctx, owner, []store.Key{k}, longClaim)
		if err != nil {
			s.Fatal(err)
		}
		if len(got) == 1 {
			return
		}
		if time.Now().After(end) {
			s.Fatalf("the claim of %s does not expire", k)
		}
	}
}

func (s *suite) release(st store.Claimer, owner string, keys ...store.Key) {
	s.Helper()
	if err := st.Release(s.ctx, owner, keys); err != nil {
		s.Fatal(err)
	}
}
