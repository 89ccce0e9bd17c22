package bulk

import (
	"errors"
	"fmt"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// checkDamage rejects a damaged compressed file unless Options.AcceptDamaged is set.
// Any of its rows may be wrong, and an intact copy may exist elsewhere.
func (im *fileImport) checkDamage() error {
	if err := im.rd.Damage(); err != nil && !im.opt.AcceptDamaged {
		return hint.Add(fmt.Errorf("%w: %w", errDamaged, err), "fetch the file again; `accept-damaged` stores its good part")
	}
	return nil
}

var errDamaged = errors.New("damaged, not stored")

// keepIntact handles a damaged file whose complete log is already stored. rec is the
// record of that log. With Options.AcceptDamaged, keepIntact warns that the stored log is
// kept. Otherwise it returns an error.
func (im *fileImport) keepIntact(to fmt.Stringer, rec *store.Record) error {
	if err := im.checkDamage(); err != nil {
		return err
	}
	im.log.Warn("compressed file is damaged; the whole log stored before is kept", "file", im.task.path, "store", to.String(),
		"rows", rec.Rows, "read_before_from", rec.Path, "err", im.rd.Damage())
	return nil
}

// isAboutContent reports whether err means that no store may accept the file as
// it is.
func isAboutContent(err error) bool { return errors.Is(err, errDamaged) }

// checkRows rejects a file with too many rejected lines, or with content but no rows.
func (im *fileImport) checkRows() error {
	c := im.rd.Counts()
	rejected := int64(0) // rejects in the store with the most rejects
	for _, g := range im.targets {
		if g.err == nil {
			rejected = max(rejected, g.rejected)
		}
	}
	c.Rejects += rejected
	switch {
	case c.Rejects > 0 && c.Rows == rejected, c.Rows == 0 && !im.rd.CutIsText():
		return noRows(c.Rejects, c.Lines)
	case c.Rejects > int64(im.opt.MaxRejects) && c.Rejects*100 > c.Lines:
		return hint.New(fmt.Sprintf("%d of %d lines rejected: file not stored", c.Rejects, c.Lines),
			"the reject file says why; `max-rejects` allows more")
	}
	return nil
}

// noRows returns the error for a file with content but no rows.
func noRows(rejects, lines int64) error {
	const remove = "remove the file, or leave it out with `exclude`"
	if rejects == 0 {
		return hint.New("no line, and its text is not that of a log: file not stored", remove)
	}
	return hint.New(fmt.Sprintf("none of %d lines is a row: file not stored", lines), "the reject file says why; "+remove)
}

// warnTruncated warns that the end of a compressed file is missing, unless
// Tstat may still write to the file.
func (im *fileImport) warnTruncated() {
	if im.rd.Truncated() && !im.task.growing {
		im.log.Warn("compressed file is truncated: its readable part is stored", "file", im.task.path, "rows", im.rd.Counts().Rows)
	}
}
