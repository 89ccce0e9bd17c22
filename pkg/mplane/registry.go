package mplane

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Built-in registries by URI.
const (
	CoreRegistry  = "http://ict-mplane.eu/registry/core"
	TstatRegistry = "https://raw.githubusercontent.com/fp7mplane/components/master/tstat/tstat-registry.json"
)

//go:embed registry/*.json
var builtin embed.FS

// Registries holds the elements that messages may name. Any number of goroutines may
// read it concurrently.
type Registries struct {
	list []*registry
}

// registry holds the elements of one file and of the files it includes.
type registry struct {
	uri   string
	types map[string]Primitive
}

// NewRegistries returns the core registry, Tstat's registry, and the registries in the
// given files, whose format is mplane-0. A file replaces an earlier registry with the
// same URI. A file may include an earlier registry by its URI, or another file below
// its own folder. NewRegistries fetches nothing.
func NewRegistries(files ...string) (*Registries, error) {
	r := &Registries{}
	for _, name := range []string{"core", "tstat"} {
		text, err := builtin.ReadFile("registry/" + name + ".json")
		if err != nil {
			return nil, err
		}
		if err := r.add(text, ""); err != nil {
			return nil, fmt.Errorf("registry %s: %w", name, err)
		}
	}
	for _, path := range files {
		if err := r.load(path); err != nil {
			return nil, fmt.Errorf("registry %s: %w", path, err)
		}
	}
	return r, nil
}

// TstatRegistryFile returns the built-in registry of Tstat. The registry includes no
// other files, so programs that read it need not fetch any.
func TstatRegistryFile() ([]byte, error) { return builtin.ReadFile("registry/tstat.json") }

func (r *Registries) load(path string) error {
	text, err := readRegistry(path)
	if err != nil {
		return err
	}
	return r.add(text, filepath.Dir(path))
}

func readRegistry(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > MaxMessage {
		return nil, fmt.Errorf("%d bytes are more than %d", info.Size(), MaxMessage)
	}
	return os.ReadFile(path)
}

// add parses a registry and adds it, or replaces the registry with the same URI.
// Includes are relative to dir.
func (r *Registries) add(text []byte, dir string) error {
	reg, err := r.parse(text, dir, nil)
	if err != nil {
		return err
	}
	r.list = slices.DeleteFunc(r.list, func(old *registry) bool { return old.uri == reg.uri })
	r.list = append(r.list, reg)
	return nil
}

// parse parses a registry. Its includes are relative to dir. The parameter above lists
// the paths of this file and the files that include it, except the outermost one.
func (r *Registries) parse(text []byte, dir string, above []string) (*registry, error) {
	v, err := decode(text)
	if err != nil {
		return nil, err
	}
	o, _ := v.(object)
	if format, _ := o.get("registry-format"); format != "mplane-0" {
		return nil, errors.New("registry-format is not mplane-0")
	}
	revision, _ := textOf(o.value("registry-revision"))
	if _, err := parseNatural(revision); err != nil {
		return nil, errors.New("registry-revision is not a whole number")
	}
	reg := &registry{types: map[string]Primitive{}}
	if reg.uri, err = o.nameOf("registry-uri"); err != nil || reg.uri == "" {
		return nil, errors.New("registry-uri is missing")
	}
	if includes, ok := o.get("includes"); ok {
		list, ok := includes.([]any)
		if !ok {
			return nil, errors.New("includes is not a list")
		}
		for _, v := range list {
			uri, _ := v.(string)
			inner, err := r.include(uri, dir, above)
			if err != nil {
				return nil, fmt.Errorf("include %q: %w", uri, err)
			}
			for name, prim := range inner.types {
				reg.types[name] = prim
			}
		}
	}
	elements, _ := o.value("elements").([]any)
	for i, e := range elements {
		if comment, ok := e.(string); ok {
			if !strings.HasPrefix(comment, "COMMENT:") {
				return nil, fmt.Errorf("element %d is text that does not begin with COMMENT:, a comment", i)
			}
			continue
		}
		m, _ := e.(object)
		name, errName := m.nameOf("name")
		prim, errPrim := m.nameOf("prim")
		if errName != nil || errPrim != nil || name == "" || !Primitive(prim).valid() {
			return nil, fmt.Errorf("element %d needs a name and a prim of string, natural, real, boolean, time, address, url", i)
		}
		reg.types[name] = Primitive(prim)
	}
	return reg, nil
}

func (r *Registries) include(uri, dir string, above []string) (*registry, error) {
	for _, reg := range r.list {
		if reg.uri == uri {
			return reg, nil
		}
	}
	if strings.Contains(uri, "://") {
		return nil, errors.New("that registry is not loaded, and registries are not fetched: name its file first")
	}
	if !filepath.IsLocal(uri) || dir == "" {
		return nil, errors.New("includes must lie in the folder of the registry")
	}
	path := filepath.Join(dir, uri)
	if slices.Contains(above, path) || len(above) > maxDepth {
		return nil, errors.New("registries include each other")
	}
	text, err := readRegistry(path)
	if err != nil {
		return nil, err
	}
	return r.parse(text, filepath.Dir(path), append(slices.Clip(above), path))
}

// Has reports whether r contains the registry with the given URI.
func (r *Registries) Has(uri string) bool {
	return slices.ContainsFunc(r.list, func(reg *registry) bool { return reg.uri == uri })
}

// Type returns the type of the named element. If several registries contain it, the
// first one applies, as in the RI.
func (r *Registries) Type(name string) (Primitive, error) {
	for _, reg := range r.list {
		if prim, ok := reg.types[name]; ok {
			return prim, nil
		}
	}
	//lint:ignore ST1005 the RI's text
	return "", fmt.Errorf("Key error: %s not present in registries", abbreviate(name))
}
