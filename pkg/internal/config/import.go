package config

import (
	"cmp"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/completion"
	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/legacy"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
	"github.com/tstatrepo/tstatrepo/pkg/internal/repository"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
	"github.com/tstatrepo/tstatrepo/pkg/internal/upkeep"
)

// Import holds the settings that import-bulk and [collect-log] share: those for selecting
// logs, for destinations and for the MATH repository.
type Import struct {
	To []string
	Selection
	Layout       string
	Poll         Duration
	RetryTimeout Duration

	Anonymization
	Rows

	Jobs       int
	Memory     Size
	Rate       float64
	MaxRejects int

	Network
	AllowCallback []string
	FolderLength  Duration
	Adopt         string

	Keep    Duration
	Compact bool
}

func defaultImport() Import {
	return Import{
		Selection: defaultSelection(),
		// Long enough for a restart of a server.
		RetryTimeout: Duration(5 * time.Minute),
		Poll:         Duration(bulk.DefaultPoll),
		Memory:       300 << 20,
		MaxRejects:   bulk.DefaultMaxRejects,
		FolderLength: Duration(mathproto.DefaultFolderLength),
	}
}

// GroupNetwork is the help group of connection settings.
const GroupNetwork = "Network"

const (
	groupDestination    = "Destination"
	groupMATHRepository = "MATH repository"
	groupMATHProbe      = "MATH probe"
	groupSource         = "Source"
	groupTransform      = "Transform"
	groupLimits         = "Limits"
)

func (b *Import) types() *Setting {
	return &Setting{Name: "type", Group: groupSource, Value: &b.Types, Empty: "all", Complete: logTypes,
		Usage: "import log types that match `GLOB`, like 'log_tcp_*'"}
}

func (b *Import) since() *Setting {
	return &Setting{Name: "since", Group: groupSource, Value: &b.Since,
		Usage: "import log folders that start at `TIME` or later: " + timeForms}
}

func (b *Import) timezone() *Setting {
	return &Setting{Name: "timezone", Group: groupSource, Value: &b.Timezone, Complete: completion.Zones,
		Usage: "read folder names, --since and --until in time zone `ZONE`: Local, UTC or like Europe/Rome"}
}

func (b *Import) layout() *Setting {
	return &Setting{Name: "layout", Group: groupSource, Value: &b.Layout, Empty: "by the header or the number of columns", Complete: logLayouts,
		Usage: "read logs without a header as logs of Tstat `VERSION`"}
}

func (b *Import) poll() *Setting {
	return &Setting{Name: "poll", Group: groupSource, Value: &b.Poll,
		Usage: "with --follow: look for new folders every `DURATION`; a MATH repository asks its probes as often"}
}

// retention returns the settings for removing old rows and compacting stores.
func (b *Import) retention() []*Setting {
	return []*Setting{
		{Name: "keep", Group: groupDestination, Value: &b.Keep, Empty: "rows are kept",
			Usage: "with --follow or --listen: remove rows of days that ended more than `DURATION` ago, like 400d, at the start and daily; see store prune"},
		{Name: "compact", Group: groupDestination, Value: &b.Compact,
			Usage: "with --follow or --listen: merge the files of closed days in parquet: stores, at the start and daily; see store compact"},
	}
}

// limits returns the settings that limit the resources and errors of an import.
func (b *Import) limits() []*Setting {
	return []*Setting{
		{Name: "jobs", Group: groupLimits, Value: &b.Jobs, Empty: "all CPUs; with MATH or a database, at most 4 logs at a time",
			Usage: "use `N` CPUs, for N logs at a time or for parts of large logs"},
		{Name: "memory", Group: groupLimits, Value: &b.Memory,
			Usage: "use about `SIZE` of memory"},
		{Name: "rate", Group: groupLimits, Value: &b.Rate, Empty: "no limit",
			Usage: "read at most `MIBPS` MiB of text per second"},
		{Name: "max-rejects", Group: groupLimits, Value: &b.MaxRejects,
			Usage: "refuse a log with more than `N` rejects if they are more than 1 % of its lines; always refuse a log with rejects and no row"},
	}
}

// math returns the settings for fetching logs from MATH probes.
func (b *Import) math() []*Setting {
	return []*Setting{
		{Name: "allow-callback", Group: groupMATHRepository, Value: &b.AllowCallback, Empty: "the address that registered the stream",
			Usage: "fetch logs only from addresses in `NETWORK`, like 10.0.0.0/8"},
		{Name: "folder-length", Group: groupMATHRepository, Value: &b.FolderLength,
			Usage: "assume that Tstat writes to a folder for `DURATION`, for MATH probes that also list growing logs"},
	}
}

func (b *Import) adopt() *Setting {
	return &Setting{Name: "adopt", Group: groupMATHRepository, Value: &b.Adopt, Complete: "dir", Empty: "none",
		Usage: "take over streams and stored logs from DBStream's math_repo, whose outDir is `DIR`; see tstatrepo-migrate(7)"}
}

// importSchemes returns the URL schemes of stores and MATH repositories, for completion
// and error messages.
func importSchemes() dest.Schemes {
	return append(stores.Schemes(), "math://host:port", "math+tls://host:port")
}

// check checks the settings and returns them as options.
func (b *Import) check(p *Problems) bulk.Options {
	if len(b.To) == 0 {
		p.add("to", "must name a destination")
	}
	for i, to := range b.To {
		bare, _, _ := stores.SplitTransform(to)
		if slices.ContainsFunc(b.To[:i], func(o string) bool { o, _, _ = stores.SplitTransform(o); return o == bare }) {
			p.add("to", "names %s twice", dest.Redact(to))
			continue
		}
		if mathproto.IsURL(to) {
			continue // checked by Math
		}
		err := importSchemes().CheckPath(to)
		if err == nil {
			err = stores.Check(to)
		}
		p.destination("to", to, err)
	}
	opt := b.Selection.check(p)
	opt.Layout, opt.Poll, opt.Rate, opt.MaxRejects = b.Layout, time.Duration(b.Poll), b.Rate, b.MaxRejects
	opt.RetryTimeout = time.Duration(b.RetryTimeout)
	opt.Anonymize, opt.SourceIs = b.Anonymization.check(p, b.To...)
	opt.Anonymizers = checkStores(p, b.To, opt.Anonymize)
	opt.Selection = b.Rows.check(p, b.To)
	atLeast(p, "retry-timeout", b.RetryTimeout, 0)
	atLeast(p, "poll", b.Poll, Duration(100*time.Millisecond))
	atLeast(p, "memory", b.Memory, 64<<20)
	if b.Keep != 0 {
		atLeast(p, "keep", b.Keep, Duration(24*time.Hour))
	}
	within(p, "jobs", b.Jobs, 0, 1024)
	within(p, "max-rejects", b.MaxRejects, 0, 1<<31-1)
	within(p, "rate", b.Rate, 0, 1e5)
	return opt
}

// maxTransfers is the default limit on concurrently imported files, if each file needs a
// connection to a database or a probe.
const maxTransfers = 4

// files returns the number of files to import concurrently. The parameter
// fetched says whether the files come from MATH probes.
func (b *Import) files(fetched bool) int {
	cpus := runtime.GOMAXPROCS(0) // respects the limit of a cgroup
	if fetched || slices.ContainsFunc(b.To, func(to string) bool { return !stores.InFolder(to) }) {
		cpus = min(cpus, maxTransfers)
	}
	return cmp.Or(b.Jobs, cpus)
}

// Math holds the MATH options of a repository, of a probe, or of an import that fetches
// logs from a probe.
type Math struct {
	Listeners []peer.Options
	Callback  peer.Networks
	To        mathproto.URL // where the probe registers
}

// checkMath checks the settings that all uses of MATH share, and returns them as options.
// It leaves Math.To empty.
func (b *Import) checkMath(p *Problems) (m Math) {
	m.Listeners = b.Network.listeners(p)
	var err error
	if m.Callback, err = peer.ParseNetworks(b.AllowCallback); err != nil {
		p.add("allow-callback", "%v", err)
	}
	atLeast(p, "folder-length", b.FolderLength, Duration(time.Minute))
	return m
}

// Upkeep returns the options for removing old rows and compacting stores.
func (b *Import) Upkeep(log *slog.Logger) upkeep.Options {
	return upkeep.Options{To: b.To, Keep: time.Duration(b.Keep), Compact: b.Compact, RetryTimeout: time.Duration(b.RetryTimeout), Log: log}
}

// Repository returns the options of a MATH repository that imports logs with opt. Its
// state file has the given name in the state folder.
func (b *Import) Repository(m Math, opt bulk.Options, file string) (repository.LogsOptions, error) {
	opt.Sources, opt.RetryTimeout = nil, math.MaxInt64
	one := opt // the imports of all streams use the same options
	one.Remote = make([]bulk.Source, 1)
	return repository.LogsOptions{
		Math: mathproto.RepositoryOptions{
			Listen: m.Listeners, TLS: b.TLS(), AllowCallback: m.Callback, FolderLength: time.Duration(b.FolderLength),
			Import: opt, Log: opt.Log, State: filepath.Join(opt.StateDir, file),
		},
		Stores: repository.StoreOptions{
			To: b.To, Memory: int64(b.Memory), Jobs: opt.Jobs, Cores: b.Jobs, Wants: opt.Wants, Since: opt.Since,
			Log: opt.Log,
		},
		Upkeep: b.Upkeep(opt.Log),
	}, one.Validate()
}

// Adopted adds the streams of the old tool math_repo, with their state, to the options
// that Repository returned. It does nothing unless b.Adopt names math_repo's folder.
func (b *Import) Adopted(logs *repository.LogsOptions) error {
	if b.Adopt == "" {
		return nil
	}
	st, err := legacy.ReadState(b.Adopt)
	if errors.Is(err, fs.ErrNotExist) {
		st, err = &legacy.State{}, nil // math_repo never ran, or its folder was removed
	}
	if err != nil {
		return hint.AsUsage(err)
	}
	for _, n := range st.Notes {
		logs.Math.Log.Warn("state of math_repo not used", "file", n.Place(), "key", n.Key, "reason", n.Text)
	}
	logs.Stores.Adopt = map[string]store.Adoption{}
	for _, s := range st.Streams {
		if s.Registered != nil {
			logs.Math.Adopt = append(logs.Math.Adopt, *s.Registered)
		}
		logs.Stores.Adopt[s.Name] = store.Adoption{Location: logs.Math.Import.Location, Copied: s.Copied, Stored: s.Stored}
	}
	return nil
}
