package parquet

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/metadata"

	"github.com/tstatrepo/tstatrepo/pkg/internal/losslessjson"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// RecordsKey is the footer's metadata key for the records of the source files. The value
// is a JSON array of store.Record.
const RecordsKey = "tstatrepo.records"

// replacesKey is the footer's metadata key for the records that the file replaces. The
// value is a JSON array of their Text identifiers; see store.Record.Text. If a crash
// leaves both the old and the new file, this list shows which file is newer.
const replacesKey = "tstatrepo.replaces"

// footer is tstatrepo's metadata in a file's footer.
type footer struct {
	Records  []store.Record // in the order of their rows
	Replaces []string       // texts that the last record replaces, see store.Record.Text
	Rows     int64          // of the whole file
}

// textsOf returns the records' Text identifiers.
func textsOf(records []store.Record) []string {
	var texts []string
	for _, r := range records {
		texts = append(texts, r.Text())
	}
	return texts
}

// errNoRecords reports that a file was written by another program.
var errNoRecords = errors.New("its footer has no " + RecordsKey)

// isReadError reports whether err means that a file could not be read because of the file
// system or a newer format. Other errors mean that the file's content is invalid.
func isReadError(err error) bool {
	var e *fs.PathError
	return errors.As(err, &e) || errors.Is(err, state.ErrNewer)
}

// recoverDamage turns a panic into an error. arrow-go panics on some damaged footers and
// pages.
func recoverDamage(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("it is damaged: %v", p)
	}
}

func readFooter(path string) (f footer, err error) {
	defer recoverDamage(&err)
	r, err := file.OpenParquetFile(path, false)
	if err != nil {
		return footer{}, err
	}
	defer r.Close()
	return parseFooter(path, r.MetaData())
}

func parseFooter(path string, m *metadata.FileMetaData) (footer, error) {
	f := footer{Rows: m.NumRows}
	meta := m.KeyValueMetadata()
	if value := meta.FindValue(formatKey); value != nil {
		n, err := strconv.Atoi(*value)
		if err == nil {
			err = state.CheckFormat(path, n, format)
		}
		if err != nil {
			return f, err
		}
	}
	value := meta.FindValue(RecordsKey)
	if value == nil {
		return f, errNoRecords
	}
	if err := losslessjson.Unmarshal([]byte(*value), &f.Records); err != nil {
		return f, fmt.Errorf("%s: %w", RecordsKey, err)
	}
	if len(f.Records) == 0 {
		return f, errNoRecords
	}
	if value := meta.FindValue(replacesKey); value != nil {
		if err := losslessjson.Unmarshal([]byte(*value), &f.Replaces); err != nil {
			return f, fmt.Errorf("%s: %w", replacesKey, err)
		}
	}
	return f, nil
}
