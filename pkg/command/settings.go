package command

import (
	"fmt"
	"slices"
	"sync"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/config"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// defaults returns the configuration with all defaults, for help and flags. Callers
// must not change the configuration.
var defaults = sync.OnceValue(config.New)

// commandFlags returns the flags of a command, followed by the common flags.
func commandFlags(command string) []cli.Flag {
	var own, common []cli.Flag
	for _, s := range defaults().Sections {
		for _, set := range s.Settings {
			switch {
			case set.IsArgument():
			case s.Name == command:
				own = append(own, flagOf(set))
			case s.Name == "":
				common = append(common, flagOf(set))
			}
		}
	}
	return slices.Concat(own, []cli.Flag{
		&cli.StringFlag{Name: "config", Category: config.Group, Usage: "read settings from `FILE`, see tstatrepo.toml(5)"},
		&cli.BoolFlag{Name: "check-config", Category: config.Group, Usage: "check the settings, sources, stores and folders, and exit", DisableDefaultText: true},
		&cli.BoolFlag{Name: "print-config", Category: config.Group, Usage: "print the settings in effect and exit", DisableDefaultText: true},
	}, common)
}

// shortFlags holds the one-letter names of flags, which are the same for every command.
var shortFlags = map[string][]string{"dry-run": {"n"}, "quiet": {"q"}, "verbose": {"v"}}

// flagOf returns the flag for a setting. config.Load parses its value, so that flags,
// environment variables and files follow the same rules and produce the same errors.
func flagOf(s *config.Setting) cli.Flag {
	def := s.Empty
	if def == "" {
		def = s.Text()
	}
	switch s.Value.(type) {
	case *bool:
		return &cli.BoolFlag{Name: s.Name, Aliases: shortFlags[s.Name], Category: s.Group, Usage: s.Usage, DisableDefaultText: true}
	case *[]string:
		return &cli.StringSliceFlag{Name: s.Name, Category: s.Group, Usage: s.Usage, DefaultText: def}
	}
	return &cli.StringFlag{Name: s.Name, Category: s.Group, Usage: s.Usage, DefaultText: def}
}

// configFile returns the path of the config file of c's command, or "" if none is used.
func configFile(c *cli.Context) string { return config.File(c.Command.Name, c.String("config")) }

// configure returns the configuration of c's command. check adds the problems that the
// command itself finds. The configuration is nil after an error, and after
// --check-config and --print-config, which end the command.
func configure(c *cli.Context, con *console.Console, check func(*config.Config, *config.Problems)) (*config.Config, error) {
	cfg, err := load(c, con, check)
	if err != nil {
		return nil, err
	}
	if done, err := checkOrPrint(c, con, cfg); done {
		return nil, err
	}
	return cfg, nil
}

// load reads the configuration of c's command and sets up the console. It returns all
// problems with the settings, including those that check adds, as one error.
func load(c *cli.Context, con *console.Console, check func(*config.Config, *config.Problems)) (*config.Config, error) {
	cfg, p, err := config.Load(c.Command.Name, configFile(c), c)
	if err != nil {
		return nil, err
	}
	con.Format(cfg.Logging())
	for _, w := range cfg.Warnings {
		w(con.Logger())
	}
	check(cfg, p)
	return cfg, p.Err(seeHelp(c.Command.Name))
}

// checkOrPrint warns about passwords on the command line. It then performs what
// --check-config or --print-config asks for, and reports whether one of these flags was
// given. cfg must be valid.
func checkOrPrint(c *cli.Context, con *console.Console, cfg *config.Config) (bool, error) {
	warnPasswords(c, con, cfg.SettingsOf(c.Command.Name))
	switch {
	case c.Bool("check-config"):
		file := configFile(c)
		if file == "" {
			return true, hint.Usagef("--check-config: name a file with --config or %s", config.EnvName("config"))
		}
		err := cfg.CheckPlaces(c.Context, con.Logger())
		if err == nil {
			_, err = fmt.Fprintf(c.App.Writer, "%s: ok\n", file)
		}
		return true, err
	case c.Bool("print-config"):
		return true, cfg.Write(c.App.Writer)
	}
	return false, nil
}

// printOld performs --print-config if it was given and the config file belongs to one
// of the old tools; see config.PrintOld. It returns true if it printed the configuration
// or failed, because the command then has nothing left to do.
func printOld(c *cli.Context) (bool, error) {
	file := configFile(c)
	if file == "" || !c.Bool("print-config") {
		return false, nil
	}
	return config.PrintOld(c.Command.Name, file, c.App.Writer)
}
