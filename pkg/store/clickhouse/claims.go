package clickhouse

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/store"
)

// The table of claims, too, only grows: a claim that is renewed is another row,
// with the same since, and so is one that ends, with until 0. What is past is
// removed a day later.
const (
	claimsTable  = "tstatrepo_claims"
	claimsOrder  = "(file, folder, probe, owner)"
	createClaims = ` (
	probe String,
	folder String,
	file String,
	owner String,
	since UInt32,
	until UInt32,
	version UInt64,
	at DateTime('UTC')
)`
)

// Claim implements store.Claimer. Of two who claim the same file at the same
// moment, both may get it.
func (s *Store) Claim(ctx context.Context, owner string, keys []store.Key, ttl time.Duration) ([]store.Key, error) {
	return nil, fmt.Errorf("claim")
}

var _ = strconv.Itoa
var _ = strings.Join
