package command

import (
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

func TestArrange(t *testing.T) {
	app := newApp(console.New(io.Discard, false))
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"import-bulk", "import-bulk"},
		{"import-bulk a", "import-bulk -- a"},
		{"import-bulk a --probe x b", "import-bulk --probe x -- a b"},
		{"import-bulk a --probe=x --json b", "import-bulk --probe=x --json -- a b"},
		{"import-bulk a -probe x", "import-bulk -probe x -- a"},
		{"--config c import-bulk a", "import-bulk --config c -- a"},
		{"--probe import-bulk import-bulk a", "import-bulk --probe import-bulk -- a"},
		{"--json import-bulk a", "import-bulk --json -- a"},
		{"import-bulk -", "import-bulk -- -"},
		{"import-bulk - --json", "import-bulk --json -- -"},
		{"import-bulk --json -- --probe x", "import-bulk --json -- --probe x"},
		{"import-bulk --probe -- a", "import-bulk --probe -- -- a"},
		{"import-bulk --probe --json a", "import-bulk --probe --json -- a"},
		{"import-bulk -- -- a", "import-bulk -- -- a"},
		{"import-bulk a --help --json", "import-bulk --help"},
		{"-h", "--help"},
		{"-h import-bulk", "import-bulk --help"},
		{"import-bulk --version", "--version"},
		{"import-bulk help", "import-bulk -- help"},
		{"help import-bulk", "help -- import-bulk"},
		{"import-bulk a --json=false", "import-bulk --json=false -- a"},
		{"import-bulk --to a --to b --probe x --probe y", "import-bulk --to a --to b --probe x --probe y"},
	} {
		got, err := arrange(app, strings.Fields(tt.in))
		if err != nil || !slices.Equal(got, strings.Fields(tt.want)) {
			t.Errorf("%s: got %q, %v, want %s", tt.in, got, err, tt.want)
		}
	}
}

func TestArrangeErrors(t *testing.T) {
	app := newApp(console.New(io.Discard, false))
	for in, want := range map[string]string{
		"foo":                         `unknown command "foo"`,
		"imprt-bulk":                  `unknown command "imprt-bulk"; did you mean import-bulk?`,
		"-- import-bulk":              `unknown command "import-bulk"`,
		"import-bulk a --probe":       "--probe needs a value",
		"import-bulk --porbe x":       "unknown flag --porbe; did you mean --probe?",
		"import-bulk --zzzzzzzzzzzzz": "unknown flag --zzzzzzzzzzzzz",
		"import-bulk -x":              "unknown flag -x",
		"import-bulk --json=maybe":    "--json: takes no value",
		"--config f":                  "no command given",
		"--nope":                      "unknown flag --nope",
		"help --json":                 "unknown flag --json",
		"rrd-push --to -- --to=b":     "--to: rrd-push takes one value, got several",
	} {
		got, err := arrange(app, strings.Fields(in))
		if err == nil {
			t.Errorf("%s: got %q, want an error", in, got)
			continue
		}
		if msg := err.Error(); msg != want && !strings.HasPrefix(msg, want+";") {
			t.Errorf("%s: %s, want %s", in, msg, want)
		}
		if exitStatus(err) != exitUsage || hint.Of(err) == "" {
			t.Errorf("%s: exit status %d, hint %q", in, exitStatus(err), hint.Of(err))
		}
	}
}

// TestArrangeKeepsWords checks that arrange never drops or adds a word, keeps the order
// of flags and of arguments, and is idempotent.
func TestArrangeKeepsWords(t *testing.T) {
	app := newApp(console.New(io.Discard, false))
	pool := []string{"a", "-", "--json", "--probe", "--probe=p", "--to", "u://x,y", "--", "import-bulk", "help", "", "--jobs", "3", "-quiet", "--dry-run=true"}
	rng := rand.New(rand.NewPCG(1, 2))
	arranged := 0
	for range 5000 {
		in := make([]string, rng.IntN(9))
		for i := range in {
			in[i] = pool[rng.IntN(len(pool))]
		}
		in = slices.Insert(in, rng.IntN(len(in)+1), "import-bulk")
		out, err := arrange(app, in)
		if err != nil {
			continue
		}
		arranged++
		// Only the "--" that ends the flags may be added or dropped.
		if a, b := words(in), words(out); !slices.Equal(a, b) {
			t.Fatalf("%q became %q", in, out)
		}
		again, err := arrange(app, out)
		if err != nil || !slices.Equal(again, out) {
			t.Fatalf("%q became %q, then %q, %v", in, out, again, err)
		}
	}
	if arranged < 250 {
		t.Errorf("only %d were valid", arranged)
	}
}

func words(list []string) []string {
	list = slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == "--" })
	slices.Sort(list)
	return list
}
