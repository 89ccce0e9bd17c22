package shell

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/client"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// Prompt is the prompt of the shell.
const Prompt = "|mplane| "

// Shell is the |mplane| shell.
type Shell struct {
	Session
	// Open returns a client for another URL.
	Open func(url string) (*client.Client, error)

	requests bool   // weblogs ON: print requests and responses
	last     string // last command line; an empty line repeats it
	sent     []sent // specifications to check for a refusal
}

// sent is a specification that the user has sent.
type sent struct {
	token string
	at    time.Time
}

// refusalWindow is the period after sending a specification during which the shell checks
// whether the component refuses it. RI components fetch specifications only every few
// seconds.
const refusalWindow = time.Minute

// command is a command of the shell.
type command struct {
	name, args, help string
	run              func(*Shell, context.Context, []string) error
}

// errUsage is returned by a command to make the shell print the usage of that command.
var errUsage = errors.New("usage")

// commands returns the commands in the order in which help lists them.
func commands() []command {
	return []command{
		{"listcap", "", "list the capabilities", (*Shell).listcap},
		{"showcap", "[label-or-token]", "show a capability", (*Shell).showcap},
		{"when", "[scope]", "set or show the temporal scope of what is run next", (*Shell).when},
		{"set", "[name] [value]", "set a parameter", (*Shell).set},
		{"unset", "[names]", "forget parameters, or 'when'; all without a name", (*Shell).unset},
		{"show", "[names]", "show the parameters that are set", (*Shell).show},
		{"runcap", "[label-or-token] ([relabel])", "run a capability, asking for what is not set", (*Shell).runcap},
		{"listmeas", "", "list what was run, with its state", (*Shell).listmeas},
		{"showmeas", "[label-or-token]", "show the result of what was run, or its receipt", (*Shell).showmeas},
		{"stopmeas", "[label-or-token]", "stop what was run", (*Shell).stopmeas},
		{"getcap", "[url]", "get the capabilities again, or those of another URL", (*Shell).getcap},
		{"seturl", "[url]", "send everything to another URL from now on", (*Shell).seturl},
		{"resetclient", "", "forget capabilities, receipts, results and parameters", (*Shell).resetclient},
		{"weblogs", "[ON/OFF]", "tell what is sent and answered", (*Shell).weblogs},
		{"tbenable", "", "has no effect; the old shell showed tracebacks of Python", func(*Shell, context.Context, []string) error { return nil }},
		{"help", "", "list the commands; so does ?", (*Shell).help},
		{"EOF", "", "leave the shell, as ^D does", func(*Shell, context.Context, []string) error { return errEnd }},
	}
}

// Run executes commands until the input ends or ctx is done. It calls the function read
// for each command line, and to ask for parameter values.
func (s *Shell) Run(ctx context.Context, read func(prompt string) (string, error)) error {
	s.Ask, s.ShowKept = read, true
	fmt.Fprint(s.Out, "mPlane client shell\nType help or ? to list commands. ^D to exit.\n\n")
	for ctx.Err() == nil {
		s.showRefusals(ctx)
		line, err := read(Prompt)
		if err == nil {
			err = s.Do(ctx, line)
		}
		switch {
		case errors.Is(err, ErrInterrupted):
		case errors.Is(err, io.EOF), errors.Is(err, errEnd):
			fmt.Fprintln(s.Out, "Ciao!")
			return nil
		case err != nil && ctx.Err() == nil:
			return err
		}
	}
	return context.Cause(ctx)
}

// Do runs one command line and prints any failure. It returns an error only if the
// shell must end.
func (s *Shell) Do(ctx context.Context, line string) error {
	if line = strings.TrimSpace(line); line == "" {
		line = s.last // like the shell of the RI
	}
	words := strings.Fields(line)
	if len(words) == 0 {
		return nil
	}
	s.last = line
	if words[0] == "?" {
		words[0] = "help"
	}
	list := commands()
	i := slices.IndexFunc(list, func(c command) bool { return c.name == words[0] })
	if i < 0 {
		fmt.Fprintf(s.Out, "*** Unknown syntax: %s\n", mplane.Visible(line))
		return nil
	}
	err := list[i].run(s, ctx, words[1:])
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprintf(s.Out, "Usage: %s %s\n", list[i].name, list[i].args)
	case errors.Is(err, io.EOF), errors.Is(err, errEnd), errors.Is(err, ErrInterrupted), err != nil && ctx.Err() != nil:
		return err
	case err != nil:
		fmt.Fprintf(s.Out, "An exception occurred:\n%s\n", mplane.Visible(err.Error()))
	}
	return nil
}

// Complete returns the candidates for the last word of a line.
func (s *Shell) Complete(line string) []string {
	words := strings.Fields(line)
	var all []string
	switch {
	case len(words) == 0 || len(words) == 1 && !strings.HasSuffix(line, " "):
		for _, c := range commands() {
			all = append(all, c.name)
		}
	case words[0] == "runcap" || words[0] == "showcap":
		for _, c := range s.capabilities {
			all = append(all, c.Label, c.ID())
		}
	case words[0] == "set" || words[0] == "unset" || words[0] == "show":
		for _, c := range s.capabilities {
			for _, f := range c.Parameters {
				all = append(all, f.Name)
			}
		}
	case words[0] == "showmeas" || words[0] == "stopmeas":
		jobs, err := s.Memory.Jobs(s.Client.Root())
		if err != nil {
			return nil
		}
		for _, j := range jobs {
			all = append(all, j.Label, j.Token)
		}
	}
	word := ""
	if len(words) > 0 && !strings.HasSuffix(line, " ") {
		word = words[len(words)-1]
	}
	all = slices.DeleteFunc(all, func(c string) bool { return !strings.HasPrefix(c, word) || strings.ContainsFunc(c, isBlank) })
	slices.Sort(all)
	return slices.Compact(all)
}

func isBlank(r rune) bool { return r <= ' ' }

func (s *Shell) listcap(context.Context, []string) error {
	List(s.Out, s.Capabilities())
	return nil
}

// List prints capabilities as listcap does.
func List(w io.Writer, capabilities []*mplane.Statement) {
	for _, c := range capabilities {
		label := ""
		if c.Label != "" {
			label = mplane.Visible(c.Label) + " "
		}
		fmt.Fprintf(w, "Capability %s(token %s)\n", label, mplane.Visible(c.ID()))
	}
}

func (s *Shell) showcap(_ context.Context, args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	c, err := s.Capability(args[0])
	if err != nil {
		return errUsage
	}
	Show(s.Out, c)
	return nil
}

func (s *Shell) when(_ context.Context, args []string) error {
	if len(args) > 0 {
		text := strings.Join(args, " ")
		when, err := mplane.ParseScope(text)
		if err != nil {
			fmt.Fprintf(s.Out, "Invalid temporal scope %s\n", mplane.Visible(text))
			return nil
		}
		s.When = &when
	}
	if s.When == nil {
		fmt.Fprintln(s.Out, "when = None")
		return nil
	}
	fmt.Fprintf(s.Out, "when = %s\n", s.When)
	return nil
}

func (s *Shell) set(_ context.Context, args []string) error {
	if len(args) < 2 {
		return errUsage
	}
	s.Set(args[0], strings.Join(args[1:], " "))
	s.printValue(args[0])
	return nil
}

func (s *Shell) unset(_ context.Context, args []string) error {
	if len(args) == 0 {
		s.Values, s.When = nil, nil
	}
	var unknown []string
	for _, name := range args {
		_, ok := s.Values[name]
		switch {
		case ok:
			delete(s.Values, name)
		case name == "when" && s.When != nil:
			s.When = nil
		default:
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		fmt.Fprintf(s.Out, "Couldn't unset default(s) %s\n", mplane.Visible(strings.Join(unknown, " ")))
		return nil
	}
	fmt.Fprintln(s.Out, "ok")
	return nil
}

func (s *Shell) show(_ context.Context, args []string) error {
	if len(args) == 0 {
		fmt.Fprintf(s.Out, "%4d defaults\n", len(s.Values))
		args = s.Names()
	}
	for _, name := range args {
		if _, ok := s.Values[name]; !ok {
			fmt.Fprintf(s.Out, "No such default %s\n", mplane.Visible(name))
			continue
		}
		s.printValue(name)
	}
	return nil
}

func (s *Shell) runcap(ctx context.Context, args []string) error {
	if len(args) == 0 || len(args) > 2 {
		return errUsage
	}
	c, err := s.Capability(args[0])
	if err != nil {
		return err
	}
	label := ""
	if len(args) == 2 {
		label = args[1]
	}
	spec, err := s.Specify(c, label)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "Invoking %s with parameters {", mplane.Visible(cmp.Or(c.Label, c.ID())))
	for i, f := range spec.Parameters.Sorted() {
		if i > 0 {
			fmt.Fprint(s.Out, ", ")
		}
		fmt.Fprintf(s.Out, "'%s': '%s'", mplane.Visible(f.Name), mplane.Visible(f.Text))
	}
	fmt.Fprintln(s.Out, "}")
	reply, err := s.Session.Run(ctx, spec)
	if err != nil {
		return err
	}
	s.log("specification", reply)
	if reason := Failed(reply); reason != "" {
		return errors.New(reason)
	}
	s.sent = append(s.sent, sent{spec.ID(), time.Now()})
	fmt.Fprintln(s.Out, "ok")
	return nil
}

// showRefusals prints the recently sent specifications that were refused or whose jobs
// have failed. The "ok" that runcap prints means only that the supervisor has accepted
// the specification; the component may still refuse it.
func (s *Shell) showRefusals(ctx context.Context) {
	s.sent = slices.DeleteFunc(s.sent, func(j sent) bool {
		if time.Since(j.at) > refusalWindow {
			return true
		}
		m, pending, err := s.notify(ctx, j.token, mplane.Redemption)
		if err != nil {
			return false // the user's own commands report such an error
		}
		if Failed(m) != "" {
			s.printJob(j.token)
		}
		return !pending
	})
}

// printJob prints the job with the given token or label in the format of listmeas.
func (s *Shell) printJob(name string) error {
	j, err := s.find(name)
	if err == nil && j.Message != nil {
		fmt.Fprintln(s.Out, Line(j.Label, j.Token, j.Message))
	}
	return err
}

// log prints that a request of the given kind was sent, and the kind of the reply. It
// prints nothing unless the user has set weblogs to ON.
func (s *Shell) log(kind string, reply mplane.Message) {
	if !s.requests {
		return
	}
	answer := "envelope"
	switch m := reply.(type) {
	case *mplane.Statement:
		answer = string(m.Kind)
	case *mplane.Exception:
		answer = "exception"
	}
	fmt.Fprintf(s.Out, "POST %s: %s, answered with %s\n", s.Client.Root(), kind, answer)
}

func (s *Shell) listmeas(ctx context.Context, _ []string) error {
	jobs, err := s.Memory.Jobs(s.Client.Root())
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if j.Pending() {
			if j.Message, err = s.Redeem(ctx, j.Token); err != nil {
				return err
			}
			s.log("redemption", j.Message)
		}
		fmt.Fprintln(s.Out, Line(j.Label, j.Token, j.Message))
	}
	return nil
}

func (s *Shell) showmeas(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	m, err := s.Redeem(ctx, args[0])
	if err != nil {
		return err
	}
	s.log("redemption", m)
	Show(s.Out, m)
	return nil
}

func (s *Shell) stopmeas(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	m, err := s.Stop(ctx, args[0])
	if err != nil {
		return err
	}
	s.log("interrupt", m)
	if reason := Failed(m); reason != "" {
		return errors.New(reason)
	}
	return s.printJob(args[0])
}

func (s *Shell) getcap(ctx context.Context, args []string) error {
	if len(args) > 0 {
		if ok, err := s.connect(args); !ok {
			return err
		}
	}
	if err := s.Retrieve(ctx); err != nil {
		return err
	}
	fmt.Fprintln(s.Out, "ok")
	return nil
}

func (s *Shell) seturl(_ context.Context, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	_, err := s.connect(args)
	return err
}

// connect replaces the shell's client with a client for the URL in args. ok reports
// whether it did so. If ok is false and err is nil, connect has printed the reason.
func (s *Shell) connect(args []string) (ok bool, err error) {
	if len(args) > 1 {
		return false, errUsage
	}
	if _, address, found := strings.Cut(args[0], ":"); !found || address == "" {
		fmt.Fprintln(s.Out, "Bad format for url")
		return false, nil
	}
	c, err := s.Open(args[0])
	if err != nil {
		return false, err
	}
	s.Client.Close()
	s.Client = c
	return true, nil
}

func (s *Shell) resetclient(context.Context, []string) error {
	s.capabilities, s.Values, s.When, s.runs, s.sent = nil, nil, nil, 0, nil
	return s.Memory.Forget(s.Client.Root())
}

func (s *Shell) weblogs(_ context.Context, args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	switch strings.ToUpper(args[0]) {
	case "ON":
		s.requests = true
	case "OFF":
		s.requests = false
	default:
		return errUsage
	}
	return nil
}

func (s *Shell) help(context.Context, []string) error {
	for _, c := range commands() {
		fmt.Fprintf(s.Out, "%-40s %s\n", strings.TrimSpace(c.name+" "+c.args), c.help)
	}
	return nil
}
