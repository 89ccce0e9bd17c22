// Lint runs staticcheck and other linters in one pass over the code. A line
// "//lint:ignore LINTER REASON" before a finding suppresses the finding.
package main

import (
	"bytes"
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"strings"

	"github.com/charithe/durationcheck"
	"github.com/golangci/misspell"
	"github.com/golangci/unconvert"
	"github.com/gordonklaus/ineffassign/pkg/ineffassign"
	"github.com/polyfloyd/go-errorlint/errorlint"
	"github.com/sanposhiho/wastedassign/v2"
	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/passes/nilness"
	"honnef.co/go/tools/analysis/lint"
	"honnef.co/go/tools/lintcmd"
	"honnef.co/go/tools/simple"
	"honnef.co/go/tools/staticcheck"
	"honnef.co/go/tools/stylecheck"
	"honnef.co/go/tools/unused"
)

// checks selects staticcheck's checks: the default ones, and those for comments on
// packages and exported names.
const checks = "inherit,ST1000,ST1020,ST1021,ST1022"

func main() {
	cmd := lintcmd.NewCommand("lint")
	cmd.ParseFlags(append([]string{"-checks", checks}, os.Args[1:]...))
	cmd.AddAnalyzers(simple.Analyzers...)
	cmd.AddAnalyzers(staticcheck.Analyzers...)
	cmd.AddAnalyzers(stylecheck.Analyzers...)
	cmd.AddAnalyzers(unused.Analyzer)
	for _, a := range []*analysis.Analyzer{
		except(durationcheck.Analyzer, func([]byte) bool { return false }),
		except(wrapping(), comparesEOF),
		undocumented,
		ineffassign.Analyzer,
		nilness.Analyzer,
		spelling,
		conversions,
		wastedassign.Analyzer,
	} {
		cmd.AddAnalyzers(&lint.Analyzer{Doc: &lint.RawDocumentation{Title: a.Doc}, Analyzer: a})
	}
	cmd.Run()
}

// except makes a linter ignore tests, test helpers (testkit) and lines for which accept
// returns true.
func except(a *analysis.Analyzer, accept func(line []byte) bool) *analysis.Analyzer {
	run := a.Run
	a.Run = func(pass *analysis.Pass) (any, error) {
		own := *pass
		own.Report = func(d analysis.Diagnostic) {
			pos := pass.Fset.Position(d.Pos)
			text, err := os.ReadFile(pos.Filename)
			if err != nil || strings.HasSuffix(pos.Filename, "_test.go") || strings.Contains(filepath.ToSlash(pos.Filename), "/testkit/") {
				return
			}
			if lines := bytes.Split(text, []byte{'\n'}); !accept(lines[pos.Line-1]) {
				pass.Report(d)
			}
		}
		return run(&own)
	}
	return a
}

// wrapping returns a linter that finds code that does not work with wrapped
// errors.
func wrapping() *analysis.Analyzer {
	a := errorlint.NewAnalyzer()
	if err := a.Flags.Set("errorf", "true"); err != nil {
		panic(err)
	}
	return a
}

// comparesEOF reports whether a line compares an error with io.EOF or
// io.ErrUnexpectedEOF. Such a comparison need not unwrap: readers return these errors
// unwrapped, and a wrapped one means a failure.
func comparesEOF(line []byte) bool {
	return bytes.Contains(line, []byte("io.EOF")) || bytes.Contains(line, []byte("io.ErrUnexpectedEOF"))
}

// conversions finds conversions to the type that a value already has.
var conversions = &analysis.Analyzer{
	Name: "unconvert",
	Doc:  "unnecessary conversions",
	Run: func(pass *analysis.Pass) (any, error) {
		for _, p := range unconvert.Run(pass) {
			for _, f := range pass.Files {
				if file := pass.Fset.File(f.Pos()); file.Name() == p.Filename {
					pass.Reportf(file.LineStart(p.Line)+token.Pos(p.Column-1), "unnecessary conversion")
				}
			}
		}
		return nil, nil
	},
}

// foreign lists misspelled words that occur in names defined elsewhere: by
// ClickHouse, in old RRDs and in host names.
var foreign = []string{"cancelled", "occured", "unkown", "navigatore", "nmae"}

// spelling finds words that are misspelled in American English.
var spelling = &analysis.Analyzer{
	Name: "misspell",
	Doc:  "misspelled words",
	Run: func(pass *analysis.Pass) (any, error) {
		r := misspell.New()
		r.AddRuleList(misspell.DictAmerican)
		r.RemoveRule(foreign)
		r.Compile()
		for _, f := range pass.Files {
			file := pass.Fset.File(f.Pos())
			text, err := os.ReadFile(file.Name())
			if err != nil {
				return nil, err
			}
			_, diffs := r.Replace(string(text))
			for _, d := range diffs {
				pass.Reportf(file.LineStart(d.Line)+token.Pos(d.Column), "%s is a misspelling of %s", d.Original, d.Corrected)
			}
		}
		return nil, nil
	},
}

// undocumented finds exported names without a doc comment. One comment is enough
// for a group.
var undocumented = &analysis.Analyzer{
	Name: "exported",
	Doc:  "exported names without a doc comment",
	Run: func(pass *analysis.Pass) (any, error) {
		for _, f := range pass.Files {
			if f.Name.Name == "main" || strings.HasSuffix(pass.Fset.File(f.Pos()).Name(), "_test.go") {
				continue
			}
			for _, d := range f.Decls {
				switch d := d.(type) {
				case *ast.FuncDecl:
					if d.Doc == nil && d.Name.IsExported() && (d.Recv == nil || exportedType(d.Recv.List[0].Type) && !implied[d.Name.Name]) {
						pass.Reportf(d.Pos(), "exported %s has no doc comment", d.Name.Name)
					}
				case *ast.GenDecl:
					for _, s := range d.Specs {
						if name := exportedName(s); name != "" && d.Doc == nil {
							pass.Reportf(s.Pos(), "exported %s has no doc comment", name)
						}
					}
				}
			}
		}
		return nil, nil
	},
}

// implied lists methods that are documented by interfaces in the standard
// library.
var implied = map[string]bool{
	"Error": true, "Unwrap": true, "String": true, "ServeHTTP": true,
	"Read": true, "Write": true, "Close": true, "Len": true, "Less": true, "Swap": true, "Push": true, "Pop": true,
}

func exportedType(t ast.Expr) bool {
	switch t := t.(type) {
	case *ast.StarExpr:
		return exportedType(t.X)
	case *ast.IndexExpr:
		return exportedType(t.X)
	case *ast.Ident:
		return t.IsExported()
	}
	return false
}

// exportedName returns the first exported name in s that has no comment of its own, or
// "".
func exportedName(s ast.Spec) string {
	var names []*ast.Ident
	switch s := s.(type) {
	case *ast.TypeSpec:
		if s.Doc == nil && s.Comment == nil {
			names = append(names, s.Name)
		}
	case *ast.ValueSpec:
		if s.Doc == nil && s.Comment == nil {
			names = s.Names
		}
	}
	for _, n := range names {
		if n.IsExported() {
			return n.Name
		}
	}
	return ""
}
