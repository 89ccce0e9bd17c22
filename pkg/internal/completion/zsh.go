package completion

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Zsh returns the completion script for zsh.
func Zsh(p *Program) []byte {
	var b bytes.Buffer
	b.WriteString("#compdef tstatrepo\n" + header)
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
`, listZones, strings.Join(p.ask(), "|"), strings.Join(p.ask(), "=*|")+"=*", listCapabilities, listLabels)
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
	for _, c := range p.Commands {
		fmt.Fprintf(&b, "    '%s:%s'\n", c.Name, zshEscape(c.Usage))
	}
	b.WriteString("  )\n  _describe command commands ;;\narguments)\n  case $line[1] in\n")
	for _, c := range p.Commands {
		fmt.Fprintf(&b, "  %s)\n    _arguments -s -S", c.Name)
		for _, f := range c.Flags {
			fmt.Fprintf(&b, " \\\n      %s", zshFlag(&f))
		}
		for i, a := range c.Arguments {
			number := fmt.Sprint(i + 1)
			if a.Complete == File {
				number = "*"
			}
			fmt.Fprintf(&b, " \\\n      '%s:%s:%s'", number, a.Name, zshReply(a.Complete))
		}
		b.WriteString(" ;;\n")
	}
	b.WriteString("  esac ;;\nesac\n")
	return b.Bytes()
}

// zshFlag returns the specification of a flag for zsh's function _arguments.
func zshFlag(f *Flag) string {
	if slices.Contains(f.Names, "help") { // no other flag is given with it
		return fmt.Sprintf("'(- *)'{-h,--help}'[%s]'", zshEscape(f.Usage))
	}
	spec := dashed(f.Names[0])
	if f.Placeholder == "" && len(f.Names) == 2 {
		short := dashed(f.Names[1])
		return fmt.Sprintf("'(%s %s)'{%[1]s,%[2]s}'[%[3]s]'", short, spec, zshEscape(f.Usage))
	}
	if f.Repeatable {
		spec = "*" + spec
	}
	if f.Placeholder == "" {
		return fmt.Sprintf("'%s[%s]'", spec, zshEscape(f.Usage))
	}
	return fmt.Sprintf("'%s=[%s]:%s:%s'", spec, zshEscape(f.Usage), f.Placeholder, zshReply(f.Complete))
}

// zshReply returns the action that completes a value, given the Complete field of its
// Flag or Argument.
func zshReply(complete string) string {
	switch complete {
	case "", Zones, Capabilities:
		return complete
	case File:
		return "_files"
	case Dir:
		return "_files -/"
	}
	if words, ok := urls(complete); ok {
		return `{compadd -S "" -- ` + zshEscape(words) + "; _files -/}"
	}
	return "(" + zshEscape(complete) + ")"
}

// zshEscape escapes the characters that are special to zsh's function _arguments.
func zshEscape(text string) string {
	return strings.NewReplacer(`'`, `'\''`, `[`, `\[`, `]`, `\]`, `:`, `\:`).Replace(text)
}
