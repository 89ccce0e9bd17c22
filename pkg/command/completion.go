package command

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/config"
)

// The completions are static: they do not evaluate what was typed, as those of
// urfave/cli do, and run the program only for capabilities.

// Values that a shell looks up at completion. Each is the name of a function in
// the generated files.
const (
	zones        = "_tstatrepo_zones"
	capabilities = "_tstatrepo_capabilities"
)

// listZones is a command of a shell that prints time zones, one a line. The
// program has zones built in, but cannot list them.
const listZones = `printf "%s\n" UTC Local; cut -sf3 /usr/share/zoneinfo/zone.tab 2>/dev/null | grep /`

// listCapabilities and listLabels are the two commands of a pipeline that prints
// the labels that a supervisor offers; the flags of listFlags follow the first
// command. Labels come from peers, so only plain names are printed.
const (
	listCapabilities = "tstatrepo runcap --list --timeout 2s"
	listLabels       = `sed -n "s/^Capability \([A-Za-z0-9_.-]*\) (token .*/\1/p"`
)

// listFlags are the flags that say which supervisor is asked, and how.
func listFlags() (flags []string) {
	flags = []string{"--config"}
	for _, s := range config.New().Of("runcap") {
		if s.Group == "Network" {
			flags = append(flags, dashed(s.Name))
		}
	}
	return flags
}

// bashFiles completes a file; only there may bash add slashes to folders.
const bashFiles = `mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null`

// argumentWords returns the possible words of the first argument of a command;
// nil if it is free text or a file.
func argumentWords(app *cli.App, c *cli.Command) (words []string) {
	switch c.Name {
	case "help":
		for _, c := range visibleCommands(app) {
			words = append(words, c.Name)
		}
	case "runcap":
		words = []string{capabilities}
	case "store":
		words = config.StoreActions()
	case "completion":
		words = completionShells
	case "man":
		words = pageNames()
	}
	return words
}

func bashCompletion(app *cli.App) []byte {
	var b bytes.Buffer
	var names []string
	for _, c := range visibleCommands(app) {
		names = append(names, c.Name)
	}
	b.WriteString("# bash completion for tstatrepo\n" + header("#"))
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
`, strings.ReplaceAll(listZones, "; ", "\n    "), strings.Join(listFlags(), " | "), strings.Join(listFlags(), "=* | ")+"=*", listCapabilities, listLabels)
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
`, strings.Join(names, " "))
	for _, c := range visibleCommands(app) {
		fmt.Fprintf(&b, "    %s)\n        case $prev in\n", c.Name)
		var flags, free []string
		eachFlag(c, func(d flagDoc, complete string) {
			for _, n := range d.names {
				flags = append(flags, dashed(n))
			}
			if d.placeholder == "" {
				return
			}
			reply := fmt.Sprintf(`mapfile -t COMPREPLY < <(compgen -W %q -- "$cur")`, complete)
			switch complete {
			case "":
				free = append(free, dashed(d.names[0]))
				return
			case "file":
				reply = bashFiles
			case "dir":
				reply = strings.Replace(bashFiles, "-f", "-d", 1)
			case zones, capabilities:
				reply = bashOffer(complete)
			default:
				if strings.Contains(complete, ":") {
					reply = bashURLs(complete)
				}
			}
			fmt.Fprintf(&b, "        %s)\n            %s\n            return ;;\n", dashed(d.names[0]), reply)
		})
		if len(free) > 0 {
			fmt.Fprintf(&b, "        %s)\n            return ;;\n", strings.Join(free, " | "))
		}
		argument := bashFiles
		switch words := argumentWords(app, c); {
		case c.Name == "store":
			argument = fmt.Sprintf(`for ((i++; i < COMP_CWORD; i++)); do
                if [[ " %[1]s " == *" ${COMP_WORDS[i]} "* ]]; then
                    %[2]s
                    return
                fi
            done
            mapfile -t COMPREPLY < <(compgen -W %[1]q -- "$cur")`, strings.Join(words, " "),
				strings.ReplaceAll(bashURLs(config.CompleteStores()), "\n", "\n        "))
		case c.Name == "runcap":
			argument = bashOffer(capabilities)
		case words != nil:
			argument = fmt.Sprintf(`mapfile -t COMPREPLY < <(compgen -W %q -- "$cur")`, strings.Join(words, " "))
		case !takesFiles(c):
			argument = "COMPREPLY=()"
		}
		fmt.Fprintf(&b, `        esac
        if [[ $cur == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W %q -- "$cur")
        else
            %s
        fi ;;
`, strings.Join(flags, " "), argument)
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

// bashOffer completes with the lines that a function prints.
func bashOffer(function string) string { return "_tstatrepo_offer < <(" + function + ")" }

// bashURLs completes with config.CompleteStores(), and adds no space to a scheme.
func bashURLs(words string) string {
	schemes, folders := strings.CutPrefix(words, "dir ")
	if schemes = strconv.Quote(schemes); folders {
		schemes += " -d"
	}
	return fmt.Sprintf(`mapfile -t COMPREPLY < <(compgen -W %s -- "$cur")
            if [[ ${COMPREPLY[*]} == *:* ]]; then compopt -o nospace; else compopt -o filenames; fi 2>/dev/null`, schemes)
}

// zshEscape escapes the characters that _arguments gives a meaning.
func zshEscape(text string) string {
	return strings.NewReplacer(`'`, `'\''`, `[`, `\[`, `]`, `\]`, `:`, `\:`).Replace(text)
}

// zshWords completes with words, or with config.CompleteStores().
func zshWords(words string) string {
	if schemes, folders := strings.CutPrefix(words, "dir "); folders {
		return `{compadd -S "" -- ` + zshEscape(schemes) + "; _files -/}"
	}
	return "(" + zshEscape(words) + ")"
}

func zshCompletion(app *cli.App) []byte {
	escape := zshEscape
	var b bytes.Buffer
	b.WriteString("#compdef tstatrepo\n" + header("#"))
	fmt.Fprintf(&b, `
_tstatrepo_zones() {
  compadd "$@" -- ${(f)"$(%s)"}
}

_tstatrepo_capabilities() {
  local -a flags
  local i
  for ((i = 1; i <= $#words; i++)); do
    case ${(Q)words[i]} in
    (%s) flags+=("${(Q)words[i]}" "${(Q)words[i+1]}") ;;
    (%s) flags+=("${(Q)words[i]}") ;;
    esac
  done
  compadd "$@" -- ${(f)"$(%s "${flags[@]}" </dev/null 2>/dev/null | %s)"}
}
`, listZones, strings.Join(listFlags(), "|"), strings.Join(listFlags(), "=*|")+"=*", listCapabilities, listLabels)
	b.WriteString(`
local curcontext="$curcontext" state line
typeset -A opt_args

_arguments -C \
  '(- *)'{-h,--help}'[show help]' \
  '(- *)--version[print the version and exit]' \
  '1: :->command' \
  '*:: :->arguments'

case $state in
command)
  local -a commands=(
`)
	for _, c := range visibleCommands(app) {
		fmt.Fprintf(&b, "    '%s:%s'\n", c.Name, escape(c.Usage))
	}
	b.WriteString("  )\n  _describe command commands ;;\narguments)\n  case $line[1] in\n")
	for _, c := range visibleCommands(app) {
		fmt.Fprintf(&b, "  %s)\n    _arguments -s -S", c.Name)
		eachFlag(c, func(d flagDoc, complete string) {
			if d.placeholder == "" && len(d.names) > 1 { // only --help
				fmt.Fprintf(&b, " \\\n      '(- *)'{-h,--help}'[%s]'", escape(d.usage))
				return
			}
			spec := dashed(d.names[0])
			if d.repeatable {
				spec = "*" + spec
			}
			if d.placeholder != "" {
				spec += "="
			}
			spec += "[" + escape(d.usage) + "]"
			if d.placeholder != "" {
				spec += ":" + d.placeholder + ":"
				switch complete {
				case "":
				case "file":
					spec += "_files"
				case "dir":
					spec += "_files -/"
				case zones, capabilities:
					spec += complete
				default:
					spec += zshWords(complete)
				}
			}
			fmt.Fprintf(&b, " \\\n      '%s'", spec)
		})
		switch words := argumentWords(app, c); {
		case takesFiles(c):
			fmt.Fprintf(&b, " \\\n      '*:%s:_files' ;;\n", strings.Trim(c.ArgsUsage, "[]."))
		case c.Name == "store":
			fmt.Fprintf(&b, " \\\n      '1:action:(%s)' \\\n      '2:URL:%s' ;;\n", strings.Join(words, " "), zshWords(config.CompleteStores()))
		case c.Name == "runcap":
			fmt.Fprintf(&b, " \\\n      '1:capability:%s' ;;\n", capabilities)
		case words != nil:
			fmt.Fprintf(&b, " \\\n      '1:%s:(%s)' ;;\n", strings.ToLower(strings.Trim(c.ArgsUsage, "[]")), strings.Join(words, " "))
		default:
			b.WriteString(" ;;\n")
		}
	}
	b.WriteString("  esac ;;\nesac\n")
	return b.Bytes()
}

func fishCompletion(app *cli.App) []byte {
	escape := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace
	var b bytes.Buffer
	b.WriteString("# fish completion for tstatrepo\n" + header("#"))
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
`, zones, strings.ReplaceAll(listZones, "; ", "\n    "), capabilities, strings.Join(listFlags(), " "), strings.Join(listFlags(), "=*' '"), listCapabilities, listLabels)
	b.WriteString(`
complete -c tstatrepo -n __fish_use_subcommand -f
complete -c tstatrepo -n __fish_use_subcommand -s h -l help -d 'show help'
complete -c tstatrepo -n __fish_use_subcommand -l version -d 'print the version and exit'
`)
	for _, c := range visibleCommands(app) {
		fmt.Fprintf(&b, "\ncomplete -c tstatrepo -n __fish_use_subcommand -f -a %s -d '%s'\n", c.Name, escape(c.Usage))
		cond := fmt.Sprintf("complete -c tstatrepo -n '__fish_seen_subcommand_from %s'", c.Name)
		if words := argumentWords(app, c); c.Name == "store" {
			actions := strings.Join(words, " ")
			fmt.Fprintf(&b, "complete -c tstatrepo -n '__fish_seen_subcommand_from store; and not __fish_seen_subcommand_from %s' -a '%s'\n", actions, actions)
			fmt.Fprintf(&b, "complete -c tstatrepo -n '__fish_seen_subcommand_from store; and __fish_seen_subcommand_from %s' -a '%s'\n", actions, fishWords(config.CompleteStores()))
		} else if c.Name == "runcap" {
			fmt.Fprintf(&b, "%s -a '(%s)'\n", cond, capabilities)
		} else if words != nil {
			fmt.Fprintf(&b, "%s -a '%s'\n", cond, strings.Join(words, " "))
		}
		if !takesFiles(c) {
			fmt.Fprintf(&b, "%s -f\n", cond)
		}
		eachFlag(c, func(d flagDoc, complete string) {
			fmt.Fprint(&b, cond)
			for _, n := range d.names {
				if len(n) == 1 {
					fmt.Fprintf(&b, " -s %s", n)
				} else {
					fmt.Fprintf(&b, " -l %s", n)
				}
			}
			if d.placeholder != "" {
				switch complete {
				case "":
					b.WriteString(" -x")
				case "file":
					b.WriteString(" -r -F")
				case "dir":
					b.WriteString(" -x -a '(__fish_complete_directories)'")
				case zones, capabilities:
					fmt.Fprintf(&b, " -x -a '(%s)'", complete)
				default:
					fmt.Fprintf(&b, " -x -a '%s'", fishWords(complete))
				}
			}
			fmt.Fprintf(&b, " -d '%s'\n", escape(d.usage))
		})
	}
	return b.Bytes()
}

// fishWords completes with words, or with config.CompleteStores().
func fishWords(words string) string {
	if schemes, folders := strings.CutPrefix(words, "dir "); folders {
		return schemes + " (__fish_complete_directories)"
	}
	return words
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// completions returns how the value of a flag is completed: "file", "dir",
// one of the constants zones and capabilities, or the words it can be; "" if it
// is free text.
func completions(command, flag string) string {
	if flag == "config" {
		return "file"
	}
	for _, s := range config.New().Of(command) {
		if s.Name != flag {
			continue
		}
		switch s.Complete {
		case config.CompleteZones:
			return zones
		case config.CompleteCapabilities:
			return capabilities
		}
		return s.Complete
	}
	return ""
}

// eachFlag calls f for every visible flag of the command.
func eachFlag(c *cli.Command, f func(d flagDoc, complete string)) {
	for _, g := range flagGroups(c) {
		for _, d := range g.flags {
			f(d, completions(c.Name, d.names[0]))
		}
	}
}

// takesFiles reports whether the arguments of a command are files.
func takesFiles(c *cli.Command) bool { return strings.HasPrefix(c.ArgsUsage, "SOURCE") }

func header(comment string) string {
	return fmt.Sprintf("%s Generated by make generate; do not edit.\n", comment)
}
