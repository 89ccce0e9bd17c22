package command

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// arrange returns argv in the order that urfave/cli requires: command, flags, "--",
// arguments. Users may use any order. urfave/cli, however, silently treats a flag after
// the first argument as an argument, and a flag before the command as a flag of app.
// arrange also reports unknown flags, unknown commands and missing values, with hints.
func arrange(app *cli.App, argv []string) ([]string, error) {
	var (
		values = valueFlags(app.Commands)
		cmd    *cli.Command
		path   []string // names of the command and its subcommand
		words  []flagWord
		args   []string
	)
	commands := app.Commands
	for i := 0; i < len(argv); i++ {
		a := argv[i]
		if a == "--" {
			args = append(args, argv[i+1:]...)
			break
		}
		if len(a) < 2 || a[0] != '-' {
			if len(commands) == 0 {
				args = append(args, a)
				continue
			}
			c := find(commands, a)
			if c == nil {
				return nil, unknownCommand(commands, a)
			}
			cmd, commands, path = c, c.Subcommands, append(path, a)
			// The flags of the command itself take precedence.
			maps.Copy(values, valueFlags([]*cli.Command{c}))
			continue
		}
		name, value, joined := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(a, "-"), "-"), "=")
		w := flagWord{name: name, words: []string{a}}
		switch {
		case values[name] && !joined:
			i++
			if i == len(argv) {
				return nil, hintUsage(path, hint.Usagef("%s needs a value", a))
			}
			w.words = append(w.words, argv[i])
		case joined && !values[name]:
			if _, err := strconv.ParseBool(value); err != nil {
				w.err = fmt.Errorf("--%s: takes no value", name)
			}
		}
		words = append(words, w)
	}
	return assemble(app, cmd, path, words, args, values)
}

// flagWord is a flag from the command line, with its value if it has one.
type flagWord struct {
	name  string
	words []string
	err   error // reason why the value is invalid, or nil
}

// assemble returns a command line in the order that urfave/cli requires: first path, then
// the flags in words, then args. It returns an error if cmd does not accept one of the
// flags. values is a result of valueFlags.
func assemble(app *cli.App, cmd *cli.Command, path []string, words []flagWord, args []string, values map[string]bool) ([]string, error) {
	known := map[string]bool{"help": true, "h": true, "version": true}
	if cmd != nil {
		for _, f := range cmd.Flags {
			for _, n := range f.Names() {
				known[n] = true
			}
		}
	}
	var flags []string
	given := map[string]bool{}
	for _, w := range words {
		_, elsewhere := values[w.name]
		switch {
		case cmd == nil && elsewhere && !known[w.name]:
			return nil, hintUsage(path, hint.Usagef("no command given"))
		case !known[w.name]:
			return nil, hintUsage(path, unknownFlag(w.name, known))
		case w.err != nil:
			return nil, hintUsage(path, hint.AsUsage(w.err))
		case w.name == "version":
			return []string{"--version"}, nil
		case w.name == "help" || w.name == "h":
			return append(path, "--help"), nil
		case given[w.name] && isListElsewhere(app, cmd, w.name):
			// The last value would count, although other commands take all of them.
			return nil, hintUsage(path, hint.Usagef("--%s: %s takes one value, got several", w.name, cmd.Name))
		}
		given[w.name] = true
		flags = append(flags, w.words...)
	}
	out := append(path, flags...)
	if len(args) > 0 {
		if cmd == nil {
			return nil, unknownCommand(app.Commands, args[0])
		}
		out = append(append(out, "--"), args...)
	}
	return out, nil
}

// valueFlags returns the names of all flags of cmds and of their subcommands. The value
// in the map is true if a flag of that name takes a value in at least one command.
func valueFlags(cmds []*cli.Command) map[string]bool {
	m := map[string]bool{}
	var walk func([]*cli.Command)
	walk = func(cmds []*cli.Command) {
		for _, c := range cmds {
			for _, f := range c.Flags {
				for _, n := range f.Names() {
					m[n] = m[n] || takesValue(f)
				}
			}
			walk(c.Subcommands)
		}
	}
	walk(cmds)
	return m
}

// isListElsewhere reports whether a command other than cmd may get the named flag several
// times, and cmd may not.
func isListElsewhere(app *cli.App, cmd *cli.Command, name string) bool {
	isList := func(c *cli.Command) bool {
		return slices.ContainsFunc(c.Flags, func(f cli.Flag) bool {
			_, list := f.(*cli.StringSliceFlag)
			return list && slices.Contains(f.Names(), name)
		})
	}
	return !isList(cmd) && slices.ContainsFunc(app.Commands, isList)
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

func find(cmds []*cli.Command, name string) *cli.Command {
	for _, c := range cmds {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

func unknownCommand(cmds []*cli.Command, name string) error {
	var names []string
	for _, c := range cmds {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	err := hint.Usagef("unknown command %q%s", name, hint.DidYouMean(name, names, ""))
	return hint.Add(err, "commands are: "+strings.Join(names, ", "))
}

func unknownFlag(name string, known map[string]bool) error {
	var names []string
	for n := range known {
		names = append(names, n)
	}
	dash := "--"
	if len(name) == 1 {
		dash = "-"
	}
	return hint.Usagef("unknown flag %s%s%s", dash, name, hint.DidYouMean(name, names, "--"))
}

// hintUsage adds the hint of seeHelp to err.
func hintUsage(path []string, err error) error {
	return hint.Add(err, seeHelp(path...))
}

// seeHelp returns a hint that points to a command's help. path holds the names of
// the command and its subcommand. An empty path stands for the program itself.
func seeHelp(path ...string) string {
	return fmt.Sprintf("see '%s --help'", strings.Join(append([]string{"tstatrepo"}, path...), " "))
}
