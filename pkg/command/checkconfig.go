package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
)

// openTimeout is how long --check-config waits for a store to open.
const openTimeout = 10 * time.Second

// places lists what the settings of a command read and write.
type places struct {
	sources []string // files and folders to read
	stores  []string // destinations of import-bulk
	sinks   []string // destinations of stream and rrd-push
}

// places returns what the command of c reads and writes.
func (c *config) places() (p places) {
	follow := func(s *streamCmd) {
		for _, text := range s.follow {
			p.sources = append(p.sources, s.root(text).Dir)
		}
		p.sinks = slices.Concat(p.sinks, s.to, s.toOptional)
	}
	switch c.command {
	case "import-bulk":
		p.sources, p.stores = c.importBulk.sources, c.importBulk.to
	case "stream":
		follow(&c.stream)
	case "rrd-push":
		p.sources, p.sinks = c.rrdPush.sources, []string{c.rrdPush.to}
	case "store":
		p.sources = c.store.against
	case "serve":
		p.sources = append([]string{c.probe.logFolder, c.probe.rrdFolder}, c.probe.folders...)
		if len(c.serve.collectLog.network.listen) > 0 {
			p.stores = c.serve.collectLog.to
		}
		if len(c.serve.collectStreaming.listen) > 0 {
			follow(&c.serve.collectStreaming)
		}
		if len(c.serve.collectRRD.network.listen) > 0 {
			p.sinks = append(p.sinks, c.serve.collectRRD.to)
		}
	}
	return p
}

// checkPlaces returns an error for each source that is missing, each store that
// cannot be opened and each folder that cannot be created. It creates nothing.
func (c *config) checkPlaces(ctx context.Context, con *console.Console) error {
	p := c.places()
	var errs []error
	add := func(err error) {
		if err != nil && !durable.IsTransient(err) && !errors.Is(err, store.ErrUnavailable) {
			err = hint.AsUsage(err)
		}
		errs = append(errs, err)
	}
	for _, src := range p.sources {
		if src == "" || src == "-" || mathproto.IsURL(src) {
			continue
		}
		if _, err := os.Stat(src); err != nil {
			add(dest.MissingSource(src, err, ""))
		}
	}
	for _, to := range slices.Concat(p.stores, p.sinks) {
		if dir := folderOf(to); dir != "" {
			if err := checkFolder(dir); err != nil {
				add(err)
				continue
			}
		}
		if mathproto.IsURL(to) || !slices.Contains(p.stores, to) {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, openTimeout)
		st, err := stores.Open(ctx, to, stores.Options{ReadOnly: true, Log: con.Logger()})
		cancel()
		if err == nil {
			st.Close()
		}
		add(err)
	}
	return errors.Join(errs...)
}

// checkFolder returns why a folder cannot be written or created.
func checkFolder(dir string) error {
	at, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	info, err := os.Stat(at)
	for (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)) && at != filepath.Dir(at) {
		at = filepath.Dir(at)
		info, err = os.Stat(at)
	}
	switch {
	case err != nil:
	case !info.IsDir():
		err = fmt.Errorf("%s is not a folder", at)
	default:
		if err = unix.Access(at, unix.W_OK|unix.X_OK); err != nil {
			err = fmt.Errorf("%s: %w", at, err)
		}
	}
	if err != nil {
		return fmt.Errorf("folder %s cannot be written: %w", dir, err)
	}
	return nil
}
