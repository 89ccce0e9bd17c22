package config

import (
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/completion"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

// Runcap holds the settings of runcap.
type Runcap struct {
	Network
	Supervisor string
	Identity   string
	Registries []string
	When       string
	Set        []string
	Label      string
	Wait       bool
	Local      bool
	Timeout    Duration
	List       bool
	Show       string
	Status     bool
	Stop       bool
	Result     bool
	Token      string
	JSON       bool
}

func defaultRuncap() Runcap { return Runcap{Supervisor: "http://127.0.0.1:8890/"} }

// settings returns the table of settings, in the order in which the help lists them.
func (r *Runcap) settings() []*Setting {
	const (
		what = "Specification"
		ask  = "Instead of running"
	)
	return append([]*Setting{
		{Name: "when", Group: what, Value: &r.When,
			Usage: "run in this `SCOPE`, like 'now + 1h', 'now + inf' or 'repeat now + 1d / 1h'"},
		{Name: "set", Group: what, Value: &r.Set,
			Usage: "set a parameter, as `NAME=VALUE`"},
		{Name: "label", Group: what, Value: &r.Label, Empty: "the label of the capability with -0",
			Usage: "label the specification `LABEL`; -0 is added if it does not end in a number"},
		{Name: "wait", Group: what, Value: &r.Wait,
			Usage: "wait for the result and print it"},
		{Name: "local", Group: what, Value: &r.Local,
			Usage: "run a capability of serve in this process, without a supervisor, and print its result"},
		{Name: "timeout", Group: what, Value: &r.Timeout, Empty: "no limit",
			Usage: "wait at most `DURATION`"},

		{Name: "list", Group: ask, Value: &r.List,
			Usage: "list the capabilities"},
		{Name: "show", Group: ask, Value: &r.Show, Complete: completion.Capabilities,
			Usage: "show `CAPABILITY`, a label or token"},
		{Name: "status", Group: ask, Value: &r.Status,
			Usage: "show the state of --token, or of all specifications"},
		{Name: "stop", Group: ask, Value: &r.Stop,
			Usage: "stop the specification of --token"},
		{Name: "result", Group: ask, Value: &r.Result,
			Usage: "print the result of --token"},
		{Name: "token", Group: ask, Value: &r.Token,
			Usage: "select a specification by `TOKEN` or label"},

		{Name: "json", Group: groupOutput, Value: &r.JSON,
			Usage: "print messages as JSON"},

		{Name: "supervisor", Group: GroupNetwork, Value: &r.Supervisor,
			Usage: "connect to the supervisor, or to a component that accepts clients, at `URL`"},
		{Name: "identity", Group: GroupNetwork, Value: &r.Identity, Empty: "identified by address",
			Usage: "use `NAME` as identity at a supervisor without TLS"},
		registries(GroupNetwork, &r.Registries),
	}, r.certificates()...)
}

// Asks reports whether list, show, status, stop or result is set. Each of these settings
// replaces the CAPABILITY argument.
func (r *Runcap) Asks() bool { return r.List || r.Show != "" || r.Status || r.Stop || r.Result }

// Options checks the settings and returns the scope and the parameter values of the
// specification to run. The scope is nil if r.When is empty.
func (r *Runcap) Options(p *Problems, args []string) (when *mplane.Scope, values map[string]string) {
	if r.When != "" {
		scope, err := mplane.ParseScope(r.When)
		if err != nil {
			p.add("when", "%v", err)
		}
		when = &scope
	}
	values = map[string]string{}
	for _, text := range r.Set {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			p.add("set", "%q is not NAME=VALUE", text)
		}
		values[name] = value
	}
	n := len(args)
	for _, asked := range []bool{r.List, r.Show != "", r.Status, r.Stop, r.Result} {
		if asked {
			n++
		}
	}
	if n > 1 {
		p.Add("give one of CAPABILITY, `list`, `show`, `status`, `stop` and `result`")
	}
	if (r.Stop || r.Result) && r.Token == "" {
		p.add("token", "must name what was run")
	}
	if r.Local && (r.Status || r.Stop || r.Result) {
		p.add("local", "has nothing to do with what was run before: give a CAPABILITY, `list` or `show`")
	}
	if r.Local && len(args) == 0 && !r.Asks() {
		p.add("local", "needs a CAPABILITY, `list` or `show`")
	}
	if r.Token != "" && !r.Stop && !r.Result && !r.Status {
		p.add("token", "is for `status`, `stop` and `result`")
	}
	atLeast(p, "timeout", r.Timeout, 0)
	return when, values
}
