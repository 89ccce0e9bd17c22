package command

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
)

// example is a command line with an explanation.
type example struct{ text, command string }

// examples holds the examples of each command, for help and man pages.
var examples = map[string][]example{
	"import-bulk": importBulkExamples,
	"stream":      streamExamples,
	"rrd-push":    rrdPushExamples,
	"serve":       serveExamples,
	"runcap":      runcapExamples,
	"supervisor":  supervisorExamples,
	"store":       storeExamples,
}

const (
	helpWidth  = 80
	precedence = "A flag overrides its environment variable, which overrides the config file. " +
		"The variable of --dry-run is TSTATREPO_DRY_RUN, and so on; a list takes one value from its variable."
)

// printHelp prints the help for data, which is an app or a command. It replaces
// urfave/cli's templates, which sort groups by name and repeat every environment
// variable.
func printHelp(w io.Writer, _ string, data any) {
	switch v := data.(type) {
	case *cli.App:
		appHelp(w, v)
	case *cli.Command:
		commandHelp(w, v)
	}
}

func appHelp(w io.Writer, app *cli.App) {
	fmt.Fprintf(w, "%s - %s\n\nUsage: %s COMMAND [flags] [arguments]\n\n", app.Name, app.Usage, app.Name)
	fmt.Fprintln(w, console.Fill(app.Description, "", helpWidth))
	group := "Commands"
	for i, c := range visibleCommands(app) {
		if g := cmp.Or(c.Category, "Commands"); i == 0 || g != group {
			group = g
			fmt.Fprintf(w, "\n%s:\n", group)
		}
		fmt.Fprintf(w, "  %-14s %s\n", c.Name, c.Usage)
	}
	fmt.Fprintf(w, "\nFlags:\n  %-14s %s\n  %-14s %s\n\n", "-h, --help", "show help; 'tstatrepo COMMAND --help' shows that of a command",
		"--version", "print the version and exit")
	exitHelp(w)
}

func commandHelp(w io.Writer, c *cli.Command) {
	before := "Usage:"
	for form := range strings.Lines(cmp.Or(c.UsageText, "[flags] "+c.ArgsUsage)) {
		fmt.Fprintln(w, before, strings.TrimSpace("tstatrepo "+c.Name+" "+form))
		before = "      "
	}
	for p := range strings.SplitSeq(c.Description, "\n\n") {
		fmt.Fprintf(w, "\n%s\n", console.Fill(p, "", helpWidth))
	}
	if ex := examples[c.Name]; len(ex) > 0 {
		fmt.Fprintln(w, "\nExamples:")
		for _, e := range ex {
			fmt.Fprintf(w, "  # %s\n  %s\n", e.text, e.command)
		}
	}
	groups := flagGroups(c)
	for _, g := range groups {
		fmt.Fprintf(w, "\n%s:\n", g.title)
		for _, f := range g.flags {
			left := "  " + f.synopsis()
			text := console.Fill(f.usageDefault(), strings.Repeat(" ", 30), helpWidth)
			if len(left) < 29 {
				text = left + text[len(left):]
			} else {
				text = left + "\n" + text
			}
			fmt.Fprintln(w, text)
		}
	}
	fmt.Fprintln(w)
	if len(groups) > 1 {
		fmt.Fprintf(w, "%s\n\n", console.Fill(precedence, "", helpWidth))
	}
	exitHelp(w)
}

func exitHelp(w io.Writer) {
	fmt.Fprintln(w, "Exit status:")
	for _, e := range exitTexts {
		fmt.Fprintf(w, "  %-9s %s\n", e.status, e.text)
	}
}

// flagDoc documents a flag in help, man pages and completions.
type flagDoc struct {
	names       []string
	placeholder string // "" if the flag takes no value
	usage       string
	def         string
	repeatable  bool
}

type flagGroup struct {
	title string
	flags []flagDoc
}

// flagGroups returns the visible flags of c in one group per category. The groups and
// their flags keep the order in which the flags were defined.
func flagGroups(c *cli.Command) []flagGroup {
	var groups []flagGroup
	flags := c.Flags
	if !c.HideHelp && !slicesHasFlag(flags, "help") {
		flags = append(flags[:len(flags):len(flags)], cli.HelpFlag)
	}
	for _, f := range flags {
		d, ok := f.(interface {
			cli.DocGenerationFlag
			cli.CategorizableFlag
		})
		if !ok || !d.IsVisible() {
			continue
		}
		_, list := f.(*cli.StringSliceFlag)
		doc := flagDoc{names: f.Names(), usage: d.GetUsage(), repeatable: list}
		if d.TakesValue() {
			doc.def = d.GetDefaultText()
			doc.placeholder = "VALUE"
			if _, rest, ok := strings.Cut(doc.usage, "`"); ok {
				doc.placeholder, _, _ = strings.Cut(rest, "`")
			}
		}
		doc.usage = strings.ReplaceAll(doc.usage, "`", "")
		i := 0
		for i < len(groups) && groups[i].title != d.GetCategory() {
			i++
		}
		if i == len(groups) {
			groups = append(groups, flagGroup{title: d.GetCategory()})
		}
		groups[i].flags = append(groups[i].flags, doc)
	}
	return groups
}

func slicesHasFlag(flags []cli.Flag, name string) bool {
	for _, f := range flags {
		if f.Names()[0] == name {
			return true
		}
	}
	return false
}

// synopsis returns the names and the placeholder of f, as in "--jobs N" or "-h,
// --help".
func (f flagDoc) synopsis() string {
	var s string
	for i := len(f.names) - 1; i >= 0; i-- {
		dash := "--"
		if len(f.names[i]) == 1 {
			dash = "-"
		}
		s += dash + f.names[i]
		if i > 0 {
			s += ", "
		}
	}
	if f.placeholder != "" {
		s += " " + f.placeholder
	}
	return s
}

func (f flagDoc) usageDefault() string {
	s := f.usage
	if f.repeatable {
		s += "; repeatable"
	}
	if f.def != "" {
		s += " (default: " + f.def + ")"
	}
	return s
}
