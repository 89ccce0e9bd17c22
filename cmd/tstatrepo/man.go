package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// manDate is fixed, so that builds are the same on every day.
const manDate = "2026-11-22"

// page writes a manual page with the macros of man(7).
type page struct{ bytes.Buffer }

func newPage(name string, section int, what string) *page {
	p := &page{}
	p.WriteString(header(`.\"`))
	fmt.Fprintf(p, ".TH %s %d %s tstatrepo\n", strings.ToUpper(name), section, manDate)
	p.section("NAME")
	fmt.Fprintf(p, "%s \\- %s\n", roff(name), roff(what))
	return p
}

func (p *page) section(title string) { fmt.Fprintf(p, ".SH %s\n", title) }

// text writes paragraphs, which an empty line separates.
func (p *page) text(s string) {
	for i, par := range strings.Split(s, "\n\n") {
		if i > 0 {
			p.WriteString(".PP\n")
		}
		p.lines(par)
	}
}

// lines breaks the text for the reader of the source and of diffs.
func (p *page) lines(s string) {
	for line := range strings.Lines(fill(s, "", 72)) {
		p.WriteString(roff(strings.TrimSuffix(line, "\n")) + "\n")
	}
}

// item writes a paragraph with a tag in bold.
func (p *page) item(tag, text string) {
	fmt.Fprintf(p, ".TP\n.B %s\n", roff(tag))
	p.lines(text)
}

// literal writes an indented line as it is.
func (p *page) literal(s string) {
	fmt.Fprintf(p, ".RS 4\n.nf\n%s\n.fi\n.RE\n", roff(s))
}

func (p *page) exitStatus() {
	p.section(`"EXIT STATUS"`)
	for _, e := range exitTexts {
		p.item(e.status, upperFirst(e.text)+".")
	}
}

// seeAlso lists other pages as "name(section)".
func (p *page) seeAlso(pages ...string) {
	p.section(`"SEE ALSO"`)
	for i, name := range pages {
		name, section, _ := strings.Cut(strings.TrimSuffix(name, ")"), "(")
		comma := ","
		if i == len(pages)-1 {
			comma = ""
		}
		fmt.Fprintf(p, ".BR %s (%s)%s\n", roff(name), section, comma)
	}
}

// roff escapes a line of text.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `'`, `\(aq`, `~`, `\(ti`, `^`, `\(ha`, "`", `\(ga`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

// appPage returns tstatrepo(1).
func appPage(app *cli.App) []byte {
	p := newPage(app.Name, 1, app.Usage)
	p.section("SYNOPSIS")
	fmt.Fprint(p, ".B tstatrepo\n.I COMMAND\n[flags] [arguments]\n.br\n.B tstatrepo\n[\\fB\\-\\-help\\fR | \\fB\\-\\-version\\fR]\n")
	p.section("DESCRIPTION")
	p.text(app.Description)
	p.section("COMMANDS")
	also := []string{}
	for _, c := range visibleCommands(app) {
		p.item(c.Name, upperFirst(c.Usage)+".")
		if c.Category != groupAbout {
			also = append(also, "tstatrepo-"+c.Name+"(1)")
		}
	}
	p.section("OPTIONS")
	p.item("-h, --help", "Show help, that of a command after its name.")
	p.item("--version", "Print the version and exit.")
	p.text("Flags and arguments may be mixed; -- ends the flags.")
	p.exitStatus()
	p.environment()
	p.seeAlso(append(also, "tstatrepo.toml(5)", "tstatrepo-ack(7)", "tstatrepo-migrate(7)")...)
	return p.Bytes()
}

func (p *page) environment() {
	p.section("ENVIRONMENT")
	p.item("TSTATREPO_FLAG", precedence)
	p.item("STATE_DIRECTORY", "The default of --state-dir; systemd sets it.")
}

// commandPage returns the page of a command.
func commandPage(c *cli.Command) []byte {
	p := newPage("tstatrepo-"+c.Name, 1, c.Usage)
	p.section("SYNOPSIS")
	fmt.Fprintf(p, ".B tstatrepo %s\n[flags]\n", roff(c.Name))
	if c.ArgsUsage != "" {
		fmt.Fprintf(p, ".I %s\n", roff(c.ArgsUsage))
	}
	p.section("DESCRIPTION")
	p.text(c.Description)
	p.section("OPTIONS")
	for _, g := range flagGroups(c) {
		fmt.Fprintf(p, ".SS %s\n", g.title)
		for _, f := range g.flags {
			p.item(f.synopsis(), upperFirst(f.usageDefault())+".")
		}
	}
	if ex := examples[c.Name]; len(ex) > 0 {
		p.section("EXAMPLES")
		for i, e := range ex {
			if i > 0 {
				p.WriteString(".PP\n")
			}
			p.lines(upperFirst(e.text) + ":")
			p.literal(e.command)
		}
	}
	listens := slices.Contains([]string{"import-bulk", "stream", "rrd-push", "supervisor"}, c.Name)
	switch {
	case c.Name == "serve":
		p.adminSection()
		p.limitsSection()
	case listens:
		p.section("LIMITS")
		p.text("tstatrepo-serve(1) lists all limits for peers.")
	}
	p.exitStatus()
	p.environment()
	p.section("FILES")
	p.item(serviceFile, "The config file of services. serve reads it unless --config names another file. import-bulk, stream and rrd-push do too if it has a section for them.")
	p.item("/var/lib/tstatrepo", "The state folder of root: locks, files of rejected lines and positions of streams. Others use ~/.local/state/tstatrepo.")
	also := []string{"tstatrepo(1)", "tstatrepo.toml(5)"}
	if listens {
		also = append(also, "tstatrepo-serve(1)")
	}
	if c.Name == "stream" {
		also = append(also, "tstatrepo-ack(7)")
	}
	p.seeAlso(also...)
	return p.Bytes()
}

// configPage returns tstatrepo.toml(5).
func configPage() []byte {
	p := newPage("tstatrepo.toml", 5, "settings of tstatrepo")
	p.section("DESCRIPTION")
	p.text("The file is TOML and is read when --config or TSTATREPO_CONFIG names it. If neither names a file, serve reads " + serviceFile + "; import-bulk, stream and " +
		"rrd-push read it if it has a section for them. --config /dev/null prevents that. " + precedence +
		"\n\nKeys have the names of the flags. Settings of all commands stand at the top, those of a command in a table " +
		"of its name. serve has more tables, which have no flags. Unknown keys are errors. Durations and sizes are text, like \"2h\" and \"400MiB\".")
	for _, s := range newConfig().sections {
		switch {
		case s.name == "":
			p.section(`"ALL COMMANDS"`)
		case s.add != nil:
			p.section("[[" + roff(s.name) + "]]")
			p.text("As many as there are.")
		default:
			p.section("[" + roff(s.name) + "]")
		}
		for _, set := range s.settings {
			text := set.sentence()
			if set.empty != "" {
				text += " Default: " + set.empty + "."
			}
			p.item(set.name+" = "+set.toml(), text)
		}
	}
	p.section("EXAMPLE")
	p.literal("[import-bulk]\nsources = [\"/var/lib/tstat\"]\nto = [\"parquet:/srv/tstat\"]\nprobe = \"turin\"\nsettle = \"1h\"")
	p.seeAlso("tstatrepo(1)", "tstatrepo-import-bulk(1)", "tstatrepo-serve(1)", "tstatrepo-stream(1)")
	return p.Bytes()
}

func upperFirst(s string) string {
	if s == "" || strings.HasPrefix(s, "-") {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
