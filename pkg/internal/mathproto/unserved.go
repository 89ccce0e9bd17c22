package mathproto

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// Limits on the messages about logs that are not served.
const (
	keptUnserved  = 10_000 // names and errors that were already logged
	namedUnserved = 5      // names in a message
)

// reportUnserved logs what tree has, but the exporter does not serve: parts of the folder
// that cannot be read, names that look like logs, and links that lead out of the folder.
// It reports each name and error once, but may repeat one after keptUnserved others. The
// caller must hold p.mu.
func (p *Exporter) reportUnserved(tree *tstat.Tree, links []string) {
	for _, err := range tree.Errors {
		if p.isUnreported("error " + err.Error()) {
			p.log.Error("part of the source cannot be read", append([]any{"source", p.opt.Dir, "err", err}, hint.Attrs(err)...)...)
		}
	}
	links = slices.DeleteFunc(links, func(name string) bool { return !p.isUnreported("link " + name) })
	if len(links) > 0 {
		p.log.Warn("logs left out: links lead out of the folder", "source", p.opt.Dir, "logs", len(links), "examples", someOf(links))
	}
	var files, folders int
	var names []string
	for _, o := range tree.Passed {
		at := cmp.Or(o.Time, time.Now()) // a folder has no time
		if !slices.ContainsFunc(o.Types, func(t string) bool { return p.opt.Wants(t, at) }) || !p.isUnreported("name "+o.Path) {
			continue
		}
		names = append(names, o.Path)
		if o.Folder {
			folders++
		} else {
			files++
		}
	}
	if len(names) > 0 {
		p.log.Warn("passed over names that look like logs", "source", p.opt.Dir, "files", files, "folders", folders, "examples", someOf(names))
	}
}

// isUnreported reports whether text was not passed to it before.
func (p *Exporter) isUnreported(text string) bool {
	if p.unserved[text] {
		return false
	}
	if len(p.unserved) == keptUnserved || p.unserved == nil {
		p.unserved = map[string]bool{}
	}
	p.unserved[text] = true
	return true
}

// isLinkOut reports whether err says that a link leads out of a folder.
func isLinkOut(err error) bool {
	var pe *fs.PathError
	return errors.As(err, &pe) && pe.Err.Error() == "path escapes from parent"
}

// someOf returns the first names in a list, for a message.
func someOf(names []string) string {
	text := strings.Join(names[:min(len(names), namedUnserved)], ", ")
	if n := len(names) - namedUnserved; n > 0 {
		text = fmt.Sprintf("%s and %d more", text, n)
	}
	return text
}
