// Package shell implements the interactive part of mPlane: the prompts of runcap, and the
// |mplane| shell. Its commands and output match those of the client shell of the
// reference implementation (RI).
package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/client"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mplane/wire"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// Session runs the capabilities of one supervisor or component.
type Session struct {
	Client *client.Client
	Out    io.Writer
	// Ask prompts the user for a value. If Ask is nil, a missing value is a usage
	// error. Ask returns io.EOF at the end of the input.
	Ask func(prompt string) (string, error)
	// When is the scope of the next specification, or nil if it is not set.
	When *mplane.Scope
	// Values are the parameters set by the user.
	Values map[string]string
	// ShowKept makes Specify print the values and the scope that were set earlier, as
	// if the user had just typed them.
	ShowKept bool
	// Memory saves receipts and results for later processes.
	Memory *Memory

	capabilities []*mplane.Statement
	runs         int // number of the next label
}

// missingValues returns the usage error for parameters without values. It is used when
// the user cannot be asked for them.
func missingValues(names []string) error {
	var options []string
	for _, name := range names {
		if name == "when" {
			options = append(options, "`when` 'now + 1h'")
		} else {
			options = append(options, "`set` "+name+"=VALUE")
		}
	}
	return hint.Usage("no value for "+strings.Join(names, ", "), "add "+strings.Join(options, " "))
}

// UnknownError reports that the user gave a name that does not exist.
type UnknownError struct{ What, Name string }

func (e *UnknownError) Error() string { return fmt.Sprintf("no %s %s", e.What, visible(e.Name)) }

// Retrieve fetches the peer's capabilities. It prints a line for each capability that it
// leaves out, for example an unreadable one.
func (s *Session) Retrieve(ctx context.Context) error {
	list, unread, err := s.Client.Capabilities(ctx)
	if err != nil {
		return err
	}
	if unread != nil {
		for line := range strings.Lines(unread.Error()) {
			fmt.Fprintf(s.Out, "left out %s\n", visible(strings.TrimSpace(line)))
		}
	}
	s.capabilities = list
	return nil
}

// Know sets the peer's capabilities, which makes Retrieve unnecessary.
func (s *Session) Know(capabilities []*mplane.Statement) { s.capabilities = capabilities }

// Capabilities returns the known capabilities of the peer, sorted by token.
func (s *Session) Capabilities() []*mplane.Statement {
	list := slices.Clone(s.capabilities)
	slices.SortStableFunc(list, func(a, b *mplane.Statement) int { return strings.Compare(a.ID(), b.ID()) })
	return list
}

// Capability returns the capability with the given token. If there is none, it returns
// the last one with the given label.
func (s *Session) Capability(name string) (*mplane.Statement, error) {
	for _, c := range s.capabilities {
		if c.ID() == name {
			return c, nil
		}
	}
	for _, c := range slices.Backward(s.capabilities) {
		if c.Label == name {
			return c, nil
		}
	}
	return nil, &UnknownError{"capability for token or label", name}
}

// numbered matches labels that end in a hyphen and a number, as RI supervisors require.
var numbered = regexp.MustCompile(`-\d+$`)

// Specify returns a specification for c, built from s.When, s.Values and the user's
// answers. If label is "", Specify generates one. It appends "-0" to a label that does
// not end in a hyphen and a number.
func (s *Session) Specify(c *mplane.Statement, label string) (*mplane.Statement, error) {
	spec := c.Specification()
	var missing []string
	if err := s.askWhen(c); err != nil {
		return nil, err
	}
	if s.When == nil {
		missing = append(missing, "when")
	}
	for _, f := range c.Parameters.Sorted() {
		constraint, err := mplane.ParseConstraint(f.Type, f.Text)
		if err != nil {
			return nil, err
		}
		if single, ok := constraint.Single(); ok {
			fmt.Fprintf(s.Out, "%s = %s\n", f.Name, visible(single))
			continue
		}
		value, ok := s.Values[f.Name]
		asked := false
		for {
			if ok {
				canonical, err := f.Type.Canonical(value)
				if err == nil && value != mplane.None && constraint.Accepts(canonical) {
					value = canonical
					break
				}
				if s.Ask == nil {
					return nil, fmt.Errorf("%s: %q is not a %s of %s", f.Name, value, f.Type, constraint)
				}
			}
			if s.Ask == nil {
				missing = append(missing, f.Name)
				break
			}
			if value, err = s.Ask(f.Name + " = "); err != nil {
				return nil, err
			}
			value, ok, asked = strings.TrimSpace(value), true, true
			s.Set(f.Name, value)
		}
		if ok {
			if s.ShowKept && !asked {
				s.printValue(f.Name)
			}
			if err := spec.SetParameter(f.Name, value); err != nil {
				return nil, err
			}
		}
	}
	if len(missing) > 0 {
		return nil, missingValues(missing)
	}
	spec.When = *s.When
	if label == "" {
		var err error
		if label, err = s.label(c.Label); err != nil {
			return nil, err
		}
	}
	if spec.Label = label; !numbered.MatchString(label) {
		spec.Label += "-0"
	}
	s.runs++
	spec.SetToken()
	return spec, nil
}

// askWhen asks the user for s.When, unless s.When is already set and fits the scope of c.
// It asks again if the answer is a scope that does not fit. If s.Ask is nil, s.When may
// remain nil.
func (s *Session) askWhen(c *mplane.Statement) error {
	kept := s.When
	for s.When == nil || !s.When.Follows(c.When, time.Now()) {
		if s.Ask == nil {
			if s.When != nil {
				return fmt.Errorf("the scope %s is not in that of the capability, %s", s.When, c.When)
			}
			return nil
		}
		text, err := s.Ask("|when| = ")
		if err != nil {
			return err
		}
		when, err := mplane.ParseScope(strings.TrimSpace(text))
		if err != nil {
			return err
		}
		s.When = &when
	}
	if s.ShowKept && kept != nil && s.When == kept {
		fmt.Fprintf(s.Out, "|when| = %s\n", kept)
	}
	return nil
}

// label returns a label for a new specification: the label of the capability, a hyphen
// and a number. The number is chosen so that no saved job has the same label, because
// labels must identify jobs.
func (s *Session) label(capability string) (string, error) {
	var taken []string
	if s.Memory != nil {
		var err error
		if taken, err = s.Memory.Labels(s.Client.Root()); err != nil {
			return "", err
		}
	}
	for {
		label := fmt.Sprintf("%s-%d", capability, s.runs)
		if !slices.Contains(taken, label) {
			return label, nil
		}
		s.runs++
	}
}

// Set sets the value of the named parameter for all later specifications.
func (s *Session) Set(name, value string) {
	if s.Values == nil {
		s.Values = map[string]string{}
	}
	s.Values[name] = value
}

func (s *Session) printValue(name string) {
	fmt.Fprintf(s.Out, "%s = %s\n", visible(name), visible(s.Values[name]))
}

// Names returns the names of the parameters that have been set, sorted.
func (s *Session) Names() []string { return slices.Sorted(maps.Keys(s.Values)) }

// Run sends spec, saves the response in s.Memory, and returns the response. It saves a
// receipt before it sends spec, so that the user can stop the job whatever happens next.
func (s *Session) Run(ctx context.Context, spec *mplane.Statement) (mplane.Message, error) {
	sent := time.Now()
	j := Job{Token: spec.ID(), Label: spec.Label, Message: spec.Notice(mplane.Receipt)}
	restore, err := s.rememberTentatively(j)
	if err != nil {
		return nil, err
	}
	reply, err := s.Client.Send(ctx, spec)
	if errors.As(err, new(*wire.UnansweredError)) {
		return nil, hint.Add(err, "the specification may be running: see `status`, and stop it with `stop` `token` "+j.Label)
	}
	if err != nil {
		return nil, errors.Join(err, restore())
	}
	j.reply(reply, mplane.Specification, spec.Notice(mplane.Receipt), sent)
	return reply, s.remember(j)
}

// remember saves the state of j in s.Memory, if s has a Memory.
func (s *Session) remember(j Job) error {
	if s.Memory == nil {
		return nil
	}
	return s.Memory.Put(s.Client.Root(), j)
}

// rememberTentatively is like remember. The function that it returns restores the former
// state of j in s.Memory.
func (s *Session) rememberTentatively(j Job) (restore func() error, err error) {
	if s.Memory == nil {
		return func() error { return nil }, nil
	}
	peer := s.Client.Root()
	jobs, err := s.Memory.Jobs(peer)
	if err != nil {
		return nil, err
	}
	restore = func() error { return s.Memory.Remove(peer, j.Token) }
	if i := slices.IndexFunc(jobs, func(o Job) bool { return o.Token == j.Token }); i >= 0 {
		restore = func() error { return s.remember(jobs[i]) }
	}
	return restore, s.remember(j)
}

// Redeem returns the state of the job with the given token or label: its result if
// available, otherwise a receipt or an exception. Redeem asks the peer, unless the saved
// state is final.
func (s *Session) Redeem(ctx context.Context, name string) (mplane.Message, error) {
	m, _, err := s.notify(ctx, name, mplane.Redemption)
	return m, err
}

// Stop asks the peer to stop the job with the given token or label, and returns the state
// of the job.
func (s *Session) Stop(ctx context.Context, name string) (mplane.Message, error) {
	m, _, err := s.notify(ctx, name, mplane.Interrupt)
	return m, err
}

// notify sends a message of kind k for the job with the given token or label, unless the
// saved state of the job is final. It returns the new state of the job, and whether that
// state may still change.
func (s *Session) notify(ctx context.Context, name string, k mplane.Kind) (m mplane.Message, pending bool, err error) {
	j, err := s.find(name)
	if err != nil {
		return nil, false, err
	}
	known := j.Message != nil
	if known && !j.Pending() {
		return j.Message, false, nil
	}
	ask := j.Receipt
	if receipt, ok := j.Message.(*mplane.Statement); ok {
		ask = receipt
	}
	if ask == nil {
		// Of another client's job only the token is known, which is sufficient.
		ask = &mplane.Statement{Verb: mplane.Measure, Registry: mplane.CoreRegistry, When: mplane.For(0), Token: j.Token}
	}
	sent := time.Now()
	reply, err := s.Client.Send(ctx, ask.Notice(k))
	if err != nil {
		return nil, false, err
	}
	if _, failed := reply.(*mplane.Exception); failed {
		if !known { // the user gave the token: do not save it
			return reply, false, nil
		}
		if e, ok := j.Message.(*mplane.Envelope); ok {
			// Supervisors drop a job after they have delivered its results.
			reply, ask = e, &mplane.Statement{When: mplane.For(0)}
		}
	}
	j.reply(reply, k, ask, sent)
	return reply, j.Pending(), s.remember(j)
}

// find returns the saved job with the given token or label. If no saved job matches, but
// name may be the token of an unknown job, find returns a Job with only its Token set.
func (s *Session) find(name string) (Job, error) {
	if s.Memory == nil {
		return Job{Token: name}, nil
	}
	jobs, err := s.Memory.Jobs(s.Client.Root())
	if err != nil {
		return Job{}, err
	}
	for _, j := range jobs {
		if j.Token == name {
			return j, nil
		}
	}
	for _, j := range slices.Backward(jobs) {
		if j.Label == name {
			return j, nil
		}
	}
	if !digest.MatchString(name) {
		return Job{}, &UnknownError{"such token or label", name}
	}
	return Job{Token: name}, nil
}

// digest matches the tokens that mPlane programs generate, which are digests.
var digest = regexp.MustCompile(`^[0-9a-f]{32}$`)

// Wait polls the state of the job with the given token or label until the job has ended
// or ctx is done. It returns the last state.
func (s *Session) Wait(ctx context.Context, name string) (mplane.Message, error) {
	for pause := 100 * time.Millisecond; ; pause = min(pause*3/2, 5*time.Second) {
		m, pending, err := s.notify(ctx, name, mplane.Redemption)
		if err != nil || !pending {
			return m, err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return m, context.Cause(ctx)
		}
	}
}

// Failed returns the reason if m reports that a job was refused or has failed, and
// otherwise "".
func Failed(m mplane.Message) string {
	switch m := m.(type) {
	case *mplane.Exception:
		return m.Message
	case *mplane.Statement:
		if m.Kind == mplane.Withdrawal {
			return fmt.Sprintf("the capability %s is withdrawn", m.Label)
		}
	}
	return ""
}

// Show prints a message in the format of the RI's shell, with result rows as a table.
func Show(w io.Writer, m mplane.Message) {
	switch m := m.(type) {
	case *mplane.Envelope:
		for _, e := range m.Messages {
			Show(w, e)
		}
		return
	case *mplane.Statement:
		if len(m.Rows) == 0 {
			break
		}
		head := *m
		head.Results, head.Rows = nil, nil
		fmt.Fprintf(w, "%s    resultvalues(%2d):\n", head.Show(), len(m.Rows))
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, row := range append([][]string{m.Results}, m.Rows...) {
			cells := make([]string, len(row))
			for i, text := range row {
				cells[i] = visible(text)
			}
			fmt.Fprintf(t, "        %s\n", strings.Join(cells, "\t"))
		}
		t.Flush()
		fmt.Fprintln(w)
		return
	}
	fmt.Fprintln(w, m.Show())
}

// Line formats a job as a single line, as listmeas prints it.
func Line(label, token string, m mplane.Message) string {
	switch m := m.(type) {
	case *mplane.Exception:
		return visible(fmt.Sprintf("<Exception: %s (token %s) %s>", label, token, m.Message))
	case *mplane.Envelope:
		return visible(fmt.Sprintf("Results %s (token %s): %s", label, token, m.When))
	case *mplane.Statement:
		kind := map[mplane.Kind]string{mplane.Receipt: "Receipt", mplane.Result: "Result ", mplane.Withdrawal: "Withdrawal"}[m.Kind]
		return visible(fmt.Sprintf("%s %s (token %s): %s", kind, label, token, m.When))
	}
	return ""
}

func visible(s string) string { return mplane.Visible(s) }

// errEnd is returned by commands that end the shell.
var errEnd = errors.New("end")
