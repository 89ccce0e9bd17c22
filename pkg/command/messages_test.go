package command

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// product returns the parsed code of the program, without tests, test kits and tools.
// The keys are folders relative to the root of the repository.
func product() (map[string]*code, error) {
	all := map[string]*code{}
	err := filepath.WalkDir(filepath.Join(root, "pkg"), func(path string, d fs.DirEntry, err error) error {
		name := filepath.ToSlash(strings.TrimPrefix(path, root+string(filepath.Separator)))
		isProgram := slices.ContainsFunc(programs, func(p string) bool { return strings.HasPrefix(name, p+"/") })
		if err != nil || d.IsDir() || isProgram || kits.MatchString(name) || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(name))
		if all[dir] == nil {
			all[dir] = &code{name: strings.TrimPrefix(strings.TrimPrefix(dir, "pkg/"), "internal/"), files: token.NewFileSet(), consts: map[string]ast.Expr{}, funcs: map[string]*ast.FuncDecl{}}
		}
		return all[dir].add(path)
	})
	return all, err
}

// code is the parsed code of a package.
type code struct {
	name   string // without pkg/ and internal/
	files  *token.FileSet
	decls  []ast.Decl
	consts map[string]ast.Expr
	funcs  map[string]*ast.FuncDecl // without methods
}

func (c *code) add(path string) error {
	file, err := parser.ParseFile(c.files, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	c.decls = append(c.decls, file.Decls...)
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil {
				c.funcs[n.Name.Name] = n
			}
		case *ast.GenDecl:
			for _, s := range n.Specs {
				if v, ok := s.(*ast.ValueSpec); ok && n.Tok == token.CONST {
					for i, value := range v.Values {
						c.consts[v.Names[i].Name] = value
					}
				}
			}
		}
		return true
	})
	return nil
}

// text returns the value of a constant string expression. ok is false for other
// expressions.
func (c *code) text(e ast.Expr) (s string, ok bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		a, okA := c.text(e.X)
		b, okB := c.text(e.Y)
		return a + b, okA && okB && e.Op == token.ADD
	case *ast.Ident:
		if value := c.consts[e.Name]; value != nil {
			return c.text(value)
		}
	}
	return "", false
}

// show returns the source code of an expression.
func (c *code) show(e ast.Expr) string {
	var b bytes.Buffer
	if err := format.Node(&b, c.files, e); err != nil {
		panic(err)
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// keys returns the keys in the arguments of a log line. If spread is set, the last
// argument is a list. An argument that is not constant is represented by its source
// code.
func (c *code) keys(in *ast.FuncDecl, args []ast.Expr, spread bool, seen ...string) (keys []string) {
	for i := 0; i < len(args); i++ {
		if spread && i == len(args)-1 {
			return append(keys, c.listKeys(in, args[i], seen...)...)
		}
		key, ok := c.text(args[i])
		if !ok {
			key = c.show(args[i])
		}
		keys = append(keys, key)
		i++ // skip the value
	}
	return keys
}

// listKeys returns the keys in a list of attributes. seen holds the variables that are
// being resolved, to stop recursion.
func (c *code) listKeys(in *ast.FuncDecl, list ast.Expr, seen ...string) []string {
	switch e := list.(type) {
	case *ast.CompositeLit:
		return c.keys(in, e.Elts, false)
	case *ast.CallExpr:
		switch f := c.show(e.Fun); {
		case f == "append":
			return append(c.listKeys(in, e.Args[0], seen...), c.keys(in, e.Args[1:], e.Ellipsis.IsValid(), seen...)...)
		case f == "hint.Attrs" || f == "hint.Text":
			return []string{"[hint]"}
		case c.funcs[f] != nil:
			return c.assignedKeys(c.funcs[f], "")
		}
	case *ast.Ident:
		if slices.Contains(seen, e.Name) {
			return nil
		}
		if keys := c.assignedKeys(in, e.Name, seen...); keys != nil {
			return keys
		}
	}
	return []string{c.show(list) + "..."}
}

// assignedKeys returns the keys of all lists that a function assigns to the variable
// name, or that it returns if name is "".
func (c *code) assignedKeys(in *ast.FuncDecl, name string, seen ...string) (keys []string) {
	ast.Inspect(in.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if id, ok := n.Lhs[0].(*ast.Ident); ok && name != "" && id.Name == name {
				keys = append(keys, c.listKeys(in, n.Rhs[0], append(seen, name)...)...)
			}
		case *ast.ReturnStmt:
			if name == "" {
				keys = append(keys, c.listKeys(in, n.Results[0])...)
			}
		}
		return true
	})
	return keys
}

// argument returns the argument for the named parameter of function in, or nil.
func argument(in *ast.FuncDecl, call *ast.CallExpr, name string) ast.Expr {
	i := 0
	for _, field := range in.Type.Params.List {
		for _, n := range field.Names {
			if n.Name == name && i < len(call.Args) {
				return call.Args[i]
			}
			i++
		}
	}
	return nil
}

// calledName returns the name of the called function or method, or "".
func calledName(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.SelectorExpr:
		return f.Sel.Name
	case *ast.Ident:
		return f.Name
	}
	return ""
}

// eachCall calls f for each call in the functions of the package.
func (c *code) eachCall(f func(in *ast.FuncDecl, call *ast.CallExpr)) {
	for _, d := range c.decls {
		in, _ := d.(*ast.FuncDecl)
		ast.Inspect(d, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				f(in, call)
			}
			return true
		})
	}
}

// levels are the methods of a logger that log a message.
var levels = map[string]string{"Debug": "debug", "Info": "info", "Warn": "warn", "Error": "error"}

// messages returns a line for each message that the product logs: level, package, text
// and keys. A text is a constant, or an argument of a function that logs it. A + in a
// line means that the message also has the keys of a logger of the package.
func messages() ([]byte, error) {
	var lines []string
	var errs []error
	all, err := product()
	if err != nil {
		return nil, err
	}
	add := func(level string, c *code, text string, keys []string) {
		slices.Sort(keys)
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%-5s  %s: %s  %s", level, c.name, text, strings.Join(slices.Compact(keys), " "))))
	}
	for _, c := range all {
		c.eachCall(func(in *ast.FuncDecl, call *ast.CallExpr) {
			level, args, spread := levels[calledName(call)], call.Args, call.Ellipsis.IsValid()
			if calledName(call) == "With" && in != nil {
				add("+", c, "with", c.keys(in, args, spread))
			}
			if level == "" || len(args) == 0 || in == nil || c.show(args[0]) == "ctx" { // such as Info of a NATS consumer
				return
			}
			keys := c.keys(in, args[1:], spread)
			if text, ok := c.text(args[0]); ok {
				add(level, c, text, keys)
				return
			}
			name, passed := c.show(args[0]), 0
			for _, other := range all {
				other.eachCall(func(from *ast.FuncDecl, call *ast.CallExpr) {
					if calledName(call) != in.Name.Name {
						return
					}
					text, ok := other.text(argument(in, call, name))
					if !ok {
						return
					}
					passed++
					more := slices.Clone(keys)
					if i := slices.Index(more, "attrs..."); i >= 0 {
						more = append(slices.Delete(more, i, i+1), other.keys(from, call.Args[in.Type.Params.NumFields()-1:], call.Ellipsis.IsValid())...)
					}
					add(level, other, text, more)
				})
			}
			if passed == 0 {
				errs = append(errs, fmt.Errorf("%s: %s is not a constant message: put what varies into attributes", c.files.Position(call.Pos()), name))
			}
		})
	}
	slices.Sort(lines)
	return []byte("# Generated by make generate: level, package, text and keys of each log message. A change here changes what operators search for.\n" +
		strings.Join(slices.Compact(lines), "\n") + "\n"), errors.Join(errs...)
}

// metric is a metric as defined in the code.
type metric struct{ name, kind, help, labels string }

// metrics returns a line for each metric of the product: name, type, labels,
// package and help.
func metrics() ([]byte, error) {
	all, err := product()
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, c := range all {
		c.eachCall(func(in *ast.FuncDecl, call *ast.CallExpr) {
			var list []metric
			switch f := c.show(call.Fun); {
			case f == "metrics.New":
				list, err = c.tableMetrics(call)
			case strings.HasPrefix(f, "prometheus.New") && len(call.Args) > 0:
				list, err = c.constructed(in, call)
			}
			for _, m := range list {
				lines = append(lines, fmt.Sprintf("%s{%s}  %s  %s: %s", m.name, m.labels, m.kind, c.name, m.help))
			}
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(lines)
	return []byte("# Generated by make generate: name, labels, type, package and help of each metric. A change here breaks boards and alerts.\n" +
		strings.Join(slices.Compact(lines), "\n") + "\n"), nil
}

// tableMetrics returns the metrics of a metrics.Table.
func (c *code) tableMetrics(call *ast.CallExpr) (list []metric, err error) {
	prefix, ok := c.text(call.Args[0])
	labels := strings.Join(c.texts(call.Args[1]), ",")
	for _, arg := range call.Args[3:] {
		m, isCall := arg.(*ast.CallExpr)
		if !isCall || len(m.Args) < 2 {
			return nil, fmt.Errorf("%s: not a metric", c.files.Position(arg.Pos()))
		}
		name, okName := c.text(m.Args[0])
		help, okHelp := c.text(m.Args[1])
		if !ok || !okName || !okHelp {
			return nil, fmt.Errorf("%s: name or help is not constant", c.files.Position(arg.Pos()))
		}
		kind := "gauge"
		if strings.HasSuffix(name, "_total") {
			kind = "counter"
		}
		list = append(list, metric{"tstatrepo_" + prefix + name, kind, help, labels})
	}
	return list, nil
}

// texts returns the constants in a list.
func (c *code) texts(list ast.Expr) (texts []string) {
	if lit, ok := list.(*ast.CompositeLit); ok {
		for _, e := range lit.Elts {
			if pair, ok := e.(*ast.KeyValueExpr); ok {
				e = pair.Key
			}
			if s, ok := c.text(e); ok {
				texts = append(texts, s)
			}
		}
	}
	return texts
}

// constructed returns the metrics that a call of a Prometheus constructor creates. If
// the call is in the function literal gauge, there is one metric for each call of
// gauge.
func (c *code) constructed(in *ast.FuncDecl, call *ast.CallExpr) ([]metric, error) {
	opts, ok := call.Args[0].(*ast.CompositeLit)
	if !ok {
		return nil, nil // a registry or a collector
	}
	var name, help ast.Expr
	kind := "gauge"
	if strings.Contains(c.show(call.Fun), "Counter") {
		kind = "counter"
	}
	var labels []string
	for _, e := range opts.Elts {
		switch pair := e.(*ast.KeyValueExpr); c.show(pair.Key) {
		case "Name":
			name = pair.Value
		case "Help":
			help = pair.Value
		case "ConstLabels":
			labels = append(labels, c.texts(pair.Value)...)
		}
	}
	if len(call.Args) > 1 {
		labels = append(labels, c.texts(call.Args[1])...)
	}
	if name == nil || help == nil {
		return nil, nil // the options are not those of a metric
	}
	if text, ok := c.text(name); ok {
		about, _ := c.text(help)
		return []metric{{text, kind, about, strings.Join(labels, ",")}}, nil
	}
	if in == nil {
		return nil, fmt.Errorf("%s: the name is not constant", c.files.Position(call.Pos()))
	}
	prefix := ""
	if sum, ok := name.(*ast.BinaryExpr); ok {
		prefix, _ = c.text(sum.X)
	}
	var list []metric
	var err error
	ast.Inspect(in.Body, func(n ast.Node) bool {
		g, ok := n.(*ast.CallExpr)
		if !ok || calledName(g) != "gauge" {
			return true
		}
		names, helps := c.values(in, g.Args[0]), c.values(in, g.Args[1])
		if len(names) == 0 || len(names) != len(helps) {
			err = fmt.Errorf("%s: name or help is not constant", c.files.Position(g.Pos()))
			return false
		}
		of := labels
		for _, l := range g.Args[2:] {
			if text, ok := c.text(l); ok {
				of = append(of, text)
			}
		}
		for i := range names {
			list = append(list, metric{prefix + names[i], kind, helps[i], strings.Join(of, ",")})
		}
		return true
	})
	return list, err
}

// values returns the constants that an expression can have. There are several if the
// expression is a field of the structs in a list over which a loop iterates.
func (c *code) values(in *ast.FuncDecl, e ast.Expr) (list []string) {
	if text, ok := c.text(e); ok {
		return []string{text}
	}
	if sum, ok := e.(*ast.BinaryExpr); ok {
		prefix, _ := c.text(sum.X)
		for _, s := range c.values(in, sum.Y) {
			list = append(list, prefix+s)
		}
		return list
	}
	field, ok := e.(*ast.SelectorExpr)
	if !ok {
		return nil
	}
	ast.Inspect(in.Body, func(n ast.Node) bool {
		loop, ok := n.(*ast.RangeStmt)
		if !ok || loop.Value == nil || c.show(loop.Value) != c.show(field.X) || loop.Pos() > e.Pos() || loop.End() < e.End() {
			return true
		}
		rows, ok := loop.X.(*ast.CompositeLit)
		if !ok {
			return true
		}
		of := 0
		if field.Sel.Name == "help" {
			of = 1
		}
		for _, row := range rows.Elts {
			if text, ok := c.text(row.(*ast.CompositeLit).Elts[of]); ok {
				list = append(list, text)
			}
		}
		return true
	})
	return list
}
