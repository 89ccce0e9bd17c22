package completion

import (
	"bytes"
	"fmt"
	"strings"
)

// Fish returns the completion script for fish.
func Fish(p *Program) []byte {
	var b bytes.Buffer
	b.WriteString("# fish completion for tstatrepo\n" + header)
	fmt.Fprintf(&b, `
function %s
    %s
end

function %s
    set -l words (commandline -opc)
    set -l flags
    for i in (seq (count $words))
        switch $words[$i]
            case %s
                set -a flags $words[$i] $words[(math $i + 1)]
            case '%s=*'
                set -a flags $words[$i]
        end
    end
    %s $flags </dev/null 2>/dev/null | %s
end
`, Zones, strings.ReplaceAll(listZones, "; ", "\n    "), Capabilities, strings.Join(p.ask(), " "), strings.Join(p.ask(), "=*' '"), listCapabilities, listLabels)
	b.WriteString(`
complete -c tstatrepo -n __fish_use_subcommand -f
complete -c tstatrepo -n __fish_use_subcommand -s h -l help -d 'show help'
complete -c tstatrepo -n __fish_use_subcommand -l version -d 'print the version and exit'
`)
	for _, c := range p.Commands {
		fmt.Fprintf(&b, "\ncomplete -c tstatrepo -n __fish_use_subcommand -f -a %s -d '%s'\n", c.Name, fishEscape(c.Usage))
		fishCommand(&b, &c)
	}
	return b.Bytes()
}

// fishCommand writes the completions for a command's arguments and flags.
func fishCommand(b *bytes.Buffer, c *Command) {
	seen := "__fish_seen_subcommand_from " + c.Name
	cond := fmt.Sprintf("complete -c tstatrepo -n '%s'", seen)
	switch {
	case len(c.Arguments) == 0 || c.takesFiles():
	case len(c.Arguments) == 1:
		fmt.Fprintf(b, "%s -a '%s'\n", cond, fishReply(c.Arguments[0].Complete))
	default: // the second argument follows the first, which is a fixed word
		words := c.Arguments[0].Complete
		fmt.Fprintf(b, "complete -c tstatrepo -n '%s; and not __fish_seen_subcommand_from %s' -a '%s'\n", seen, words, words)
		fmt.Fprintf(b, "complete -c tstatrepo -n '%s; and __fish_seen_subcommand_from %s' -a '%s'\n", seen, words, fishReply(c.Arguments[1].Complete))
	}
	if !c.takesFiles() {
		fmt.Fprintf(b, "%s -f\n", cond)
	}
	for _, f := range c.Flags {
		fmt.Fprint(b, cond)
		for _, n := range f.Names {
			if len(n) == 1 {
				fmt.Fprintf(b, " -s %s", n)
			} else {
				fmt.Fprintf(b, " -l %s", n)
			}
		}
		switch {
		case f.Placeholder == "":
		case f.Complete == "":
			b.WriteString(" -x")
		case f.Complete == File:
			b.WriteString(" -r -F")
		default:
			fmt.Fprintf(b, " -x -a '%s'", fishReply(f.Complete))
		}
		fmt.Fprintf(b, " -d '%s'\n", fishEscape(f.Usage))
	}
}

// fishReply returns the completion for a value that is not a file, given the Complete
// field of its Flag or Argument.
func fishReply(complete string) string {
	switch complete {
	case Dir:
		return "(__fish_complete_directories)"
	case Zones, Capabilities:
		return "(" + complete + ")"
	}
	if words, ok := urls(complete); ok {
		return words + " (__fish_complete_directories)"
	}
	return complete
}

func fishEscape(text string) string {
	return strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text)
}
