package config

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/tstatrepo/tstatrepo/pkg/internal/anonymize"
	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/stores"
)

// Anonymization holds the settings that say how addresses and names in logs are
// replaced.
type Anonymization struct {
	Anonymize string // MODE[,OPTION...], see anonymize.Parse
	SourceIs  string // clear, anonymized or ""
}

// anonymizationTexts holds the parts of the help texts for anonymize and source-is that
// differ between sections.
type anonymizationTexts struct {
	where   string // where addresses and names are replaced, like " in followed logs"
	off     string // what happens without anonymize
	unknown string // what happens without source-is; "": it must be given
}

func (a *Anonymization) settings(t anonymizationTexts) []*Setting {
	return []*Setting{
		{Name: "anonymize", Group: groupTransform, Value: &a.Anonymize, Empty: t.off,
			Usage: "anonymize addresses and names" + t.where + ": `MODE` is tstat, cryptopan, truncate=/24,/48 or drop, and options may follow, as in tstat,key-file=FILE; see tstatrepo-transform(7)"},
		{Name: "source-is", Group: groupTransform, Value: &a.SourceIs, Complete: "clear anonymized", Empty: cmp.Or(t.unknown, "none; --anonymize needs it"),
			Usage: "with --anonymize: treat addresses as `clear|anonymized` in log types that have no column for this"},
	}
}

// check adds the problems with the settings to p, and returns the anonymizer and the
// source that the settings describe. The anonymizer is nil if anonymize is not set or
// invalid. Without anonymize, source-is is accepted only if one of the given destinations
// has its own anonymize option.
func (a *Anonymization) check(p *Problems, to ...string) (by *anonymize.Anonymizer, source anonymize.Source) {
	switch a.SourceIs {
	case "":
	case "clear":
		source = anonymize.Clear
	case "anonymized":
		source = anonymize.Anonymized
	default:
		p.add("source-is", "%q is neither clear nor anonymized", a.SourceIs)
	}
	if a.Anonymize == "" {
		hasMode := func(text string) bool { _, _, given := stores.SplitTransform(text); return given }
		p.refuse("is for `anonymize` only", given{a.SourceIs != "" && !slices.ContainsFunc(to, hasMode), "source-is"})
		return nil, source
	}
	by, err := newAnonymizer(a.Anonymize)
	p.usage("anonymize", err)
	return by, source
}

// newAnonymizer returns the anonymizer for a value of the setting anonymize. All errors
// are usage errors. Problems.usage ignores other errors, and the logs would then not be
// anonymized.
func newAnonymizer(mode string) (*anonymize.Anonymizer, error) {
	opt, err := anonymize.Parse(mode)
	if err != nil {
		return nil, hint.AsUsage(err)
	}
	by, err := anonymize.New(*opt)
	if err != nil {
		return nil, hint.AsUsage(err)
	}
	return by, nil
}

// checkStores checks the anonymize options of the given destinations. It returns one
// anonymizer per destination, or nil if no destination has the option. For destinations
// without the option, it returns the anonymizer of the setting anonymize.
func checkStores(p *Problems, to []string, all *anonymize.Anonymizer) (list []*anonymize.Anonymizer) {
	found := false
	for _, text := range to {
		bare, mode, given := stores.SplitTransform(text)
		by := all
		if given {
			found = true
			var err error
			if by, err = newAnonymizer(mode); err != nil {
				p.usage("to", hint.AsUsage(fmt.Errorf("%q: %w", dest.Redact(text), err)))
			}
			if stores.IsPrinted(bare) || mathproto.IsURL(bare) {
				p.add("to", "%s has no option anonymize: use `anonymize`", bare)
			}
		}
		list = append(list, by)
	}
	if !found {
		return nil
	}
	return list
}

// needSource adds a problem if anonymize is set without source-is. The rows of a growing
// log may not yet show whether its addresses have already been anonymized.
func (a *Anonymization) needSource(p *Problems) {
	if a.Anonymize != "" && a.SourceIs == "" {
		p.add("source-is", "must be given with `anonymize`")
	}
}

// relativeKey returns the first relative path in a value of the setting anonymize. It
// returns "" if all paths are absolute.
func relativeKey(mode string) string {
	opt, err := anonymize.Parse(mode)
	if err != nil {
		return "" // reported by check
	}
	for _, path := range []string{opt.KeyFile, opt.KeyBase64, opt.Networks, opt.Except} {
		if path != "" && !filepath.IsAbs(path) {
			return path
		}
	}
	return ""
}
