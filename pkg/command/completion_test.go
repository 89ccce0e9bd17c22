//go:build linux

package command

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// shells complete a command line like a user's shell after TAB. Each is a script that
// gets the completion file and the line, and prints one candidate per line.
var shells = map[string]struct {
	program []string
	file    string
	script  string
}{
	"bash": {[]string{"bash", "--norc", "-c"}, "tstatrepo.bash", `. "$1"
COMP_LINE=$2; shift 2; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_tstatrepo
printf '%s\n' "${COMPREPLY[@]}"`},
	"fish": {[]string{"fish", "--no-config", "-c"}, "tstatrepo.fish", `source $argv[1]; complete -C $argv[2] | string replace -r '\t.*' ''; true`},
	// Every zsh completion ends with a call of compadd. Angle brackets mark the output;
	// the shell's echo of these lines, which may come late, does not contain them.
	"zsh": {[]string{"zsh", "-f", "-c"}, "_tstatrepo", `zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PS1= PS2= RPS1= _less=${(#):-60} _more=${(#):-62}'
zpty -w shell "fpath=(${(q)1:h} \$fpath); autoload -U compinit; compinit -u -D; autoload -U +X _tstatrepo"
zpty -w shell 'compadd() {
  local -a hits
  if [[ ${@[1,(i)(-|--)]} == *-[OAD]* ]]; then builtin compadd "$@"; return; fi
  builtin compadd -A hits "$@"
  print -rl -- "$_less"${^hits}"$_more"
  builtin compadd "$@"
}'
zpty -w shell 'finish() { print -r -- "$_less$_more" }; zle -N finish; bindkey "^X" finish; bindkey "^I" complete-word; setopt no_beep no_list_beep; print -r -- "${_less}ready$_more"'
zpty -r shell all '*<ready>*'
zpty -w -n shell "$2"$'\t\x18'
zpty -r shell all '*<>*'
print -r -- $all | grep -o "<[^<>]*>" | tr -d "<>"`},
}

// TestCompletion completes values in real shells.
func TestCompletion(t *testing.T) {
	components, clients := freeAddr(t), freeAddr(t)
	startProcess(t, nil, "supervisor", "--components", components, "--clients", clients, "--state-dir", t.TempDir()).says("supervisor ready")
	c := newServeConfig(t)
	c.serve = fmt.Sprintf("supervisor = \"http://%s/\"", components)
	startProcess(t, nil, "serve", "--config", c.write(t))
	becomes(t, "the capability", func() bool {
		list := startProcess(t, nil, "runcap", "--list", "--supervisor", "http://"+clients+"/", "--state-dir", t.TempDir())
		list.cmd.Wait()
		return strings.Contains(list.out.String(), "repository-collect_rrd")
	})

	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin, work := t.TempDir(), t.TempDir()
	if err := os.Symlink(exe, filepath.Join(bin, "tstatrepo")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(work, "tstat"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, shell := range shells {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(name); err != nil {
				if os.Getenv("CI") == "true" {
					t.Fatal(err)
				}
				t.Skip(err)
			}
			file, err := filepath.Abs("../../completions/" + shell.file)
			if err != nil {
				t.Fatal(err)
			}
			for line, want := range map[string]string{
				"rrd-":                        "rrd-push",
				"import-bulk --exc":           "--exclude",
				"import-bulk --dr":            "--dry-run",
				"import-bulk --quiet --dr":    "--dry-run",
				"import-bulk --type log_udp_": "log_udp_complete log_udp_periodic",
				"import-bulk --layout 2.0":    "2.0.9",
				"import-bulk --timezone UT":   "UTC",
				"stream --timezone Europe/Ro": "Europe/Rome",
				"import-bulk --to ma":         "math:// math+tls://",
				"import-bulk --to ts":         "tstat/",
				"store ver":                   "verify",
				"store verify --deep click":   "clickhouse://",
				"store verify ts":             "tstat/",
				"man tstatrepo-ru":            "tstatrepo-runcap.1",
				"runcap --supervisor http://" + clients + "/ repository-collect_r":        "repository-collect_rrd",
				"runcap --supervisor=http://" + clients + "/ --show repository-collect_r": "repository-collect_rrd",
				"runcap --supervisor http://" + freeAddr(t) + "/ repository-collect_r":    "",
			} {
				line := "tstatrepo " + line
				args := slices.Concat(shell.program[1:], []string{shell.script})
				if name != "fish" {
					args = append(args, name)
				}
				args = append(args, file, line)
				if name == "bash" { // bash splits words at these
					args = append(args, regexp.MustCompile(`[:=]+|[^ :=]+`).FindAllString(line, -1)...)
				}
				cmd := exec.Command(shell.program[0], args...)
				cmd.Dir = work
				cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+work, "TERM=dumb")
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				got := strings.Fields(strings.ReplaceAll(string(out), "/\n", "\n"))
				slices.Sort(got)
				expected := strings.Fields(strings.ReplaceAll(want+" ", "/ ", " "))
				if slices.Sort(expected); err != nil || !slices.Equal(slices.Compact(got), expected) {
					t.Errorf("%s: %q, %v; want %q %s", line, got, err, expected, &stderr)
				}
			}
		})
	}
}

// TestBashCompletesFoldersAndSchemes checks that bash adds a slash to a folder,
// and nothing to a scheme.
func TestBashCompletesFoldersAndSchemes(t *testing.T) {
	script, err := filepath.Abs("../../completions/tstatrepo.bash")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "tstat"), 0o755); err != nil {
		t.Fatal(err)
	}
	for word, want := range map[string]string{
		"ts":   "tstat (-o filenames)",
		"par":  "parquet: (-o nospace)",
		"math": "math:// math+tls:// (-o nospace)",
	} {
		cmd := exec.Command("bash", "-c", `. "$1"; compopt() { options=$*; }
COMP_WORDS=(tstatrepo import-bulk --to "$2"); COMP_CWORD=3; _tstatrepo; echo -n "${COMPREPLY[*]} ($options)"`, "bash", script, word)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != want {
			t.Errorf("%s: %s, %v; want %s", word, out, err, want)
		}
	}
}
