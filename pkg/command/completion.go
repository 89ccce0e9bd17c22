package command

import (
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/completion"
	"github.com/tstatrepo/tstatrepo/pkg/internal/config"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// completionProgram describes the commands of app for package completion.
func completionProgram(app *cli.App) *completion.Program {
	p := &completion.Program{Ask: []string{"config"}}
	cfg := defaults()
	for _, s := range cfg.SettingsOf("runcap") {
		if s.Group == config.GroupNetwork {
			p.Ask = append(p.Ask, s.Name)
		}
	}
	for _, c := range visibleCommands(app) {
		values := map[string]string{"config": completion.File}
		for _, s := range cfg.SettingsOf(c.Name) {
			values[s.Name] = s.Completion()
		}
		command := completion.Command{Name: c.Name, Usage: c.Usage, Arguments: completedArguments(app, c)}
		for _, g := range flagGroups(c) {
			for _, f := range g.flags {
				command.Flags = append(command.Flags, completion.Flag{
					Names: f.names, Usage: f.usage, Placeholder: f.placeholder, Repeatable: f.repeatable, Complete: values[f.names[0]],
				})
			}
		}
		p.Commands = append(p.Commands, command)
	}
	return p
}

// completedArguments returns the arguments of command c, and how each of them is
// completed.
func completedArguments(app *cli.App, c *cli.Command) []completion.Argument {
	one := func(name string, words []string) []completion.Argument {
		return []completion.Argument{{Name: name, Complete: strings.Join(words, " ")}}
	}
	switch c.Name {
	case "import-bulk", "rrd-push":
		return one("SOURCE", []string{completion.File})
	case "runcap":
		return one("capability", []string{completion.Capabilities})
	case "store":
		return append(one("action", config.StoreActions()), completion.Argument{Name: "URL", Complete: config.CompleteStores()})
	case "help":
		var names []string
		for _, c := range visibleCommands(app) {
			names = append(names, c.Name)
		}
		return one("command", names)
	case "completion":
		return one("shell", completion.Shells)
	case "man":
		return one("page", pageNames())
	}
	return nil
}

func completionCommand() *cli.Command {
	shells := strings.Join(completion.Shells, ", ")
	return &cli.Command{
		Name:      "completion",
		Usage:     "print the completion of a shell: " + shells,
		ArgsUsage: "SHELL",
		Category:  groupAbout,
		Action: func(c *cli.Context) error {
			write := completion.Generator(c.Args().First())
			if write == nil || c.NArg() != 1 {
				return hint.Usagef("completion takes one shell of %s", shells)
			}
			_, err := c.App.Writer.Write(write(completionProgram(c.App)))
			return err
		},
	}
}
