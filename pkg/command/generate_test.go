package command

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cpuguy83/go-md2man/v2/md2man"

	"github.com/tstatrepo/tstatrepo/pkg/internal/admin"
	"github.com/tstatrepo/tstatrepo/pkg/internal/completion"
	"github.com/tstatrepo/tstatrepo/pkg/internal/config"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/mplane"
)

var update = flag.Bool("update", false, "TestGenerated writes the generated files; `make generate` sets it")

// manDate is fixed, so that equal sources result in equal pages.
const manDate = "2026-11-30"

const root = "../.."

// messageList and metricList list the messages and metrics that operators search for
// and use in alerts, so that every change is noticed.
const (
	messageList = "pkg/command/testdata/messages.txt"
	metricList  = "pkg/command/testdata/metrics.txt"
)

// TestGenerated fails when a generated file is stale.
func TestGenerated(t *testing.T) {
	want, err := generated()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		file := filepath.Join(root, name)
		if *update {
			if err := os.WriteFile(file, want[name], 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want[name]) {
			t.Errorf("%s is stale (%v): run make generate", name, err)
		}
	}
	for _, dir := range []string{"man", "completions"} {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if want[dir+"/"+e.Name()] == nil && e.Name() != "man.go" {
				t.Errorf("%s/%s is not generated: remove it", dir, e.Name())
			}
		}
	}
}

// TestEmbeddedPages checks that the program contains all man pages of the repository,
// and that each command has a page.
func TestEmbeddedPages(t *testing.T) {
	sources, err := filepath.Glob(filepath.Join(root, "man", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, source := range sources {
		want = append(want, strings.TrimSuffix(filepath.Base(source), ".md"))
	}
	pages := pageNames()
	if !slices.Equal(pages, want) {
		t.Errorf("the program has the pages %q, want %q", pages, want)
	}
	for _, c := range visibleCommands(newApp(console.New(io.Discard, false))) {
		if page := "tstatrepo-" + c.Name + ".1"; c.Category != groupAbout && !slices.Contains(pages, page) {
			t.Errorf("no man page %s", page)
		}
	}
}

// generated returns the contents of the generated files by their path in the
// repository. Only parts of the Markdown pages are generated; see fillBlocks.
func generated() (map[string][]byte, error) {
	app := newApp(console.New(io.Discard, false))
	registry, err := mplane.TstatRegistryFile()
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{
		"conf/tstatrepo.toml": defaultConfigFile(),
		"conf/registry.json":  registry,
	}
	if files[messageList], err = messages(); err != nil {
		return nil, err
	}
	if files[metricList], err = metrics(); err != nil {
		return nil, err
	}
	for _, shell := range completion.Shells {
		name := "tstatrepo." + shell
		if shell == "zsh" { // zsh requires this file name
			name = "_tstatrepo"
		}
		files["completions/"+name] = completion.Generator(shell)(completionProgram(app))
	}
	sources, err := filepath.Glob(filepath.Join(root, "man", "*.md"))
	if err != nil {
		return nil, err
	}
	blocks := manBlocks()
	for _, source := range sources {
		text, err := os.ReadFile(source)
		if err != nil {
			return nil, err
		}
		name := filepath.Base(source)
		if text, err = fillBlocks(text, blocks); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		files["man/"+name] = text
		page := strings.TrimSuffix(name, ".md")
		if files["man/"+page], err = manPage(page, text); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return files, nil
}

// defaultConfigFile returns the commented default configuration.
func defaultConfigFile() []byte {
	var b bytes.Buffer
	b.WriteString(`# Settings of tstatrepo: name this file with --config or TSTATREPO_CONFIG.
# Every value shown is the default. See tstatrepo.toml(5).

`)
	_ = config.WriteDefaults(&b) // writing to a buffer cannot fail
	return b.Bytes()
}

var block = regexp.MustCompile(`(?s)(<!-- generated: ([^\n]*) -->\n).*?(<!-- end -->\n)`)

// fillBlocks replaces the text between a line <!-- generated: NAME --> and the
// next line <!-- end --> with the block of that name.
func fillBlocks(text []byte, blocks map[string]string) ([]byte, error) {
	var missing []string
	text = block.ReplaceAllFunc(text, func(m []byte) []byte {
		part := block.FindSubmatch(m)
		content, ok := blocks[string(part[2])]
		if !ok {
			missing = append(missing, string(part[2]))
		}
		return slices.Concat(part[1], []byte("\n"+content+"\n"), part[3])
	})
	if missing != nil {
		return nil, fmt.Errorf("no generated block %q", missing)
	}
	return text, nil
}

// manBlocks returns the Markdown of the parts of pages that are generated from
// the code.
func manBlocks() map[string]string {
	app := newApp(console.New(io.Discard, false))
	blocks := map[string]string{}
	var b strings.Builder
	finish := func(name string) {
		blocks[name] = strings.TrimSpace(b.String()) + "\n"
		b.Reset()
	}
	item := func(tag, text string) {
		fmt.Fprintf(&b, "- `%s`: %s\n", tag, strings.TrimSpace(console.Fill(markdown(text), "  ", 100)))
	}
	for _, e := range exitTexts {
		item(e.status, console.UpperFirst(e.text)+".")
	}
	finish("exit-status")
	for _, c := range visibleCommands(app) {
		item(c.Name, console.UpperFirst(c.Usage)+".")
	}
	finish("commands")
	for _, c := range visibleCommands(app) {
		for _, g := range flagGroups(c) {
			fmt.Fprintf(&b, "\n### %s\n\n", g.title)
			for _, f := range g.flags {
				item(f.synopsis(), console.UpperFirst(f.usageDefault())+".")
			}
		}
		finish("options " + c.Name)
		for _, e := range examples[c.Name] {
			fmt.Fprintf(&b, "%s:\n\n```\n%s\n```\n\n", console.Fill(markdown(console.UpperFirst(e.text)), "", 100), e.command)
		}
		finish("examples " + c.Name)
	}
	for _, s := range config.New().Sections {
		switch {
		case s.Name == "":
			b.WriteString("\n## ALL COMMANDS\n\n")
		case s.Add != nil:
			fmt.Fprintf(&b, "\n## [[%s]]\n\nThis table may be repeated.\n\n", s.Name)
		default:
			fmt.Fprintf(&b, "\n## [%s]\n\n", s.Name)
		}
		for _, set := range s.Settings {
			item(set.Name+" = "+set.TOML(), set.Comment())
		}
	}
	finish("keys")
	for _, k := range admin.Keys() {
		item(k.Path, "("+k.Type+") "+k.Doc+".")
	}
	finish("status")
	return blocks
}

var (
	manRef = regexp.MustCompile(`tstatrepo[-.a-z]*\([157]\)`)
	// phrase matches text in single quotes, or up to the next space.
	phrase = regexp.MustCompile(`'[^' ][^']*'|\S+`)
	// coded matches text that Markdown shows as code: quoted texts, flags, URLs, and
	// names with characters that have a meaning in Markdown.
	coded = regexp.MustCompile("^(\\(?)('[^']+'|--[a-z][-a-z]*|\\S*(?:://|[_*{}<>~$`=\\\\])\\S*?)([.,;:)]*)$")
)

// markdown returns the text of a help line as Markdown.
func markdown(s string) string {
	return phrase.ReplaceAllStringFunc(s, func(w string) string {
		if manRef.MatchString(w) {
			return manRef.ReplaceAllStringFunc(w, func(ref string) string {
				name, section, _ := strings.Cut(strings.TrimSuffix(ref, ")"), "(")
				return fmt.Sprintf("[%s](%s.%s.md)", ref, name, section)
			})
		}
		if m := coded.FindStringSubmatch(w); m != nil {
			return m[1] + "`" + strings.Trim(m[2], "'") + "`" + m[3]
		}
		return w
	})
}

var (
	firstLine = regexp.MustCompile(`^# (\S+)\((\d)\)\n`)
	pageLink  = regexp.MustCompile(`\[([-.a-z]+)\((\d)\)\]\([-.a-z]+\.\d\.md\)`)
	// tagged matches an item of a list that starts with a tag in backquotes or in bold.
	// A man page shows it as an indented paragraph.
	tagged      = regexp.MustCompile("(?m)^- ((?:`[^`\n]+`(?:, )?)+|\\*\\*[^*\n]+\\*\\*): (.*(?:\n  .*)*)\n")
	table       = regexp.MustCompile(`(?m)(?:^\|.*\|\n){3,}`)
	comments    = regexp.MustCompile(`(?m)^<!--.*-->\n`)
	literal     = regexp.MustCompile(`(?s)\.EX\n.*?\.EE\n`)
	empty       = regexp.MustCompile(`\n{2,}`)
	headingLast = regexp.MustCompile(`\n\.S[HS] [^\n]*\n$`)
	textLine    = regexp.MustCompile(`(?m)^[^.\n].*$`)
)

// manPage renders Markdown as a man page.
func manPage(name string, text []byte) ([]byte, error) {
	m := firstLine.FindSubmatch(text)
	if m == nil || name != fmt.Sprintf("%s.%s", m[1], m[2]) {
		return nil, fmt.Errorf("does not begin with # NAME(SECTION)")
	}
	text = comments.ReplaceAll(text[len(m[0]):], nil)
	text = pageLink.ReplaceAll(text, []byte("**$1**($2)"))
	text = table.ReplaceAllFunc(text, tableItems)
	text = tagged.ReplaceAllFunc(text, func(item []byte) []byte {
		m := tagged.FindSubmatch(item)
		return fmt.Appendf(nil, "\n%s\n: %s\n\n", m[1], bytes.ReplaceAll(m[2], []byte("\n  "), []byte("\n")))
	})
	text = md2man.Render(text)

	// Outside literal text, empty lines are dropped. ASCII characters that groff would
	// replace are escaped, so that text can be copied.
	ascii := strings.NewReplacer(`\-`, `\-`, `\\`, `\e`, `-`, `\-`, `'`, `\(aq`, `~`, `\(ti`, `^`, `\(ha`, "`", `\(ga`)
	var b bytes.Buffer
	_, rest, _ := bytes.Cut(text, []byte(".nh\n"))
	fmt.Fprintf(&b, ".\\\" Generated from %s.md by make generate; do not edit.\n.nr HY 0\n.TH %s %s %s tstatrepo\n.nh\n", name, strings.ToUpper(string(m[1])), m[2], manDate)
	escape := func(s []byte) {
		for _, r := range string(textLine.ReplaceAllFunc(s, func(line []byte) []byte { return []byte(ascii.Replace(string(line))) })) {
			switch {
			case r < 0x80:
				b.WriteRune(r)
			case r == '…': // groff drops this character if the locale is not UTF-8
				b.WriteString(`\&...`)
			default:
				fmt.Fprintf(&b, `\[u%04X]`, r)
			}
		}
	}
	for len(rest) > 0 {
		at := literal.FindIndex(rest)
		if at == nil {
			at = []int{len(rest), len(rest)}
		}
		escape(empty.ReplaceAll(rest[:at[0]], []byte("\n")))
		if at[0] < at[1] {
			if !headingLast.Match(b.Bytes()) {
				b.WriteString(".PP\n")
			}
			b.WriteString(".RS 4\n")
			escape(rest[at[0]:at[1]])
			b.WriteString(".RE\n")
		}
		rest = rest[at[1]:]
	}
	return b.Bytes(), nil
}

// tableItems converts a Markdown table to a list with an item for each row, because
// most tables are too wide for a man page. The first cell is the tag; each other cell
// follows the heading of its column.
func tableItems(table []byte) []byte {
	cells := func(row string) []string {
		list := strings.Split(strings.Trim(row, "|"), " | ")
		for i := range list {
			list[i] = strings.TrimSpace(list[i])
		}
		return list
	}
	rows := strings.Split(strings.TrimSpace(string(table)), "\n")
	head := cells(rows[0])
	var b bytes.Buffer
	for _, row := range rows[2:] {
		row := cells(row)
		tag := row[0]
		if strings.Count(tag, "`") != 2 || strings.Trim(tag, "`") == tag {
			tag = "**" + strings.ReplaceAll(tag, "`", "") + "**"
		}
		var rest []string
		for i, cell := range row[1:] {
			if cell != "" && len(head) > 2 && head[i+1] != "" {
				cell = head[i+1] + ": " + cell
			}
			if cell != "" {
				rest = append(rest, cell)
			}
		}
		fmt.Fprintf(&b, "- %s: %s\n", tag, strings.Join(rest, "; "))
	}
	return b.Bytes()
}

// TestLinks checks that the relative links of documents have a target, and that
// links between pages of the manual show the name of their target.
func TestLinks(t *testing.T) {
	out, err := exec.Command("git", "-C", root, "ls-files", "*.md").Output()
	sources := strings.Fields(string(out))
	if err != nil || len(sources) < 10 {
		t.Fatal(sources, err)
	}
	link := regexp.MustCompile(`\[([^\]]*)\]\(([^):#]+)[^):]*\)`)
	for _, name := range sources {
		source := filepath.Join(root, name)
		text, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(source), m[2])); err != nil {
				t.Errorf("%s: %s: %v", filepath.Base(source), m[0], err)
			}
			name, section, _ := strings.Cut(strings.TrimSuffix(m[1], ")"), "(")
			if filepath.Base(filepath.Dir(source)) == "man" && m[2] != name+"."+section+".md" {
				t.Errorf("%s: %s shows another name", filepath.Base(source), m[0])
			}
		}
	}
}

// TestTroubleshooting checks that each message of tstatrepo-troubleshooting(7)
// occurs in one of the packages of its section.
func TestTroubleshooting(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "man", "tstatrepo-troubleshooting.7.md"))
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string][]string{
		"IMPORTS":    {"pkg/command", "pkg/internal/config", "pkg/internal/bulk", "pkg/internal/mathproto", "pkg/tstat", "pkg/internal/state"},
		"STORES":     {"pkg/internal/store/parquet", "pkg/internal/store/clickhouse"},
		"LIVE LINES": {"pkg/internal/stream", "pkg/internal/stream/batch", "pkg/internal/stream/encode", "pkg/internal/stream/source", "pkg/internal/stream/sink", "pkg/internal/exporter"},
		"RRDS":       {"pkg/internal/rrdpush"},
		"MPLANE":     {"pkg/internal/mplane/component", "pkg/internal/exporter"},
	}
	item := regexp.MustCompile("(?m)^- ((?:`[^`]+`,? ?)+):")
	message := regexp.MustCompile("`([^`]+)`")
	values := regexp.MustCompile(`…|\b(?:N|M|DIR)\b`) // placeholders for values
	for _, section := range strings.Split(string(page), "\n## ") {
		title, text, _ := strings.Cut(section, "\n")
		if len(packages[title]) == 0 {
			continue
		}
		var code strings.Builder
		for _, pkg := range packages[title] {
			code.WriteString(source(t, pkg))
		}
		found := 0
		for _, m := range item.FindAllStringSubmatch(text, -1) {
			for _, msg := range message.FindAllStringSubmatch(m[1], -1) {
				found++
				for _, part := range values.Split(msg[1], -1) {
					if part = strings.Trim(part, " ,:"); !strings.Contains(code.String(), part) {
						t.Errorf("%s: %q: no message has %q", title, msg[1], part)
					}
				}
			}
		}
		if found == 0 {
			t.Errorf("%s: no messages", title)
		}
		delete(packages, title)
	}
	for title := range packages {
		t.Errorf("the page has no section %s", title)
	}
}

// TestAlertTable checks the tables in tstatrepo-troubleshooting(7). Their metrics and
// messages must exist and have the stated level. All metrics of the alert rules, and
// all messages of level error, must be in the tables.
func TestAlertTable(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	_, page, _ := strings.Cut(read("man/tstatrepo-troubleshooting.7.md"), "\n## ALERTS\n")
	page, _, _ = strings.Cut(page, "\n## ")
	logged, metrics := read(messageList), read(metricList)
	levels := map[string]string{"error": "error", "warning": "warn"}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (\\w+)").FindAllStringSubmatch(page, -1) {
		text, level := m[1], levels[m[2]]
		if level != "" && !regexp.MustCompile(`(?m)^`+level+` +\S+: `+regexp.QuoteMeta(text)+`(  |$)`).MatchString(logged) {
			t.Errorf("no message %q of level %s", text, m[2])
		}
	}
	metric := regexp.MustCompile(`\btstatrepo_\w+`)
	for _, name := range metric.FindAllString(page, -1) {
		if !strings.Contains(metrics, "\n"+name+"{") {
			t.Errorf("no metric %s", name)
		}
	}
	rules := read("conf/prometheus/tstatrepo.rules.yml")
	for _, m := range regexp.MustCompile(`\\"([^"]+)\\"`).FindAllStringSubmatch(rules, -1) {
		if !strings.Contains(logged, ": "+m[1]+"  ") {
			t.Errorf("no message %q, which an alert names", m[1])
		}
	}
	for _, name := range metric.FindAllString(rules, -1) {
		if !strings.Contains(page, "`"+name+"`") {
			t.Errorf("the page lacks the metric %s of the alert rules", name)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^error +\S+: (.*?)(?:  |$)`).FindAllStringSubmatch(logged, -1) {
		if !strings.Contains(page, "`"+m[1]+"`") {
			t.Errorf("the page lacks the error %q", m[1])
		}
	}
}
