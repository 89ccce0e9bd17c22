package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/dest"
)

// The completions are static: they neither run the program nor evaluate what
// was typed, as those of urfave/cli do.

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
	case "store":
		words = storeActionNames()
	case "completion":
		words = slices.Sorted(maps.Keys(completionFiles))
	case "man":
		words = pageNames(app)
	}
	return words
}

// urls is what a setting completes with that is a folder or a URL.
func urls(s dest.Schemes) string { return "dir " + strings.Join(s.Prefixes(), " ") }

func bashCompletion(app *cli.App) []byte {
	var b bytes.Buffer
	var names []string
	for _, c := range visibleCommands(app) {
		names = append(names, c.Name)
	}
	b.WriteString("# bash completion for tstatrepo\n" + header("#"))
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
			default:
				if urls, folders := strings.CutPrefix(complete, "dir "); strings.Contains(urls, ":") {
					if urls = strconv.Quote(urls); folders {
						urls += " -d"
					}
					reply = fmt.Sprintf(`mapfile -t COMPREPLY < <(compgen -W %s -- "$cur")
            if [[ ${COMPREPLY[*]} == *:* ]]; then compopt -o nospace; else compopt -o filenames; fi 2>/dev/null`, urls)
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
			argument = fmt.Sprintf(`mapfile -t COMPREPLY < <(compgen -W %q -d -- "$cur")`, strings.Join(words, " "))
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

func zshCompletion(app *cli.App) []byte {
	// _arguments gives these characters a meaning.
	escape := strings.NewReplacer(`'`, `'\''`, `[`, `\[`, `]`, `\]`, `:`, `\:`).Replace
	var b bytes.Buffer
	b.WriteString("#compdef tstatrepo\n" + header("#") + `
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
				default:
					if urls, folders := strings.CutPrefix(complete, "dir "); folders {
						spec += `{compadd -S "" -- ` + escape(urls) + "; _files -/}"
					} else {
						spec += "(" + escape(complete) + ")"
					}
				}
			}
			fmt.Fprintf(&b, " \\\n      '%s'", spec)
		})
		switch words := argumentWords(app, c); {
		case takesFiles(c):
			fmt.Fprintf(&b, " \\\n      '*:%s:_files' ;;\n", strings.Trim(c.ArgsUsage, "[]."))
		case c.Name == "store":
			fmt.Fprintf(&b, " \\\n      '1:action:(%s)' \\\n      '2:URL:_files -/' ;;\n", strings.Join(words, " "))
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
	b.WriteString(`
complete -c tstatrepo -n __fish_use_subcommand -f
complete -c tstatrepo -n __fish_use_subcommand -s h -l help -d 'show help'
complete -c tstatrepo -n __fish_use_subcommand -l version -d 'print the version and exit'
`)
	for _, c := range visibleCommands(app) {
		fmt.Fprintf(&b, "\ncomplete -c tstatrepo -n __fish_use_subcommand -f -a %s -d '%s'\n", c.Name, escape(c.Usage))
		cond := fmt.Sprintf("complete -c tstatrepo -n '__fish_seen_subcommand_from %s'", c.Name)
		if words := argumentWords(app, c); c.Name == "store" {
			fmt.Fprintf(&b, "%s -a '%s (__fish_complete_directories)'\n", cond, strings.Join(words, " "))
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
				default:
					if urls, folders := strings.CutPrefix(complete, "dir "); folders {
						complete = urls + " (__fish_complete_directories)"
					}
					fmt.Fprintf(&b, " -x -a '%s'", complete)
				}
			}
			fmt.Fprintf(&b, " -d '%s'\n", escape(d.usage))
		})
	}
	return b.Bytes()
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}
