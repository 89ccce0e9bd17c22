package config

import (
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/completion"
	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Values of Setting.Complete that stand for words of the log types. Completion looks
// the words up, because parsing the log types would delay the start of every command.
const (
	logTypes   = "<log types>"
	logColumns = "<columns>"
	logLayouts = "<layouts>"
)

// Completion returns the completion of the value, see package completion.
func (s *Setting) Completion() string {
	switch s.Complete {
	case logTypes:
		return completeTypes()
	case logColumns:
		return completeColumns()
	case logLayouts:
		return completeLayouts()
	}
	return s.Complete
}

// completeTypes returns the completions of a setting whose value is a log type, separated
// by spaces.
func completeTypes() string { return strings.Join(typeNames(), " ") }

// CompleteStores returns the completions of the URL of a store.
func CompleteStores() string { return completeURLs(stores.Schemes()) }

// completeLayouts returns the versions of Tstat whose log layouts are known, separated by
// spaces.
func completeLayouts() string {
	var words []string
	for _, t := range tstat.Types() {
		words = append(words, t.Versions()...)
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), " ")
}

// completeURLs returns the completions of a setting whose value is a folder or a URL:
// completion.Dir and the prefixes of s.
func completeURLs(s dest.Schemes) string {
	return completion.Dir + " " + strings.Join(s.Prefixes(), " ")
}

// completeColumns returns the names of the columns of all log types, separated by spaces.
func completeColumns() string {
	var words []string
	for _, t := range tstat.Types() {
		for _, c := range slices.Concat(t.Columns, t.Optional) {
			words = append(words, c.Name)
		}
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), " ")
}
