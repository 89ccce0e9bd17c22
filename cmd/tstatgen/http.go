package main

import (
	_ "embed"
	"strconv"
)

type httpReq struct {
	cli, srvIP string
	cport      int
	srv        *server
}

func (g *gen) tab() { g.b = append(g.b, '\t') }

// httpRow writes requests (method in column 6) and answers ("HTTP" in column 6) by turns.
func (g *gen) httpRow() {
	if p := g.pending; p != nil && g.chance(0.9) {
		g.pending = nil
		g.httpPrefix(p, g.now)
		g.str("HTTP\t")
		code := httpCodes[g.intn(len(httpCodes))]
		g.str(code)
		g.tab()
		if g.chance(0.2) {
			g.str("-")
		} else {
			g.int(int64(3000 * g.factor()))
		}
		g.tab()
		g.str(httpTypes[g.intn(len(httpTypes))])
		g.tab()
		g.str(httpServer[g.intn(len(httpServer))])
		g.tab()
		if code == "206" {
			g.str("bytes 0-65535/1048576")
		} else {
			g.str("-")
		}
		g.tab()
		if code == "302" || code == "301" {
			g.str("http://" + p.srv.name + "/")
		} else {
			g.str("-")
		}
		if g.c.format == "v33" {
			g.tab()
			if g.chance(0.2) {
				g.str("SID=")
				g.b = strconv.AppendUint(g.b, g.u(), 16)
				g.str("; path=/; HttpOnly")
			} else {
				g.str("-")
			}
		}
		g.b = append(g.b, '\n')
		return
	}
	r := &g.httpConn
	if r.srv == nil || g.chance(0.6) {
		v6 := g.chance(g.c.ipv6)
		r.srv = &servers[g.skewed(len(servers))]
		b := g.b
		g.b = g.b[len(g.b):]
		g.client(v6)
		r.cli = string(g.b)
		g.b = b
		r.srvIP = r.srv.v4
		if v6 {
			r.srvIP = r.srv.v6
		}
		r.cport = 1024 + g.intn(64511)
	}
	g.pending = r
	g.httpPrefix(r, g.now)
	m := "GET"
	if k := g.intn(20); k == 0 {
		m = "POST"
	} else if k == 1 {
		m = "HEAD"
	}
	g.str(m)
	g.tab()
	g.str(r.srv.name)
	g.tab()
	if g.chance(0.7) {
		g.str(r.srv.name)
	} else {
		g.str("-")
	}
	g.tab()
	g.str(httpPaths[g.skewed(len(httpPaths))])
	g.tab()
	if g.chance(0.5) {
		g.str("http://")
		g.str(r.srv.name)
		g.str("/index.html")
	} else {
		g.str("-")
	}
	g.tab()
	g.str(httpAgents[g.skewed(len(httpAgents))])
	if g.c.format == "v33" {
		g.tab()
		if g.chance(0.4) {
			g.str("id=")
			g.b = strconv.AppendUint(g.b, g.u(), 16)
			g.str("; lang=it")
		} else {
			g.str("-")
		}
		g.tab()
		g.str("-")
	}
	g.b = append(g.b, '\n')
}

func (g *gen) httpPrefix(r *httpReq, t int64) {
	g.str(r.cli)
	g.tab()
	g.int(int64(r.cport))
	g.tab()
	g.str(r.srvIP)
	g.str("\t80\t")
	g.b = fixed6(g.b, t)
	g.tab()
}
