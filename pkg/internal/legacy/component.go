package legacy

import (
	"cmp"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// Names of the Python modules of mPlane that tstatrepo replaces.
const (
	repositoryModule = "mplane.components.tstat.tstatrepository"
	probeModule      = "mplane.components.tstat.tstat"
)

// Defaults of mPlane's reference implementation.
const (
	defaultPort = "1228"
	carbon      = "graphite://127.0.0.1:2003" // hard-coded in the old importer
)

// builtin lists the URLs of tstatrepo's built-in registries.
var builtin = []string{
	"https://raw.githubusercontent.com/fp7mplane/components/master/tstat/tstat-registry.json",
	"http://ict-mplane.eu/registry/core",
}

// labels lists the labels of tstatrepo's capabilities.
var labels = []string{
	"repository-collect_rrd", "repository-collect_streaming", "repository-collect_log",
	"tstat-exporter_rrd", "tstat-exporter_streaming", "tstat-exporter_log",
}

// component converts an mPlane component's INI file.
type component struct {
	*converter
	f   *iniFile
	tls [3]string // absolute paths of the certificate, key and CA files in [TLS]
}

// readINI reads a component's file: tstatrepository.conf or tstat.conf.
func (c *converter) readINI(text []byte) error {
	f, problems, err := parseINI(c.file, text)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(f.sections, func(t *iniTable) bool { return iniSection.MatchString("[" + t.name + "]") }) {
		return &Error{File: c.file, Reason: "is not a configuration of the old tools"}
	}
	if c.opt.Command != Serve {
		return hint.Add(&Error{File: c.file, Reason: "belongs to an mPlane component"}, "use it with tstatrepo serve")
	}
	for _, p := range problems {
		c.note(p.line, p.key, "%s", p.text)
	}
	p := &component{converter: c, f: f}
	if f.table("component") == nil {
		return hint.Add(&Error{File: c.file, Reason: "has no section [component]"}, "name tstatrepository.conf or tstat.conf; the settings of a supervisor belong in [supervisor] of tstatrepo.toml, those of a client in [runcap]")
	}
	p.readTLS(f.table("TLS"))
	p.readSupervisor(f.table("component"))
	p.readRoles()
	for _, t := range f.sections {
		switch {
		case slices.Contains([]string{"TLS", "Roles", "Authorizations", "component"}, t.name):
		case strings.HasPrefix(t.name, "module_"):
			p.readModule(t)
		default:
			c.note(t.line, "["+t.name+"]", "is not a section of a component")
			continue
		}
		for _, e := range t.entries {
			if !e.used {
				c.note(e.line, t.key(e.key), "is not known")
			}
		}
	}
	for _, e := range f.defaults.entries {
		if !e.used {
			c.note(e.line, f.defaults.key(e.key), "is not known")
		}
	}
	return nil
}

// value returns the value of a key in t, and the line number of the key. The value is ""
// if the key is missing. If the value cannot be used, a note is added and "" is returned.
func (p *component) value(t *iniTable, key string) (value string, line int) {
	e := p.f.get(t, key)
	if e == nil {
		return "", t.line
	}
	e.used = true
	value, err := p.f.expand(t, e.value)
	switch {
	case err != nil:
		p.note(e.line, t.key(key), "cannot be used: %v", err)
		return "", e.line
	case strings.Contains(value, "\n"):
		p.note(e.line, t.key(key), "cannot be used: the value has several lines")
		return "", e.line
	}
	return value, e.line
}

// noteUnsupported adds a note that a key has no counterpart in tstatrepo, for the given
// reason. It does nothing if neither t nor the section DEFAULT has the key.
func (p *component) noteUnsupported(t *iniTable, key, reason string) {
	if e := p.f.get(t, key); e != nil {
		e.used = true
		p.note(e.line, t.key(key), "has no counterpart: %s", reason)
	}
}

// readTLS reads [TLS]. Without this section the old programs use HTTP.
func (p *component) readTLS(t *iniTable) {
	if t == nil {
		return
	}
	for i, k := range []struct{ old, new string }{{"cert", "tls-cert"}, {"key", "tls-key"}, {"ca-chain", "tls-ca"}} {
		value, line := p.value(t, k.old)
		if value == "" {
			p.note(line, t.key(k.old), "is missing")
			continue
		}
		p.tls[i] = p.abs(value)
		p.set("serve", k.new, p.tls[i], p.location(line, t.key(k.old)))
	}
}

// readSupervisor reads [component]. Depending on the workflow, it reads either the
// address of the supervisor or the port on which the component listens for the
// supervisor.
func (p *component) readSupervisor(t *iniTable) {
	workflow, line := p.value(t, "workflow")
	unused := func(keys ...string) {
		for _, key := range keys {
			if e := p.f.get(t, key); e != nil {
				e.used = true
				p.note(e.line, t.key(key), "is not used with workflow = %s", workflow)
			}
		}
	}
	switch workflow {
	case "component-initiated":
		scheme := "http"
		if p.f.table("TLS") != nil {
			scheme = "https"
		}
		host, at := p.value(t, "client_host")
		port, _ := p.value(t, "client_port")
		port = cmp.Or(port, defaultPort)
		if err := checkPort(port); err != nil {
			p.note(at, t.key("client_port"), "cannot be used: %v", err)
		} else if host == "" || strings.ContainsAny(host, " \t/@?#") {
			p.note(at, t.key("client_host"), "%q is not a host", host)
		} else {
			p.set("serve", "supervisor", scheme+"://"+net.JoinHostPort(host, port)+"/", p.location(at, "[component] client_host, client_port"))
		}
		for _, k := range []struct{ key, fixed string }{
			{"registration_path", "register/capability"}, {"specification_path", "show/specification"}, {"result_path", "register/result"},
		} {
			if path, at := p.value(t, k.key); path != "" && strings.TrimPrefix(path, "/") != k.fixed {
				p.note(at, t.key(k.key), "has no counterpart: it is always %s", k.fixed)
			}
		}
		unused("listen-port", "listen-cap-link")
	case "client-initiated":
		port, at := p.value(t, "listen-port")
		if addr, err := address("", cmp.Or(port, defaultPort)); err != nil {
			p.note(at, t.key("listen-port"), "cannot be used: %v", err)
		} else {
			p.set("serve", "clients", []string{addr}, p.location(at, t.key("listen-port")))
		}
		p.noteUnsupported(t, "listen-cap-link", "clients send specifications to the address from which they received the capabilities")
		unused("client_host", "client_port", "registration_path", "specification_path", "result_path")
	default:
		p.note(line, t.key("workflow"), "%q is neither component-initiated nor client-initiated: the old program exits", workflow)
		unused("client_host", "client_port", "registration_path", "specification_path", "result_path", "listen-port", "listen-cap-link")
	}
	var registries, from []string
	for _, key := range []string{"registry_preload", "registry_uri"} {
		uri, at := p.value(t, key)
		switch {
		case uri == "":
		case slices.Contains(builtin, uri):
			p.note(at, t.key(key), "is not needed: this registry is built in")
		case strings.Contains(uri, "://") && !strings.HasPrefix(uri, "file:///"):
			p.note(at, t.key(key), "has no counterpart: registries are files. The core registry and Tstat's are built in; download any other and name the file in registry")
		default:
			registries = append(registries, p.abs(strings.TrimPrefix(uri, "file://")))
			from = append(from, p.location(at, t.key(key)))
		}
	}
	if registries != nil {
		p.set("serve", "registry", registries, strings.Join(from, "; "))
	}
	p.noteUnsupported(t, "scheduler_max_results", "results are returned once, and their number is not limited")
	p.noteUnsupported(t, "indirect_export_uri", "results are sent only to the supervisor")
}

// readRoles reads [Roles] and [Authorizations]. The old programs use them only
// with TLS.
func (p *component) readRoles() {
	if p.f.table("TLS") == nil {
		for _, name := range []string{"Roles", "Authorizations"} {
			if t := p.f.table(name); t != nil {
				p.note(t.line, "["+name+"]", "has no effect without [TLS], and is omitted")
				for _, e := range t.entries {
					e.used = true
				}
			}
		}
		return
	}
	given := p.readPairs("Roles", "role", nil)
	granted := p.readPairs("Authorizations", "authorize", func(t *iniTable, e *iniEntry) {
		if !slices.ContainsFunc(labels, func(l string) bool { return strings.Contains(l, e.key) }) {
			p.note(e.line, t.key(e.key), "has no counterpart: tstatrepo has no such capability; Tstat's runtime.conf switches its logs on and off")
		}
	})
	switch {
	case granted == 0:
		// Without any authorization, tstatrepo would allow everyone everything.
		p.set("serve", "authorize", []string{"nothing=nobody"}, p.file+": [Authorizations] grants nothing to anybody")
	case given == 0:
		p.note(0, "[Roles]", "assigns no roles, so nobody may do anything")
	}
}

// readPairs converts a section of NAME = ROLE,ROLE entries to the setting named key, and
// returns the number of valid entries. If check is not nil, it is called for each valid
// entry.
func (p *component) readPairs(section, key string, check func(*iniTable, *iniEntry)) int {
	t := p.f.table(section)
	if t == nil {
		p.note(0, "["+section+"]", "is missing: the old program exits")
		return 0
	}
	var list []string
	for _, e := range slices.Concat(p.f.defaults.entries, t.entries) {
		value, line := p.value(t, e.key)
		if value == "" {
			continue
		}
		var roles []string
		for role := range strings.SplitSeq(value, ",") {
			if role == "" || strings.ContainsAny(role, "= \t") {
				p.note(line, t.key(e.key), "the role %q is omitted: it is empty or contains spaces, which the old program treats as part of the name", role)
				continue
			}
			roles = append(roles, role)
		}
		if len(roles) == 0 {
			p.note(line, t.key(e.key), "cannot be used: it names no role")
			continue
		}
		if check != nil {
			check(t, e)
		}
		list = append(list, e.key+"="+strings.Join(roles, ","))
	}
	if list != nil {
		p.set("serve", key, list, p.location(t.line, "["+section+"]"))
	}
	return len(list)
}

// readModule converts a [module_…] section, depending on the Python module that it names.
func (p *component) readModule(t *iniTable) {
	name, line := p.value(t, "module")
	switch name {
	case repositoryModule:
		p.readRepository(t)
	case probeModule:
		p.readProbe(t)
	default:
		p.note(line, t.key("module"), "has no counterpart: %s is not a module of Tstat", name)
		for _, e := range t.entries {
			e.used = true
		}
	}
}

// readRepository reads the endpoints of tstatrepository.conf.
func (p *component) readRepository(t *iniTable) {
	host, _ := p.value(t, "repository_ip")
	endpoint := func(key, section string) bool {
		port, line := p.value(t, key)
		addr, err := address(host, port)
		if err != nil {
			p.note(line, t.key(key), "cannot be used: %v", err)
			return false
		}
		from := p.location(line, t.key("repository_ip")+", "+key)
		p.set(section, "listen", []string{addr}, from)
		return true
	}
	if endpoint("repository_rrd_port", "collect-rrd") {
		p.set("collect-rrd", "to", carbon, "hard-coded in the old importer as CARBON_SERVER and CARBON_PORT")
		p.set("collect-rrd", "names", "upstream", "the old importer's names, for existing dashboards")
	}
	if endpoint("repository_streaming_port", "collect-streaming") {
		p.set("collect-streaming", "to", []string{"-"}, "the old importer printed the lines")
	}
	if port, line := p.value(t, "repository_log_port"); p.has("collect-log") {
		p.note(line, t.key("repository_log_port"), "is not used: math_repo's own file has the port")
	} else {
		p.note(line, t.key("repository_log_port"), "has no counterpart: math_repo receives the logs at port %s, and its own file names their destination. "+
			"Name both files in config, separated by a comma, to replace math_repo too.", port)
	}
	if p.tls[0] != "" {
		use := []string{}
		if has, ok := p.rrdTLS(t); has || !ok {
			use = append(use, "rrd")
		}
		p.set("serve", "tls-for", use, "the old exporters of live lines and math_probe know no TLS; that of RRDs has what the file of config_path says")
	}
}

// readProbe reads Tstat's folders from tstat.conf, and then reads math_probe.xml in the
// folder that the key math_path names.
func (p *component) readProbe(t *iniTable) {
	if id, line := p.value(t, "System_ID"); id != "" {
		p.set("probe", "system-id", id, p.location(line, t.key("System_ID")))
	}
	if dir, line := p.value(t, "tstat_rrd_path"); dir != "" {
		p.set("probe", "rrd-folder", p.abs(dir), p.location(line, t.key("tstat_rrd_path")))
	}
	p.noteUnsupported(t, "runtimeconf", "tstatrepo does not offer the capabilities tstat-log_…, which switch Tstat's logs on and off")
	if tls, ok := p.rrdTLS(t); p.tls[0] != "" && ok {
		use := []string{}
		if tls {
			use = append(use, "rrd")
		}
		p.set("probe", "tls-for", use, "the old exporters of live lines and logs know no TLS; that of RRDs has what the file of config_path says")
	}
	p.note(t.line, "["+t.name+"]", "the exporters send only to the networks in peers of [probe], by default only to this machine; the old exporters sent to any address in a specification")
	dir, line := p.value(t, "math_path")
	if dir == "" {
		p.note(line, t.key("math_path"), "is missing: the folder of the logs is unknown")
		return
	}
	dir = p.abs(dir)
	file := filepath.Join(dir, "math_probe.xml")
	text, err := ReadFile(file)
	if err != nil {
		p.note(line, t.key("math_path"), "cannot be used: %v", err)
		return
	}
	root, err := parseXML(file, text)
	if err != nil {
		p.note(line, t.key("math_path"), "cannot be used: %v", err)
		return
	}
	before := p.file
	p.file = file
	p.mathProbe(root, dir)
	p.file = before
}

// rrdTLS reads the file that the key config_path in t names. The Python component of mPlane
// uses the certificates in that file for RRDs. The first result reports whether the file
// has a [TLS] section. ok is false if the key is missing or the file cannot be read.
func (p *component) rrdTLS(t *iniTable) (has, ok bool) {
	path, line := p.value(t, "config_path")
	if path == "" {
		return false, false
	}
	file := p.abs(path)
	text, err := ReadFile(file)
	var f *iniFile
	if err == nil {
		f, _, err = parseINI(file, text)
	}
	if err != nil {
		p.note(line, t.key("config_path"), "cannot be used: %v", err)
		return false, false
	}
	own := f.table("TLS")
	if own == nil {
		return false, true
	}
	var tls [3]string
	for i, key := range []string{"cert", "key", "ca-chain"} {
		if e := f.get(own, key); e != nil {
			if value, err := f.expand(own, e.value); err == nil && value != "" {
				tls[i] = p.abs(value)
			}
		}
	}
	if tls != p.tls {
		p.note(line, t.key("config_path"), "has no counterpart: it names other certificates for the RRDs (%s), but tstatrepo has one for everything", cmp.Or(tls[0], "none"))
	}
	return true, true
}
