package anonymize

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// networks is a set of networks. IPv4 masks need not be contiguous.
type networks struct {
	v4 []network4
	v6 []netip.Prefix
}

type network4 struct{ addr, mask uint32 }

// Limits on a file that lists networks.
const (
	maxNetworks     = 10_000
	maxNetworksFile = 1 << 20 // bytes
)

// readNetworks reads a list of networks from a file in the format that Tstat's -N, -Y and
// -W options take.
func readNetworks(path string) (*networks, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, hint.AsUsage(fmt.Errorf("networks: %w", err))
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxNetworksFile+1))
	if err != nil {
		return nil, hint.AsUsage(fmt.Errorf("networks: %w", err))
	}
	if len(text) > maxNetworksFile { // its end may be what protects an address
		return nil, hint.Usage(fmt.Sprintf("networks: %s is larger than %d MiB", path, maxNetworksFile>>20), "shorten its comments, or merge networks")
	}
	n, err := parseNetworks(bytes.NewReader(text))
	if err != nil {
		return nil, hint.Add(fmt.Errorf("%s:%w", path, err), hint.Of(err))
	}
	return n, nil
}

// parseNetworks parses lines of the form `A.B.C.D/LEN`, `A.B.C.D/MASK` or `PREFIX/LEN`,
// or pairs of lines with an address and a mask. Errors begin with the line number.
func parseNetworks(r io.Reader) (*networks, error) {
	n := &networks{}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 64<<10)
	number, first := 0, ""
	for sc.Scan() {
		number++
		line := strings.TrimSpace(sc.Text())
		fail := func(reason, help string) (*networks, error) {
			return nil, hint.Usage(fmt.Sprintf("%d: %s", number, reason), help)
		}
		if line == "" || line[0] == '#' {
			continue
		}
		if len(n.v4)+len(n.v6) == maxNetworks {
			return fail(fmt.Sprintf("more than %d networks", maxNetworks), "")
		}
		addr, length, ok := strings.Cut(line, "/")
		switch {
		case first != "":
			addr, length, first = first, line, ""
		case !ok:
			first = line // the mask is in the next line
			continue
		}
		if err := n.add(strings.TrimSpace(addr), strings.TrimSpace(length)); err != nil {
			return fail(err.Error(), hint.Of(err))
		}
	}
	if err := sc.Err(); err != nil {
		return nil, hint.Usage(fmt.Sprintf("%d: %v", number+1, err), "")
	}
	if first != "" {
		return nil, hint.Usage(fmt.Sprintf("%d: %s has no mask", number, nameText("address", first, len(first))), "write ADDRESS/LENGTH")
	}
	if len(n.v4)+len(n.v6) == 0 {
		return nil, hint.Usage("1: no network", "write one a line, like 10.0.0.0/8")
	}
	return n, nil
}

// add adds a network to n. Its length is in bits or, for IPv4, may be a mask.
func (n *networks) add(addr, length string) error {
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Zone() != "" {
		return fmt.Errorf("%s is not an address", nameText("", addr, len(addr)+len(length)))
	}
	if mask, err := netip.ParseAddr(length); err == nil && mask.Is4() && a.Is4() {
		m := bits4(mask)
		n.v4 = append(n.v4, network4{bits4(a) & m, m})
		return nil
	}
	bits, err := strconv.Atoi(length)
	if err != nil || bits < 0 || bits > a.BitLen() {
		return fmt.Errorf("%q is not a length from 0 to %d, nor a mask", length, a.BitLen())
	}
	switch {
	case a.Is4() && bits > 0 && a.IsUnspecified():
		return hint.New(fmt.Sprintf("%s/%d: Tstat reads that as every address", addr, bits), "write 0.0.0.0/0 for every address")
	case a.Is4():
		m := uint32(uint64(0xffffffff) << (32 - bits))
		n.v4 = append(n.v4, network4{bits4(a) & m, m})
	default:
		n.v6 = append(n.v6, netip.PrefixFrom(a, bits).Masked())
	}
	return nil
}

// nameText returns noun, followed by text in quotes, for an error message about a line.
// If the line is long enough for a key, nameText omits text: the user may have named the
// key file by mistake.
func nameText(noun, text string, lineLength int) string {
	if lineLength >= minKey {
		return cmp.Or(noun, "the text")
	}
	return strings.TrimSpace(noun + " " + strconv.Quote(text))
}

func bits4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// has4 reports whether an IPv4 address is in one of the networks. A nil set is empty.
func (n *networks) has4(a uint32) bool {
	if n != nil {
		for _, net := range n.v4 {
			if a&net.mask == net.addr {
				return true
			}
		}
	}
	return false
}

// has6 reports whether an IPv6 address is in one of the networks. An IPv4-mapped address
// is also looked up as an IPv4 address.
func (n *networks) has6(a netip.Addr) bool {
	if n == nil {
		return false
	}
	if a.Is4In6() && n.has4(bits4(a.Unmap())) {
		return true
	}
	return slices.ContainsFunc(n.v6, func(p netip.Prefix) bool { return p.Contains(a) })
}

// hash returns a hash of the networks. Order and duplicates do not matter.
func (n *networks) hash() string {
	var list []string
	for _, net := range n.v4 {
		list = append(list, fmt.Sprintf("%08x/%08x\n", net.addr, net.mask))
	}
	for _, p := range n.v6 {
		list = append(list, p.String()+"\n")
	}
	slices.Sort(list)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(list), "")))
	return hex.EncodeToString(sum[:6])
}
