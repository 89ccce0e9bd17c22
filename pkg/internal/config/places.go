package config

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/durable"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
)

// openTimeout is how long CheckPlaces waits for a store to open.
const openTimeout = 10 * time.Second

// places lists the files, folders and URLs that a command reads from and writes to.
type places struct {
	sources []string // files and folders to read
	stores  []string // destinations of import-bulk
	sinks   []string // destinations of stream and rrd-push
	state   string   // folder for state; "" if the command keeps none
}

// places returns the places that c.Command uses.
func (c *Config) places() (p places) {
	if c.Command != "store" && c.Command != "runcap" {
		p.state = c.StateDir
	}
	switch c.Command {
	case "import-bulk":
		p.sources, p.stores = c.ImportBulk.Sources, c.ImportBulk.To
	case "stream":
		for _, text := range c.Stream.Follow {
			p.sources = append(p.sources, c.Stream.root(text).Dir)
		}
		p.sinks = slices.Concat(c.Stream.To, c.Stream.ToOptional)
	case "rrd-push":
		p.sources, p.sinks = c.RRDPush.Sources, []string{c.RRDPush.To}
	case "store":
		p.sources = c.Store.Against
	case "serve":
		p.sources = append([]string{c.Probe.LogFolder, c.Probe.RRDFolder}, c.Probe.Folders...)
		if s := &c.Serve.CollectLog; len(s.Listen) > 0 {
			p.stores = s.To
		}
		if s := &c.Serve.CollectStreaming; len(s.Listen) > 0 {
			p.sinks = slices.Concat(s.To, s.ToOptional)
		}
		if s := &c.Serve.CollectRRD; len(s.Listen) > 0 {
			p.sinks = append(p.sinks, s.To)
		}
	}
	return p
}

// CheckPlaces returns an error for each source that is missing, each store that
// cannot be opened and each folder that cannot be created. It creates nothing.
func (c *Config) CheckPlaces(ctx context.Context, log *slog.Logger) error {
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
	if p.state != "" {
		if err := checkFolder(p.state); err != nil {
			add(hint.Add(fmt.Errorf("state-dir: %w", err), "name a folder that can be written with `state-dir`"))
		}
	}
	for _, to := range slices.Concat(p.stores, p.sinks) {
		if dir := folderOf(to); dir != "" {
			if err := checkFolder(dir); err != nil {
				add(err)
				continue
			}
		}
		if mathproto.IsURL(to) || stores.IsPrinted(to) || !slices.Contains(p.stores, to) {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, openTimeout)
		st, err := stores.Open(ctx, to, stores.Options{ReadOnly: true, Log: log})
		cancel()
		if err == nil {
			st.Close()
		}
		add(err)
	}
	return errors.Join(errs...)
}

// checkFolder returns an error if a folder cannot be written or created.
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

// absolute adds a problem for each relative path in a section, because the
// working directory of a service is arbitrary.
func absolute(p *Problems, sec Section) {
	sub := &Problems{settings: sec.Settings, section: sec.Name}
	for _, s := range sec.Settings {
		for _, v := range s.Texts() {
			path := v
			switch {
			case s.Name == "to" || s.Name == "to-optional":
				_, mode, _ := stores.SplitTransform(v)
				path = cmp.Or(relativeFile(v), relativeKey(mode), folderOf(v))
			case s.Name == "anonymize":
				path = relativeKey(v)
			case s.Complete != "file" && s.Complete != "dir":
				path = ""
			}
			if path != "" && !filepath.IsAbs(path) {
				sub.add(s.Name, "%s is not an absolute path", path)
			}
		}
	}
	p.errs = append(p.errs, sub.errs...)
}

// fileOptions lists the options of destinations whose values are paths of files. Those
// that begin with "ssl", and passfile, are options of libpq.
var fileOptions = []string{"bearer-token-file", "ca", "cert", "creds", "headers-file", "key", "passfile", "password-file", "schemas",
	"sslcert", "sslkey", "sslrootcert"}

// relativeFile returns the first relative path in the options of a destination, or "".
func relativeFile(text string) string {
	scheme, rest := dest.Split(text)
	_, options, err := dest.ParsePath(rest)
	if err != nil || scheme == "exec" {
		return ""
	}
	for _, name := range fileOptions {
		if f := options[name]; f != "" && !filepath.IsAbs(f) {
			return f
		}
	}
	return ""
}

// folderOf returns the folder that a destination writes to, or "" if it writes to none.
// text is the destination as the user wrote it.
func folderOf(text string) string {
	text, _, _ = stores.SplitTransform(text)
	scheme, rest := dest.Split(text)
	path, _, _ := dest.ParsePath(rest)
	switch {
	case text == "-":
		return ""
	case scheme == "": // a bare path
		return text
	case slices.Contains([]string{"parquet", "copy", "file", "whisper"}, scheme):
		return path
	}
	return ""
}
