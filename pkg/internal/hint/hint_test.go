package hint_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

func TestHintsAndUsageAreFoundInTheTree(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name  string
		err   error
		text  string
		hint  string
		usage bool
	}{
		{"none", nil, "", "", false},
		{"plain", broken, "broken", "", false},
		{"new", hint.New("no such table", "create it"), "no such table", "create it", false},
		{"added", hint.Add(broken, "mend it"), "broken", "mend it", false},
		{"usage", hint.Usage("no path", "give one"), "no path", "give one", true},
		{"marked", hint.AsUsage(hint.Add(broken, "mend it")), "broken", "mend it", true},
		{"wrapped", fmt.Errorf("open: %w", hint.Usage("no path", "give one")), "open: no path", "give one", true},
		{"under another hint", hint.Add(hint.Usage("no path", "give one"), "see the manual"), "no path", "see the manual", true},
		{"without hint", hint.Usage("no path", ""), "no path", "", true},
		{"the first without hint", errors.Join(hint.Usage("no path", ""), hint.New("no table", "create it")), "no path\nno table", "create it", true},
		{"joined", errors.Join(broken, hint.Usage("no path", "give one")), "broken\nno path", "give one", true},
	} {
		if h, usage := hint.Of(c.err), hint.IsUsage(c.err); h != c.hint || usage != c.usage {
			t.Errorf("%s: hint %q, usage %v", c.name, h, usage)
		}
		if c.err != nil && c.err.Error() != c.text {
			t.Errorf("%s: text %q", c.name, c.err)
		}
	}
	if a := hint.Attrs(hint.New("no table", "create it")); len(a) != 2 || a[0] != "hint" || a[1] != "create it" {
		t.Errorf("attributes %v", a)
	}
	if a := hint.Attrs(broken); a != nil {
		t.Errorf("attributes %v of an error without hint", a)
	}
	if err := hint.AsUsage(hint.Add(broken, "mend it")); !errors.Is(err, broken) {
		t.Error("the cause is missing")
	}
}

func TestWithoutKeepsOtherParts(t *testing.T) {
	end, lost, full := errors.New("end"), errors.New("lost"), errors.New("full") // end is a target
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{end, ""},
		{lost, "lost"},
		{fmt.Errorf("read: %w", end), ""},
		{fmt.Errorf("%w: %w", end, lost), ""}, // an error with several causes is not split
		{errors.Join(end, end), ""},
		{errors.Join(end, lost, nil, full), "lost\nfull"},
		{errors.Join(fmt.Errorf("read: %w", end), errors.Join(end, lost)), "lost"},
		{fmt.Errorf("close: %w", errors.Join(end, lost)), "close: end\nlost"},
		{fmt.Errorf("close: %w", errors.Join(end, end)), ""},
		{hint.Add(errors.Join(lost, hint.AsUsage(end)), "x"), "lost\nend"},
		{hint.AsUsage(end), ""},
	} {
		got := ""
		if err := hint.Without(c.err, io.EOF, end); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}

func TestDidYouMeanSuggestsWhatIsNear(t *testing.T) {
	names := []string{"jobs", "json", "to", "to-optional", "n"}
	for word, want := range map[string]string{
		"jbos": "; did you mean --jobs?", "jsn": "; did you mean --json?", "to-o": "; did you mean --to-optional?",
		"xyz": "", "": "", "jobz": "; did you mean --jobs?", "retry-timeout": "",
	} {
		if got := hint.DidYouMean(word, names, "--"); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}
