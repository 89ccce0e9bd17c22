package bulk

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// places returns the place of each local source: the path of its tree relative to the
// deepest common ancestor of all trees. The tree of a log folder is its parent. The tree
// of a file is its folder or, if that is a log folder, the parent of that folder. Any
// other source is its own tree. Places stay the same if the common ancestor is mounted
// elsewhere.
func places(sources []string) (map[string]string, error) {
	roots := map[string]string{}
	base := ""
	for _, src := range sources {
		if src == "-" {
			continue
		}
		root, err := filepath.Abs(src)
		if err != nil {
			return nil, err
		}
		if info, err := os.Stat(root); err == nil && !info.IsDir() {
			root = filepath.Dir(root)
		}
		if tstat.IsFolder(filepath.Base(root)) {
			root = filepath.Dir(root)
		}
		roots[src] = root
		if base == "" {
			base = root
		}
		for !below(root, base) {
			base = filepath.Dir(base)
		}
	}
	for src, root := range roots {
		rel, err := filepath.Rel(base, root)
		if err != nil {
			return nil, err
		}
		roots[src] = filepath.ToSlash(rel)
	}
	return roots, nil
}

// below reports whether dir is base or is inside base.
func below(dir, base string) bool {
	return dir == base || strings.HasPrefix(dir, strings.TrimSuffix(base, "/")+"/")
}

// maxPlace is the maximum length of a place in bytes. It is limited because
// databases index places.
const maxPlace = 200

// placeName converts a path to a place that every store keeps unchanged. It escapes a
// path that contains backslashes or is not valid UTF-8. It replaces the start of a long
// path with a hash.
func placeName(p string) string {
	if p = path.Clean(p); strings.Contains(p, `\`) || !utf8.ValidString(p) {
		var b strings.Builder
		for _, c := range []byte(p) {
			if c == '\\' || c >= utf8.RuneSelf {
				fmt.Fprintf(&b, `\x%02x`, c)
			} else {
				b.WriteByte(c)
			}
		}
		p = b.String()
	}
	if len(p) > maxPlace {
		sum := sha256.Sum256([]byte(p))
		tail := p[len(p)-maxPlace/2:]
		for !utf8.RuneStart(tail[0]) {
			tail = tail[1:]
		}
		p = hex.EncodeToString(sum[:8]) + "..." + tail
	}
	return p
}
