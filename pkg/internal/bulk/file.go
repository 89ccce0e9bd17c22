package bulk

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
	"github.com/tstatrepo/tstatrepo/pkg/internal/filter"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// importFile imports t's file into every store that lacks it. It starts over if the file
// changed or another import stored it during the attempt, if a later header adds columns,
// or if a store returns store.ErrReread. importFile waits while no store is available.
func (r *run) importFile(ctx context.Context, t *task) error {
	var extra []string
	for try := 1; ; {
		err := r.tryFile(ctx, t, extra)
		var nc *tstat.NewColumnsError
		switch {
		case err == nil || t.stdin || ctx.Err() != nil:
			return err
		case errors.As(err, &nc) && try < maxTries:
			extra = nc.Extra
			try++
		case (errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrReread)) && try < maxTries:
			try++
		case errors.Is(err, store.ErrUnavailable):
			if err := r.await(ctx, r.allStores()); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// maxTries is the maximum number of attempts to import a file. Attempts that failed
// because no store was available do not count.
const maxTries = 16

// tryFile reads a file into every available store that lacks it. extra lists the columns
// that only later headers have. tryFile turns a panic into an error for this file, so
// that other files are still imported.
func (r *run) tryFile(ctx context.Context, t *task, extra []string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("internal error, please report it: %v\n%s", p, debug.Stack())
		}
	}()
	peerName := ""
	if r.opt.Peer != nil {
		peerName = r.opt.Peer()
	}
	place, err := r.limits.enter(ctx, peerName)
	if err != nil {
		return err
	}
	defer place.close()
	var file *Content
	if !t.stdin {
		// While a slow peer opens the file, others may use the place.
		if file, err = t.open(ctx); errors.Is(err, fs.ErrNotExist) {
			r.vanished(t)
			return nil
		}
		if err != nil {
			return err
		}
		defer file.Close()
		// From here on the task describes the open file, even if
		// another file takes its name.
		t.size, t.mtime = file.Size, file.ModTime
		if t.remote != nil {
			file.ReadSeekCloser = newPeerFile(ctx, file.ReadSeekCloser, place)
		}
	}
	if err := place.Acquire(ctx); err != nil {
		return err
	}
	rd := r.readers.Get().(*tstat.Reader)
	defer r.readers.Put(rd)
	im := &fileImport{run: r, ctx: ctx, task: t, rd: rd, file: file, idle: place.close, anonymize: r.opt.Anonymize, progress: r.opt.Progress}
	if t.stdin {
		im.in = bufio.NewReaderSize(interruptible(ctx, r.opt.Stdin), peekSize)
	}
	if wanted, err := im.identify(); !wanted || err != nil {
		return err
	}
	if !im.hasTargets() {
		im.skip(t)
		return nil
	}
	// Each transform of the text is read separately.
	targets, groups := im.targets, im.byTransform()
	if t.stdin && len(groups) > 1 {
		return hint.Usage("standard input cannot be stored under several transforms", "read it from a file")
	}
	var errs []error
	for i, group := range groups {
		im.targets, im.anonymize = group, group[0].anonymize
		if im.idle = func() {}; i == len(groups)-1 {
			im.idle = place.close
		}
		if im.hasTargets() {
			err := im.importText(extra)
			if err != nil && !slices.ContainsFunc(errs, func(o error) bool { return o.Error() == err.Error() }) {
				errs = append(errs, err) // an error of the file itself is the same for each text
			}
			im.progress = noProgress{} // the bytes are counted once
		}
	}
	im.targets = targets
	err = errors.Join(errs...)
	if im.found && err == nil {
		im.skip(t)
	}
	return err
}

// importText imports the file into im.targets, which must all get the same text. For
// extra, see tryFile.
func (im *fileImport) importText(extra []string) error {
	r, ctx, t := im.run, im.ctx, im.task
	if !t.stdin {
		// Often the text was only moved or compressed. Then comparing
		// it is enough.
		if done, err := im.compare(); done || err != nil {
			return err
		}
	}
	if r.opt.DryRun {
		if !t.counted {
			r.log.Info("would import", "file", t.path, "size", t.size)
			r.countOnce(t, func(s *TypeSummary) { s.Files++; s.Bytes += t.size })
		}
		return nil
	}
	err := im.read(extra, false)
	var nc *tstat.NewColumnsError
	if err != nil && im.hasRaw() && !t.stdin && im.anonymize == nil && !errors.As(err, &nc) && !errors.Is(err, ErrSource) && !isAboutContent(err) && ctx.Err() == nil {
		err = errors.Join(err, im.read(nil, true)) // a file that is not a log can be copied
	}
	if !im.hasTargets() {
		err = nil // the failures explain why
	}
	return errors.Join(err, im.failures())
}

// identify finds the stores that lack the log. For a log outside of log folders, it
// first derives the folder from the rows. wanted is false if the options do not select
// the log's time.
func (im *fileImport) identify() (wanted bool, err error) {
	t := im.task
	var silent storeSet // stores that cannot list the logs of other probes
	if t.key.Folder == "" {
		if err := im.nameByRows(); err != nil {
			return false, err
		}
		t.named = true
		im.addScanned(t)
	}
	if t.named {
		if !im.inTime(t) {
			return false, nil
		}
		if silent, err = im.lookupElsewhere(im.ctx, []*task{t}); err != nil {
			return false, err
		}
	}
	return true, im.findTargets(silent)
}

// reject identifies a rejected line. store is the index of the store that
// rejected the line, or -1 if the tstat.Reader rejected it.
type reject struct {
	store int
	line  int64
}

// reject returns a function that adds malformed lines to the reject file, each line
// only once even if the log is read again. index is the index of the store that rejects
// the lines, or -1 if the tstat.Reader rejects them.
func (im *fileImport) reject(index int) func(line int64, reason string, text []byte) {
	return func(line int64, reason string, text []byte) {
		t, rej := im.task, reject{index, line}
		im.rejecting.Lock()
		defer im.rejecting.Unlock()
		if im.opt.Anonymizes() {
			text = nil // reasons have no values
		}
		if t.rejected[rej] || !im.rejects.add(t.path, line, reason, text) {
			return
		}
		if t.rejected == nil {
			t.rejected = map[reject]bool{}
		}
		t.rejected[rej] = true
	}
}

// peekSize is the number of bytes at the start of a file outside of log folders that are
// searched for a row with an absolute time.
const peekSize = 1 << 20

// vanished counts a file that is gone although the scan found it. If it is still listed
// after retryAfter, it is tried again: the file may only have been unavailable.
func (r *run) vanished(t *task) {
	t.gone = true
	r.log.Warn("file vanished before it was read", "file", t.path)
	r.count(t, func(s *TypeSummary) { s.Vanished++ })
}

// fileImport is the import of one file.
type fileImport struct {
	*run
	ctx     context.Context
	task    *task
	rd      *tstat.Reader
	file    *Content      // nil for standard input
	in      *bufio.Reader // standard input
	idle    func()        // lets the next file start
	targets []*target

	anonymize *anonymize.Anonymizer // applied to the text that is read; may be nil
	progress  Progress
	found     bool // a store already had a text

	selection *filter.Rows // nil: all rows
	filtered  int64        // rows that were not selected

	rejecting sync.Mutex // guards task.rejected
}

// errEmpty reports an empty file outside of log folders.
var errEmpty = errors.New("is empty")

// errNoTime reports a file that is outside of log folders and has no row with an absolute
// time.
var errNoTime = errors.New("it lies in no log folder, and no row in it has an absolute time")

// nameByRows assigns a file outside of log folders to the log folder whose name is the
// time of the file's first row with an absolute time.
func (im *fileImport) nameByRows() error {
	t := im.task
	var stdin []byte
	if t.stdin {
		var err error
		if stdin, err = im.in.Peek(peekSize); err != nil && err != io.EOF {
			return fmt.Errorf("read standard input: %w", err)
		}
	} else {
		defer im.file.Seek(0, io.SeekStart)
	}
	first := int64(0)
	err := readBatches(im.rd, func(extra []string) (err error) {
		var head io.Reader = bytes.NewReader(stdin)
		if !t.stdin {
			_, err = im.file.Seek(0, io.SeekStart)
			head = io.LimitReader(im.file, peekSize)
		}
		im.rd.Reset(head, t.typ, tstat.ReaderOptions{Location: im.opt.Location, Layout: im.opt.Layout, Extra: extra})
		return err
	}, func(b *tstat.Batch) bool {
		for _, e := range b.Ends() {
			if first = e; e != 0 {
				break
			}
		}
		return first == 0
	})
	if err != nil {
		return fmt.Errorf("%s: %w", t.path, err)
	}
	if _, length := im.rd.Fingerprint(); length == 0 {
		return fmt.Errorf("source %s: %w", t.path, errEmpty)
	}
	if first == 0 {
		return hint.Add(fmt.Errorf("source %s: %w", t.path, errNoTime), "name its folder: `folder` YYYY_MM_DD_HH_MM.out")
	}
	utc := time.UnixMicro(first).UTC().Truncate(time.Minute)
	if err := im.name(t, tstat.FolderName(utc)); err != nil {
		return err
	}
	t.time = tstat.FolderTime{Time: utc, Latest: utc} // the folder name is in UTC, not in the probe's zone
	return nil
}

// typ returns the file's log type. If the type is unknown, only the field Name of the
// result is set.
func (im *fileImport) typ() *tstat.LogType {
	if im.task.typ != nil {
		return im.task.typ
	}
	return &tstat.LogType{Name: im.task.key.File}
}
