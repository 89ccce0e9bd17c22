package command

import (
	"encoding/json"
	"fmt"
	"path"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/man"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

// build describes a build of the program.
type build struct {
	Version  string   `json:"version"`
	Go       string   `json:"go"`
	Platform string   `json:"platform"`         // operating system and architecture
	Commit   string   `json:"commit,omitempty"` // "" if built outside a git checkout
	Date     string   `json:"date,omitempty"`   // date of the commit, RFC 3339
	Modified bool     `json:"modified,omitempty"`
	Readers  []string `json:"readers"` // decoders for RRD files
}

// currentBuild returns the build of the running program.
func currentBuild() build {
	b := build{Version: currentVersion(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Readers: rrdfile.Readers()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Commit = s.Value
			case "vcs.time":
				b.Date = s.Value
			case "vcs.modified":
				b.Modified = s.Value == "true"
			}
		}
	}
	return b
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:     "version",
		Usage:    "print version, Go, commit and its date",
		Category: groupAbout,
		Flags:    []cli.Flag{&cli.BoolFlag{Name: "json", Category: "Output", Usage: "print JSON"}},
		Action: func(c *cli.Context) error {
			if c.NArg() != 0 {
				return hint.Usagef("version takes no arguments, got %d", c.NArg())
			}
			b := currentBuild()
			if c.Bool("json") {
				text, err := json.Marshal(b)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.App.Writer, "%s\n", text)
				return err
			}
			fmt.Fprintf(c.App.Writer, "tstatrepo %s\n%s %s\nreaders: %s\n", b.Version, b.Go, b.Platform, strings.Join(b.Readers, ", "))
			if b.Commit != "" {
				state := ""
				if b.Modified {
					state = ", with changes"
				}
				fmt.Fprintf(c.App.Writer, "commit %s of %s%s\n", b.Commit, b.Date, state)
			}
			return nil
		},
	}
}

func manCommand() *cli.Command {
	return &cli.Command{
		Name:      "man",
		Usage:     "print a page of the manual, or list them: tstatrepo man serve | man -l -",
		ArgsUsage: "[PAGE]",
		Category:  groupAbout,
		Action: func(c *cli.Context) error {
			pages := pageNames()
			switch c.NArg() {
			case 0:
				for _, page := range pages {
					fmt.Fprintln(c.App.Writer, page)
				}
				return nil
			case 1:
				asked := c.Args().First()
				for _, page := range pages {
					name := strings.TrimSuffix(page, path.Ext(page))
					if asked == page || asked == name || "tstatrepo-"+asked == name || "tstatrepo."+asked == name {
						text, err := man.Pages.ReadFile(page)
						if err != nil {
							return err
						}
						_, err = c.App.Writer.Write(text)
						return err
					}
				}
				return hint.Usagef("no page %q; there are %s", asked, strings.Join(pages, ", "))
			}
			return hint.Usagef("man takes one page, got %d", c.NArg())
		},
	}
}

// pageNames returns the sorted names of the man pages, such as tstatrepo-serve.1.
func pageNames() []string {
	entries, _ := man.Pages.ReadDir(".") // cannot fail, because the pages are embedded
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
