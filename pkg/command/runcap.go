package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/config"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/client"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/shell"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

var runcapExamples = []example{
	{"list what the supervisor offers", "tstatrepo runcap --list"},
	{"export the logs of a probe to the repository from now on", "tstatrepo runcap tstat-exporter_log --when 'now + inf' --set repository.url=localhost:3000"},
	{"the same, asking for missing parameters", "tstatrepo runcap tstat-exporter_log"},
	{"list the specifications and their state", "tstatrepo runcap --status"},
	{"stop a specification", "tstatrepo runcap --stop --token tstat-exporter_log-0"},
	{"try an exporter of this probe without a supervisor; Ctrl-C ends it", "tstatrepo runcap --local --config /etc/tstatrepo/tstatrepo.toml tstat-exporter_rrd --when 'now + 1h' --set repository.url=localhost:9000"},
	{"the shell of mPlane", "tstatrepo runcap"},
}

func runcapCommand(con *console.Console) *cli.Command {
	return &cli.Command{
		Name:      "runcap",
		Usage:     "run a capability at an mPlane supervisor",
		ArgsUsage: "[CAPABILITY]",
		Category:  groupProduct,
		Description: "Runs a CAPABILITY, named by label or token, at a supervisor. On a terminal it asks for a missing scope and " +
			"missing parameters. Without a CAPABILITY it starts the |mplane| shell: type help there. With --local it runs a " +
			"capability of serve in this process, without a supervisor.\n\n" +
			"See 'tstatrepo man runcap'.",
		Flags:  commandFlags("runcap"),
		Action: func(c *cli.Context) error { return runRuncap(c, con) },
	}
}

// runcap is one run of the command runcap.
type runcap struct{ *config.Runcap }

// runRuncap runs the runcap command: it starts the shell or performs a single
// action, with options from flags and config.
func runRuncap(c *cli.Context, con *console.Console) error {
	var when *mplane.Scope
	var values map[string]string
	cfg, err := configure(c, con, func(cfg *config.Config, p *config.Problems) {
		when, values = cfg.Runcap.Options(p, c.Args().Slice())
	})
	if cfg == nil {
		return err
	}
	r := runcap{&cfg.Runcap}
	registries, err := mplane.NewRegistries(r.Registries...)
	if err != nil {
		return hint.AsUsage(err)
	}
	open := func(url string) (*client.Client, error) {
		return client.Open(wire.Dialer{URL: url, TLS: r.TLS(), Identity: r.Identity}, registries)
	}
	peer, err := open(r.Supervisor)
	if err != nil {
		return hint.AsUsage(err)
	}
	lines := shell.NewLines(c.Context, c.App.Reader, c.App.Writer)
	sh := &shell.Shell{
		Session: shell.Session{
			Client: peer, Out: c.App.Writer, When: when, Values: values,
			Memory: &shell.Memory{Dir: cfg.StateDir, Registries: registries},
		},
		Open: open,
	}
	defer func() { sh.Client.Close() }()
	lines.Complete = sh.Complete
	if lines.Terminal() {
		sh.Ask = lines.Read
	}
	if c.NArg() == 0 && !r.Asks() {
		return r.shell(c.Context, sh, lines)
	}
	if r.JSON {
		sh.Out = io.Discard // print nothing but the JSON
	}
	ctx := c.Context
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(r.Timeout), errTimeout)
		defer cancel()
	}
	if r.Local {
		err = r.runLocal(ctx, c, con, cfg, &sh.Session)
	} else {
		err = r.once(ctx, c, &sh.Session)
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			err = hint.Add(tryAgainError{err}, "is the supervisor running, and is that its URL?")
		}
	}
	if errors.Is(err, shell.ErrInterrupted) {
		err = interruptError{syscall.SIGINT}
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("not run: the input ended")
	}
	if err != nil && errors.Is(context.Cause(ctx), errTimeout) && ctx.Err() != nil {
		return errTimeout
	}
	return err
}

var errTimeout = tryAgainError{errors.New("no result within --timeout")}

// shell runs the interactive shell when runcap is called without a CAPABILITY.
func (r runcap) shell(ctx context.Context, sh *shell.Shell, lines *shell.Lines) error {
	if r.JSON {
		return hint.Usagef("--json: the shell does not print messages")
	}
	if err := sh.Retrieve(ctx); err != nil {
		return err
	}
	err := sh.Run(ctx, lines.Read)
	if errors.Is(err, context.Canceled) {
		return ctx.Err()
	}
	return err
}

// once performs the single action that the flags select.
func (r runcap) once(ctx context.Context, c *cli.Context, s *shell.Session) error {
	out := c.App.Writer
	switch {
	case r.Status && r.Token == "":
		return r.printJobs(ctx, out, s)
	case r.Stop:
		return r.report(ctx, out, s.Stop)
	case r.Result && r.Wait:
		return r.report(ctx, out, s.Wait)
	case r.Status, r.Result:
		return r.report(ctx, out, s.Redeem)
	}
	if err := s.Retrieve(ctx); err != nil {
		return err
	}
	if r.List || r.Show != "" {
		return r.printCapabilities(out, s)
	}
	return r.run(ctx, out, s, c.Args().First())
}

// printCapabilities prints all capabilities, or the one named by --show.
func (r runcap) printCapabilities(out io.Writer, s *shell.Session) error {
	switch {
	case r.List && r.JSON:
		e := &mplane.Envelope{}
		for _, c := range s.Capabilities() {
			e.Messages = append(e.Messages, c)
		}
		return printMessage(out, e)
	case r.List:
		list := s.Capabilities()
		slices.SortStableFunc(list, func(a, b *mplane.Statement) int { return strings.Compare(a.Label, b.Label) })
		shell.List(out, list)
		return nil
	}
	capability, err := s.Capability(r.Show)
	if err != nil {
		return err
	}
	return r.print(out, capability)
}

// specify returns a specification for the capability with the given label or token.
func (r runcap) specify(s *shell.Session, name string) (*mplane.Statement, error) {
	capability, err := s.Capability(name)
	if err != nil {
		return nil, hint.Add(err, "'tstatrepo runcap --list' lists them")
	}
	if err := checkValues(capability, s.Values); err != nil {
		return nil, err
	}
	return s.Specify(capability, r.Label)
}

// checkValues returns a usage error if one of the values given with --set would have no
// effect, because the capability has no such parameter or allows only another value.
func checkValues(capability *mplane.Statement, values map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		i := slices.IndexFunc(capability.Parameters, func(f mplane.Field) bool { return f.Name == name })
		if i < 0 {
			return hint.Usagef("--set %s: %s has no such parameter", mplane.Visible(name), mplane.Visible(capability.Label))
		}
		f := capability.Parameters[i]
		constraint, err := mplane.ParseConstraint(f.Type, f.Text)
		if err != nil {
			return err
		}
		value, err := f.Type.Canonical(values[name])
		if only, single := constraint.Single(); single && (err != nil || value != only) {
			return hint.Usagef("--set %s: %s allows only %s", name, mplane.Visible(capability.Label), mplane.Visible(only))
		}
	}
	return nil
}

// run runs the capability with the given label or token.
func (r runcap) run(ctx context.Context, out io.Writer, s *shell.Session, name string) error {
	spec, err := r.specify(s, name)
	if err != nil {
		return err
	}
	reply, err := s.Run(ctx, spec)
	if err != nil {
		return err
	}
	if reason := shell.Failed(reply); reason == "" && !r.JSON {
		fmt.Fprintln(out, "ok")
	}
	if r.Wait && shell.Failed(reply) == "" {
		if reply, err = s.Wait(ctx, spec.ID()); err != nil {
			return err
		}
	}
	return r.printReply(out, reply, r.Wait)
}

// report passes the job token r.Token to ask, which queries or stops the job. It then
// prints the reply.
func (r runcap) report(ctx context.Context, out io.Writer, ask func(context.Context, string) (mplane.Message, error)) error {
	m, err := ask(ctx, r.Token)
	if err != nil {
		return err
	}
	return r.printReply(out, m, true)
}
