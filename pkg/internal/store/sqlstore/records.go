package sqlstore

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// Names of the tables that do not hold log rows.
const (
	FilesTable  = "tstatrepo_files"  // records
	ClaimsTable = "tstatrepo_claims" // see store.Claimer
)

// ValidKey reports whether k can be stored in a table of records.
func ValidKey(k store.Key) bool {
	s := k.String()
	return utf8.ValidString(s) && !strings.Contains(s, "\x00")
}

// CheckKey returns an error unless k can be stored in a table of records and has a valid
// probe name.
func CheckKey(k store.Key) error {
	if !ValidKey(k) {
		return fmt.Errorf("%q: the name is not valid UTF-8", k.String())
	}
	return store.ValidProbe(k.Probe)
}

// Clean returns s with NUL and invalid UTF-8 replaced by U+FFFD. Use it only for values
// that no program parses.
func Clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

type transientError struct{ err error }

// Transient marks an error as store.ErrUnavailable and store.ErrTransient.
func Transient(err error) error { return &transientError{err} }

func (e *transientError) Error() string { return "store unavailable: " + e.err.Error() }

func (e *transientError) Unwrap() []error {
	return []error{e.err, store.ErrUnavailable, store.ErrTransient}
}
