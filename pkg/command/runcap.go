package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/client"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/shell"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// runcap holds the settings of runcap.
type runcap struct {
	network
	supervisor string
	identity   string
	registries []string
	when       string
	set        []string
	label      string
	wait       bool
	local      bool
	timeout    duration
	list       bool
	show       string
	status     bool
	stop       bool
	result     bool
	token      string
	json       bool
}

func defaultRuncap() runcap { return runcap{supervisor: "http://127.0.0.1:8890/"} }

// settings is the table of flags and keys, in the order of the help.
func (r *runcap) settings() []*setting {
	const (
		what    = "Specification"
		ask     = "Instead of running"
		reports = "Output"
	)
	own := []*setting{
		{name: "when", group: what, value: &r.when,
			usage: "run in this `SCOPE`, like 'now + 1h', 'now + inf' or 'repeat now + 1d / 1h'"},
		{name: "set", group: what, value: &r.set,
			usage: "set a parameter, `NAME=VALUE`"},
		{name: "label", group: what, value: &r.label, empty: "the capability's, with -0",
			usage: "`LABEL` of the specification; it gets -0 if it does not end in a number"},
		{name: "wait", group: what, value: &r.wait,
			usage: "wait for the result and print it"},
		{name: "local", group: what, value: &r.local,
			usage: "run a capability that serve would offer with this --config, in this process and without a supervisor, and print its result"},
		{name: "timeout", group: what, value: &r.timeout, empty: "none",
			usage: "wait at most `DURATION`"},

		{name: "list", group: ask, value: &r.list,
			usage: "list the capabilities"},
		{name: "show", group: ask, value: &r.show,
			usage: "show the `CAPABILITY`, a label or token"},
		{name: "status", group: ask, value: &r.status,
			usage: "tell the state of --token, or of everything that was run"},
		{name: "stop", group: ask, value: &r.stop,
			usage: "stop --token"},
		{name: "result", group: ask, value: &r.result,
			usage: "print the result of --token"},
		{name: "token", group: ask, value: &r.token,
			usage: "`TOKEN` of what was run, or its label"},

		{name: "json", group: reports, value: &r.json,
			usage: "print messages as JSON"},

		{name: "supervisor", group: "Network", value: &r.supervisor,
			usage: "`URL` of the supervisor, or of a component that waits for clients"},
		{name: "identity", group: "Network", value: &r.identity, empty: "none, so that the address counts",
			usage: "`NAME` to give to a supervisor without TLS"},
		{name: "registry", group: "Network", value: &r.registries, complete: "file", empty: "the core registry and Tstat's are built in",
			usage: "know the elements of this registry `FILE` too"},
	}
	for _, s := range r.network.settings("") {
		if strings.HasPrefix(s.name, "tls-") {
			own = append(own, s)
		}
	}
	return own
}

var runcapExamples = []example{
	{"list what the supervisor offers", "tstatrepo runcap --list"},
	{"export the logs of a probe to the repository from now on", "tstatrepo runcap tstat-exporter_log --when 'now + inf' --set repository.url=localhost:3000"},
	{"the same, asking for missing parameters", "tstatrepo runcap tstat-exporter_log"},
	{"list what was run, and its state", "tstatrepo runcap --status"},
	{"stop it", "tstatrepo runcap --stop --token tstat-exporter_log-0"},
	{"try an exporter of this probe without a supervisor; Ctrl-C ends it", "tstatrepo runcap --local --config /etc/tstatrepo/tstatrepo.toml tstat-exporter_rrd --when 'now + 1h' --set repository.url=localhost:9000"},
	{"the shell of mPlane", "tstatrepo runcap"},
}

func runcapCommand(con *console.Console) *cli.Command {
	return &cli.Command{
		Name:      "runcap",
		Usage:     "run a capability at an mPlane supervisor",
		ArgsUsage: "[CAPABILITY]",
		Category:  groupProduct,
		Description: "Runs a CAPABILITY, named by label or token, at a supervisor. On a terminal it asks for the scope and the " +
			"parameters that are missing. Without a CAPABILITY it is the |mplane| shell: type help there. With --local it " +
			"needs no supervisor and runs a capability of serve in this process.\n\n" +
			"'tstatrepo man runcap' says more.",
		Flags:  commandFlags("runcap"),
		Action: func(c *cli.Context) error { return runRuncap(c, con) },
	}
}

// runRuncap turns flags and config into a session and does one thing with it.
func runRuncap(c *cli.Context, con *console.Console) error {
	cfg, p, err := loadConfig(c, con)
	if err != nil {
		return err
	}
	r := &cfg.runcap
	when, values := r.check(p, c.Args().Slice())
	if err := p.err(c.Command.Name); err != nil {
		return err
	}
	if done, err := checkOrPrint(c, con, cfg); done {
		return err
	}
	registries, err := mplane.NewRegistries(r.registries...)
	if err != nil {
		return hint.AsUsage(err)
	}
	open := func(url string) (*client.Client, error) {
		return client.Open(wire.Dialer{URL: url, TLS: r.tls(), Identity: r.identity}, registries)
	}
	peer, err := open(r.supervisor)
	if err != nil {
		return hint.AsUsage(err)
	}
	lines := shell.NewLines(c.Context, c.App.Reader, c.App.Writer)
	sh := &shell.Shell{
		Session: shell.Session{
			Client: peer, Out: c.App.Writer, When: when, Values: values,
			Memory: &shell.Memory{Dir: cfg.stateDir, Registries: registries},
		},
		Open: open,
	}
	defer func() { sh.Client.Close() }()
	lines.Complete = sh.Complete
	if lines.Terminal() {
		sh.Ask = lines.Read
	}
	if c.NArg() == 0 && !r.asks() {
		return r.shell(c.Context, sh, lines)
	}
	if r.json {
		sh.Out = io.Discard // single values that are taken
	}
	ctx := c.Context
	if r.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(r.timeout), errTimeout)
		defer cancel()
	}
	if r.local {
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

// errTimeout is --timeout that is over.
var errTimeout = tryAgainError{errors.New("--timeout is over; the result has not come yet")}

// asks tells whether one of the settings replaces a CAPABILITY.
func (r *runcap) asks() bool { return r.list || r.show != "" || r.status || r.stop || r.result }

// check checks the settings.
func (r *runcap) check(p *problems, args []string) (when *mplane.Scope, values map[string]string) {
	if r.when != "" {
		scope, err := mplane.ParseScope(r.when)
		if err != nil {
			p.add("when", "%v", err)
		}
		when = &scope
	}
	values = map[string]string{}
	for _, text := range r.set {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			p.add("set", "%q is not NAME=VALUE", text)
		}
		values[name] = value
	}
	n := len(args)
	for _, asked := range []bool{r.list, r.show != "", r.status, r.stop, r.result} {
		if asked {
			n++
		}
	}
	if n > 1 {
		p.errs = append(p.errs, errors.New("give one of CAPABILITY, --list, --show, --status, --stop and --result"))
	}
	if (r.stop || r.result) && r.token == "" {
		p.add("token", "must name what was run")
	}
	if r.local && (r.status || r.stop || r.result) {
		p.add("local", "has nothing to do with what was run before: give a CAPABILITY, --list or --show")
	}
	if r.local && len(args) == 0 && !r.asks() {
		p.add("local", "needs a CAPABILITY, --list or --show")
	}
	if r.token != "" && !r.stop && !r.result && !r.status {
		p.add("token", "is for --status, --stop and --result")
	}
	atLeast(p, "timeout", r.timeout, 0)
	return when, values
}

// shell is runcap without a CAPABILITY.
func (r *runcap) shell(ctx context.Context, sh *shell.Shell, lines *shell.Lines) error {
	if r.json {
		return usagef("--json: the shell does not print messages")
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

// once does one thing.
func (r *runcap) once(ctx context.Context, c *cli.Context, s *shell.Session) error {
	out := c.App.Writer
	switch {
	case r.status && r.token == "":
		return r.jobs(ctx, out, s)
	case r.stop:
		return r.report(ctx, out, s, s.Stop)
	case r.result && r.wait:
		return r.report(ctx, out, s, s.Wait)
	case r.status, r.result:
		return r.report(ctx, out, s, s.Redeem)
	}
	if err := s.Retrieve(ctx); err != nil {
		return err
	}
	if r.list || r.show != "" {
		return r.offers(out, s)
	}
	return r.run(ctx, out, s, c.Args().First())
}

// offers prints all capabilities, or one.
func (r *runcap) offers(out io.Writer, s *shell.Session) error {
	switch {
	case r.list && r.json:
		e := &mplane.Envelope{}
		for _, c := range s.Capabilities() {
			e.Messages = append(e.Messages, c)
		}
		return printMessage(out, e)
	case r.list:
		list := s.Capabilities()
		slices.SortStableFunc(list, func(a, b *mplane.Statement) int { return strings.Compare(a.Label, b.Label) })
		shell.List(out, list)
		return nil
	}
	capability, err := s.Capability(r.show)
	if err != nil {
		return err
	}
	return r.print(out, capability)
}

// specify returns the specification of a capability.
func (r *runcap) specify(s *shell.Session, name string) (*mplane.Statement, error) {
	capability, err := s.Capability(name)
	if err != nil {
		return nil, hint.Add(err, "'tstatrepo runcap --list' lists them")
	}
	return s.Specify(capability, r.label)
}

// run runs a capability.
func (r *runcap) run(ctx context.Context, out io.Writer, s *shell.Session, name string) error {
	spec, err := r.specify(s, name)
	if err != nil {
		return err
	}
	reply, err := s.Run(ctx, spec)
	if err != nil {
		return err
	}
	if reason := shell.Failed(reply); reason == "" && !r.json {
		fmt.Fprintln(out, "ok")
	}
	if r.wait && shell.Failed(reply) == "" {
		if reply, err = s.Wait(ctx, spec.ID()); err != nil {
			return err
		}
	}
	return r.end(out, reply, r.wait)
}

// report asks for the state of a job and prints it.
func (r *runcap) report(ctx context.Context, out io.Writer, s *shell.Session, ask func(context.Context, string) (mplane.Message, error)) error {
	m, err := ask(ctx, r.token)
	if err != nil {
		return err
	}
	return r.end(out, m, true)
}

// end prints the reply to a job and returns its failure.
func (r *runcap) end(out io.Writer, m mplane.Message, show bool) error {
	reason := shell.Failed(m)
	if r.json || show && reason == "" {
		if err := r.print(out, m); err != nil {
			return err
		}
	}
	if reason != "" {
		return errors.New(reason)
	}
	return nil
}

// jobs prints the state of everything that was run at the supervisor.
func (r *runcap) jobs(ctx context.Context, out io.Writer, s *shell.Session) error {
	jobs, err := s.Memory.Jobs(s.Client.Root())
	if err != nil {
		return err
	}
	e := &mplane.Envelope{}
	for _, j := range jobs {
		if j.Pending() {
			if j.Message, err = s.Redeem(ctx, j.Token); err != nil {
				return err
			}
		}
		e.Messages = append(e.Messages, j.Message)
		if !r.json {
			fmt.Fprintln(out, shell.Line(j.Label, j.Token, j.Message))
		}
	}
	if r.json {
		return printMessage(out, e)
	}
	return nil
}

func (r *runcap) print(out io.Writer, m mplane.Message) error {
	if r.json {
		return printMessage(out, m)
	}
	var b bytes.Buffer
	shell.Show(&b, m)
	_, err := fmt.Fprintln(out, strings.TrimRight(b.String(), "\n"))
	return err
}

func printMessage(out io.Writer, m mplane.Message) error {
	text, err := mplane.Marshal(m)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", text)
	return err
}
