package config

import (
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/completion"
	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Values of Setting.Complete that stand for lists of words from the log types. Completion
// replaces them with the words. If Setting.Complete held the words itself, every command
// would have to parse the log types at its start.
const (
	logTypes   = "<log types>"
	logColumns = "<columns>"
	logLayouts = "<layouts>"
)

// Completion says how to complete the setting's value, in the form of
// completion.Flag.Complete.
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

// completeTypes returns the names of the log types, separated by spaces.
func completeTypes() string { return strings.Join(typeNames(), " ") }

// CompleteStores says how to complete the URL of a store, in the form of
// completion.Flag.Complete.
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

// completeURLs says how to complete a folder or a URL, in the form of
// completion.Flag.Complete.
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
