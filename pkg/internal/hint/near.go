package hint

import (
	"fmt"
	"strings"
)

// DidYouMean returns "; did you mean PREFIXCANDIDATE?" for the candidate that
// is most similar to word or begins with it. It returns "" if no candidate is
// similar.
func DidYouMean(word string, candidates []string, prefix string) string {
	best, least := "", len(word)/3+2
	for _, c := range candidates {
		if len(c) < 2 {
			continue
		}
		d := distance(word, c)
		if len(word) > 2 && strings.HasPrefix(c, word) {
			d = 1
		}
		if d < least || d == least && c < best {
			best, least = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s%s?", prefix, best)
}

// distance returns the edit distance between a and b: the minimum number of bytes to
// insert, delete or replace.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}
