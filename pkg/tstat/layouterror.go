package tstat

import (
	"fmt"
	"strconv"
	"strings"
)

// LayoutError reports a file without header whose number of columns matches no known
// version, or more than one.
type LayoutError struct {
	Type  *LogType
	Line  int64    // number of the first data line, from 1
	Count int      // number of columns in the lines
	Fits  []string // versions with that many columns
}

func (e *LayoutError) Error() string {
	if len(e.Fits) > 1 {
		return fmt.Sprintf("line %d: no header, and several versions of %s have %d columns", e.Line, e.Type.Name, e.Count)
	}
	var known []string
	for _, n := range e.Type.Counts() {
		known = append(known, strconv.Itoa(n))
	}
	return fmt.Sprintf("not a %s of Tstat: line %d: no header, and %d columns are none of %s's (known: %s)",
		e.Type.Name, e.Line, e.Count, e.Type.Name, strings.Join(known, ", "))
}

// Hint returns a possible remedy.
func (e *LayoutError) Hint() string {
	if len(e.Fits) > 1 {
		return "name the version: `layout` " + strings.Join(e.Fits, " or ")
	}
	return "is it a " + e.Type.Name + "? if so, its first line may be damaged"
}

// NewColumnsError reports that a later header of the file has unknown columns that
// ReaderOptions.Extra lacks. The caller must read the file again with ReaderOptions.Extra
// set to the Extra of the error.
type NewColumnsError struct{ Extra []string }

func (e *NewColumnsError) Error() string {
	return "a later header has further unknown columns: " + strings.Join(e.Extra, ", ")
}
