package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/bulk"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/state"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
)

// TestTree checks properties of commands and flags on which help, man pages,
// completions and arrange rely.
func TestTree(t *testing.T) {
	app := newApp(console.New(io.Discard, false))
	for _, c := range app.Commands {
		if c.Usage == "" || c.OnUsageError == nil || !c.HideHelpCommand {
			t.Errorf("%s: usage %q, OnUsageError or HideHelpCommand missing", c.Name, c.Usage)
		}
		for _, f := range c.Flags {
			name := f.Names()[0]
			d := f.(interface {
				cli.DocGenerationFlag
				cli.CategorizableFlag
			})
			if d.GetUsage() == "" || d.GetCategory() == "" {
				t.Errorf("%s --%s: no usage or no category", c.Name, name)
			}
			if d.TakesValue() != strings.Contains(d.GetUsage(), "`") {
				t.Errorf("%s --%s: usage must name the placeholder of a value, and only then: %s", c.Name, name, d.GetUsage())
			}
			if strings.HasSuffix(d.GetUsage(), ".") {
				t.Errorf("%s --%s: usage ends in a stop", c.Name, name)
			}
		}
	}
	if first := visibleCommands(app)[0].Name; first != "import-bulk" {
		t.Errorf("help lists %s first", first)
	}
}

func TestExitStatus(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{fmt.Errorf("x: %w", bulk.ErrFailed), 1},
		{hint.Usagef("x"), 2},
		{hint.Add(hint.Usagef("x"), "y"), 2},
		{fmt.Errorf("x: %w", hint.Usage("y", "")), 2},
		{rejectsError{1, ""}, 3},
		{fmt.Errorf("x: %w", store.ErrUnavailable), 75},
		{errors.Join(nil, fmt.Errorf("x: %w", state.ErrLocked)), 75},
		{interruptError{2}, 130},
		{interruptError{15}, 143},
		{context.Canceled, 1}, // without a signal
		{errors.Join(interruptError{15}, interruptError{15}), 143},
		{errors.Join(errors.New("lost"), interruptError{15}), 1}, // not a clean stop
		{fmt.Errorf("x: %w", errors.Join(interruptError{2}, rejectsError{1, ""})), 3},
	} {
		if got := exitStatus(tt.err); got != tt.want {
			t.Errorf("%v: exit status %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestDescribeVersion(t *testing.T) {
	build := func(version string, kv ...string) *debug.BuildInfo {
		info := &debug.BuildInfo{Main: debug.Module{Version: version}}
		for i := 0; i < len(kv); i += 2 {
			info.Settings = append(info.Settings, debug.BuildSetting{Key: kv[i], Value: kv[i+1]})
		}
		return info
	}
	for _, tt := range []struct {
		release string
		info    *debug.BuildInfo
		want    string
	}{
		{"v1.2.3", build("v9"), "v1.2.3"},
		{"", build("v0.3.1+dirty"), "v0.3.1+dirty"},
		{"", build("(devel)", "vcs.revision", "0123456789abcdef", "vcs.modified", "true"), "0123456789ab-dirty"},
		{"", build("(devel)", "vcs.revision", "0123456789abcdef", "vcs.modified", "false"), "0123456789ab"},
		{"", build("(devel)"), "(development build)"},
		{"", nil, "(development build)"},
	} {
		if got := describeVersion(tt.release, tt.info); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
