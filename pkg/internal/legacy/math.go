package legacy

import (
	"cmp"
	"net"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/internal/mathproto"
)

// pgPort is the port to which math_repo connects, regardless of its
// configuration.
const pgPort = "5432"

// readXML converts a configuration of math_probe, math_repo or hydra. hydra starts
// math_repo, so hydra's file contains math_repo's configuration.
func (c *converter) readXML(text []byte) error {
	root, err := parseXML(c.file, text)
	if err != nil {
		return err
	}
	switch {
	case root.name != "config":
	case root.child("modules") != nil:
		return c.hydra(root)
	case root.child("import") != nil:
		c.mathRepo(root)
		return nil
	case hasAttr(root, "directory") || hasAttr(root, "streamName"):
		c.mathProbe(root, c.opt.Dir)
		return nil
	}
	return hint.Add(&Error{File: c.file, Line: root.line, Reason: "is not a configuration of math_probe, math_repo or hydra"},
		"the first has an element <config directory=… streamName=…>, the second <config><import>")
}

func hasAttr(e *element, name string) bool {
	for _, a := range e.attrs {
		if a.name == name {
			return true
		}
	}
	return false
}

// hydra converts the module math_repo of hydra's configuration. It adds notes about the
// other modules and settings.
func (c *converter) hydra(root *element) error {
	found := false
	for _, a := range root.attrs {
		c.note(root.line, "<config "+a.name+">", "has no counterpart: it belongs to hydra; systemd supervises tstatrepo")
	}
	for _, top := range root.children {
		if top.name != "modules" {
			c.note(top.line, "<"+top.name+">", "has no counterpart: it belongs to hydra")
			continue
		}
		for _, m := range top.children {
			program := path.Base(m.attr("exec"))
			cfg := m.child("config")
			switch {
			case m.name != "module":
				c.note(m.line, "<"+m.name+">", "is not known")
			case program != "math_repo" || cfg == nil:
				c.note(m.line, "<module "+m.attr("name")+">", "has no counterpart: hydra still starts %s", cmp.Or(program, "it"))
			case found:
				c.note(m.line, "<module "+m.attr("name")+">", "is a second math_repo, which needs a separate configuration")
			default:
				found = true
				c.mathRepo(cfg)
				c.note(m.line, "<module "+m.attr("name")+">", "remove it from this file, or hydra starts math_repo again")
			}
		}
	}
	if !found {
		return &Error{File: c.file, Line: root.line, Reason: "is hydra's configuration, and has no module math_repo"}
	}
	return nil
}

// noteUnknown adds notes about attributes of e that were not read, and about child
// elements that are repeated or not named in children.
func (c *converter) noteUnknown(e *element, children ...string) {
	for _, a := range e.attrs {
		if !a.used && a.name != "xmlns" {
			c.note(e.line, "<"+e.name+" "+a.name+">", "is not known; the old program ignores it too")
		}
	}
	seen := map[string]bool{}
	for _, child := range e.children {
		known := false
		for _, name := range children {
			known = known || name == child.name
		}
		switch {
		case !known:
			c.note(child.line, "<"+child.name+">", "is not known; the old program ignores it too")
		case seen[child.name]:
			c.note(child.line, "<"+child.name+">", "occurs twice in <%s>; the last one counts", e.name)
		}
		seen[child.name] = true
	}
}

// fileTime adds a note if fileTimeConvMethod is missing in e or has an unknown value.
// This attribute says how the old program determines the times of files.
func (c *converter) fileTime(e *element) {
	if m := e.attr("fileTimeConvMethod"); m != "tstat" {
		c.note(e.line, "<"+e.name+" fileTimeConvMethod>", "%q is unknown: the old program exits; tstatrepo uses the times of Tstat's folders", m)
	}
}

// listen returns the address on which the old program with the configuration e listened.
// If e has no valid address, listen adds a note and ok is false.
func (c *converter) listen(e *element) (addr string, ok bool) {
	addr, err := address(e.attr("ip"), e.attr("port"))
	if err != nil {
		c.note(e.line, "<"+e.name+" port>", "cannot be used: %v", err)
		return "", false
	}
	return addr, true
}

// mathProbe converts e, the configuration of math_probe. dir is the folder in which
// math_probe was started.
func (c *converter) mathProbe(e *element, dir string) {
	folder, stream, typ := e.attr("directory"), e.attr("streamName"), e.attr("streamType")
	c.fileTime(e)
	addr, ok := c.listen(e)
	c.noteUnknown(e)
	from := func(attr string) string { return c.location(e.line, "<config "+attr+">") }
	section := "import-bulk"
	if c.opt.Command == Serve {
		section = "probe"
	}
	if ok {
		c.set(section, "listen", []string{addr}, from("ip, port")+": the repository fetches from this address")
	}
	if folder == "" {
		c.note(e.line, "<config directory>", "is missing")
	} else if section == "probe" {
		c.set(section, "log-folder", absIn(dir, folder), from("directory"))
	} else {
		c.set(section, "sources", []string{absIn(dir, folder)}, from("directory"))
	}
	if stream == "" {
		c.note(e.line, "<config streamName>", "is missing")
	} else {
		c.set(section, "stream", stream, from("streamName"))
	}
	if t := mathproto.LogType(typ); t != nil {
		c.set(section, "type", []string{t.Name}, from("streamType"))
	} else {
		c.note(e.line, "<config streamType>", "%q has no counterpart: Tstat has no such log type", typ)
	}
	if section == "import-bulk" {
		c.set(section, "to", []string{"math://localhost:3000"}, "math_probe's default. If math_probe ran with the flag repoUrl, put that address here: "+
			`to = ["math://HOST:PORT"]; put its startTime into since.`)
	}
}

// mathRepo converts e, the configuration of math_repo.
func (c *converter) mathRepo(e *element) {
	section := "import-bulk"
	if c.opt.Command == Serve {
		section = "collect-log"
	}
	if addr, ok := c.listen(e); ok {
		c.set(section, "listen", []string{addr}, c.location(e.line, "<config ip, port>"))
	}
	c.noteUnknown(e, "import")
	imp := e.child("import")
	if imp == nil {
		c.note(e.line, "<import>", "is missing: the destination of the logs is unknown")
		return
	}
	c.fileTime(imp)
	if n, err := strconv.ParseUint(imp.attr("pollInterval"), 10, 31); err != nil || n == 0 {
		c.note(imp.line, "<import pollInterval>", "%q is not a number of seconds", imp.attr("pollInterval"))
	} else {
		c.set(section, "poll", strconv.FormatUint(n, 10)+"s", c.location(imp.line, "<import pollInterval>"))
	}
	c.noteUnknown(imp, "fileHandler")
	h := imp.child("fileHandler")
	if h == nil {
		c.note(imp.line, "<fileHandler>", "is missing: the destination of the logs is unknown")
		return
	}
	dir := h.attr("outDir")
	if dir == "" {
		c.note(h.line, "<fileHandler outDir>", "is missing")
	}
	out := c.abs(dir)
	switch kind := h.attr("type"); kind {
	case "copy":
		if dir != "" {
			c.set(section, "to", []string{"copy:" + out}, c.location(h.line, "<fileHandler type, outDir>"))
		}
		c.noteUnknown(h)
	case "dbs":
		c.noteUnknown(h, "dbsHandler")
		if d := h.child("dbsHandler"); d != nil {
			c.dbstream(section, d)
		} else {
			c.note(h.line, "<dbsHandler>", "is missing: the database is unknown")
		}
	default:
		c.note(h.line, "<fileHandler type>", "%q is unknown: math_repo supports copy and dbs", kind)
	}
	if dir != "" {
		c.set(section, "adopt", out, c.location(h.line, "<fileHandler outDir>")+": math_repo's state; logs that it stored are not stored again")
	}
}

// dbstream adds a database URL to the given section. The element e, a dbsHandler,
// describes the database.
func (c *converter) dbstream(section string, e *element) {
	q := url.Values{}
	if schema := e.attr("partSchema"); schema == "" {
		c.note(e.line, "<dbsHandler partSchema>", "is missing")
	} else {
		q.Set("schema", schema)
	}
	in, out := e.attr("inputWindow"), e.attr("outputWindow")
	if in != out {
		c.note(e.line, "<dbsHandler inputWindow>", "differs from outputWindow, so math_repo's partitions were wrong; tstatrepo uses outputWindow")
	}
	if n, err := strconv.ParseUint(out, 10, 31); err != nil || n == 0 {
		c.note(e.line, "<dbsHandler outputWindow>", "%q is not a number of seconds", out)
	} else {
		q.Set("window", strconv.FormatUint(n, 10)+"s")
	}
	c.noteUnknown(e, "dbs", "scheduler")
	if s := e.child("scheduler"); s != nil {
		host, port := s.attr("ip"), s.attr("port")
		if err := checkPort(port); err != nil {
			c.note(s.line, "<scheduler port>", "cannot be used: %v", err)
		} else {
			q.Set("scheduler", net.JoinHostPort(cmp.Or(host, "localhost"), port))
		}
		c.noteUnknown(s)
	}
	d := e.child("dbs")
	if d == nil {
		c.note(e.line, "<dbs>", "is missing: the database is unknown")
		return
	}
	host, user, password, port := d.attr("host"), d.attr("user"), d.attr("password"), d.attr("port")
	u := url.URL{Scheme: "dbstream", Host: net.JoinHostPort(cmp.Or(host, "localhost"), pgPort), Path: "/" + d.attr("dbname"), RawQuery: strings.ReplaceAll(q.Encode(), "%3A", ":")}
	if port != pgPort {
		c.note(d.line, "<dbs port>", "%q is ignored by math_repo, which connects to %s, and so does tstatrepo; change the URL if the database uses another port", port, pgPort)
	}
	c.noteUnknown(d)
	from := c.location(d.line, "<dbs>")
	if user != "" {
		u.User = url.User(user)
	}
	set := Setting{Key: "to", Value: []string{u.String()}, From: from}
	if password != "" && user != "" {
		set.Printed = set.Value
		set.From += "; put its password into ~/.pgpass or PGPASSWORD"
		u.User = url.UserPassword(user, password)
		set.Value = []string{u.String()}
	}
	c.add(section, set)
}
