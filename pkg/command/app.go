package command

import (
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/config"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// newApp returns the program with its commands. A command reports a problem by
// returning an error. Only the function run of this package decides the exit status.
func newApp(con *console.Console) *cli.App {
	// urfave/cli configures these flags only through global variables. The version flag
	// must not take -v, which the commands use for --verbose.
	cli.VersionFlag = &cli.BoolFlag{Name: "version", Usage: "print the version and exit", Category: config.Group}
	cli.HelpFlag = &cli.BoolFlag{Name: "help", Aliases: []string{"h"}, Usage: "show help", Category: config.Group}
	cli.HelpPrinter = printHelp
	cli.VersionPrinter = func(c *cli.Context) { fmt.Fprintln(c.App.Writer, c.App.Name, c.App.Version) }

	app := &cli.App{
		Name:    "tstatrepo",
		Usage:   "store the logs, live lines and RRDs of Tstat probes",
		Version: versionString(),
		Description: "tstatrepo collects the output of Tstat probes. It imports flow logs exactly once, streams live log lines, " +
			"and sends the points of RRDs to Graphite or Prometheus. 'tstatrepo man' lists the manual.",
		Commands: []*cli.Command{
			importBulkCommand(con),
			streamCommand(con),
			rrdPushCommand(con),
			serveCommand(con),
			runcapCommand(con),
			supervisorCommand(con),
			storeCommand(con),
			helpCommand(),
			versionCommand(),
			completionCommand(),
			manCommand(),
		},
		// urfave/cli only adds the help flag together with its own help command.
		Flags:  []cli.Flag{cli.HelpFlag},
		Action: func(c *cli.Context) error { return cli.ShowAppHelp(c) },
		// Only run decides the exit status. The default handler prints the error and
		// exits within App.Run, which skips deferred calls.
		ExitErrHandler: func(*cli.Context, error) {},
		// The built-in help command would also intercept the argument "help" of every
		// other command.
		HideHelpCommand: true,
		// Do not split values at commas, because URLs and globs may contain them.
		DisableSliceFlagSeparator: true,
	}
	app.OnUsageError = onUsageError
	for _, c := range app.Commands {
		c.OnUsageError = onUsageError // not inherited
		c.HideHelpCommand = true
	}
	return app
}

// onUsageError returns err as a usage error. The default handler of urfave/cli would
// print the whole help to stdout. arrange reports most usage errors before urfave/cli
// finds them.
func onUsageError(_ *cli.Context, err error, _ bool) error { return hint.AsUsage(err) }

func helpCommand() *cli.Command {
	return &cli.Command{
		Name:      "help",
		Usage:     "show help of a command",
		ArgsUsage: "[COMMAND]",
		Category:  groupAbout,
		Action: func(c *cli.Context) error {
			switch c.NArg() {
			case 0:
				return cli.ShowAppHelp(c)
			case 1:
				cmd := find(c.App.Commands, c.Args().First())
				if cmd == nil {
					return unknownCommand(c.App.Commands, c.Args().First())
				}
				cli.HelpPrinter(c.App.Writer, "", cmd)
				return nil
			}
			return hint.Usagef("help takes one command, got %d", c.NArg())
		},
	}
}

// Groups of commands in help. groupProduct appears under the title "Commands". The
// commands in groupAbout have no man pages.
const (
	groupProduct = ""
	groupAlso    = "Other"
	groupAbout   = "About the program"
)

// visibleCommands returns the commands that help, man pages and completions list.
func visibleCommands(app *cli.App) []*cli.Command {
	return slices.DeleteFunc(slices.Clone(app.Commands), func(c *cli.Command) bool { return c.Hidden })
}
