package completion

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// bashFiles is the shell command that completes a file name. Only file names use
// compopt -o filenames, which appends a slash to folders.
const bashFiles = `mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null`

// Bash returns the completion script for bash.
func Bash(p *Program) []byte {
	var b bytes.Buffer
	b.WriteString("# bash completion for tstatrepo\n" + header)
	fmt.Fprintf(&b, `
# Prints time zones.
_tstatrepo_zones() {
    %s
}

# Prints the capabilities of the supervisor that the command line names.
_tstatrepo_capabilities() {
    local words flags=() i
    read -ra words <<<"$COMP_LINE" # in COMP_WORDS a URL is several words
    for ((i = 1; i < ${#words[@]}; i++)); do
        case ${words[i]} in
        %s)
            flags+=("${words[i]}" "${words[i + 1]}") ;;
        %s)
            flags+=("${words[i]}") ;;
        esac
    done
    %s "${flags[@]}" </dev/null 2>/dev/null | %s
}

# Offers those lines of the input that begin with the current word. Unlike
# compgen -W it does not evaluate them.
_tstatrepo_offer() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        [[ $line == "$cur"* ]] && COMPREPLY+=("$line")
    done
}
`, strings.ReplaceAll(listZones, "; ", "\n    "), strings.Join(p.ask(), " | "), strings.Join(p.ask(), "=* | ")+"=*", listCapabilities, listLabels)
	fmt.Fprintf(&b, `
_tstatrepo() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd='' i
    local commands=%q
    # bash makes a word of the "=" in --flag=value
    if [[ $cur == "=" ]]; then
        cur=
    elif [[ $prev == "=" ]] && ((COMP_CWORD > 1)); then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ " $commands " == *" ${COMP_WORDS[i]} "* ]]; then
            cmd=${COMP_WORDS[i]}
            break
        fi
    done
    COMPREPLY=()
    case $cmd in
`, strings.Join(p.names(), " "))
	for _, c := range p.Commands {
		bashCommand(&b, &c)
	}
	b.WriteString(`    *)
        if [[ $cur == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W "--help --version" -- "$cur")
        else
            mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$cur")
        fi ;;
    esac
}

complete -F _tstatrepo tstatrepo
`)
	return b.Bytes()
}

// bashCommand writes the case clause that completes the flags and arguments of c.
func bashCommand(b *bytes.Buffer, c *Command) {
	fmt.Fprintf(b, "    %s)\n        case $prev in\n", c.Name)
	var flags, free []string
	for _, f := range c.Flags {
		for _, n := range f.Names {
			flags = append(flags, dashed(n))
		}
		switch {
		case f.Placeholder == "":
		case f.Complete == "":
			free = append(free, dashed(f.Names[0]))
		default:
			fmt.Fprintf(b, "        %s)\n            %s\n            return ;;\n", dashed(f.Names[0]), bashReply(f.Complete))
		}
	}
	if len(free) > 0 {
		fmt.Fprintf(b, "        %s)\n            return ;;\n", strings.Join(free, " | "))
	}
	argument := "COMPREPLY=()"
	switch len(c.Arguments) {
	case 0:
	case 1:
		argument = bashReply(c.Arguments[0].Complete)
	default: // the second argument follows the first, which is a fixed word
		words := c.Arguments[0].Complete
		argument = fmt.Sprintf(`for ((i++; i < COMP_CWORD; i++)); do
                if [[ " %s " == *" ${COMP_WORDS[i]} "* ]]; then
                    %s
                    return
                fi
            done
            %s`, words, strings.ReplaceAll(bashReply(c.Arguments[1].Complete), "\n", "\n        "), bashReply(words))
	}
	fmt.Fprintf(b, `        esac
        if [[ $cur == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W %q -- "$cur")
        else
            %s
        fi ;;
`, strings.Join(flags, " "), argument)
}

// bashReply returns the shell command that completes a value, given the Complete field of
// its Flag or Argument.
func bashReply(complete string) string {
	switch complete {
	case File:
		return bashFiles
	case Dir:
		return strings.Replace(bashFiles, "-f", "-d", 1)
	case Zones, Capabilities:
		return "_tstatrepo_offer < <(" + complete + ")"
	}
	if !strings.Contains(complete, ":") {
		return fmt.Sprintf(`mapfile -t COMPREPLY < <(compgen -W %q -- "$cur")`, complete)
	}
	// Keep bash from adding a space after a URL scheme.
	words, folders := urls(complete)
	if words = strconv.Quote(words); folders {
		words += " -d"
	}
	return fmt.Sprintf(`mapfile -t COMPREPLY < <(compgen -W %s -- "$cur")
            if [[ ${COMPREPLY[*]} == *:* ]]; then compopt -o nospace; else compopt -o filenames; fi 2>/dev/null`, words)
}
