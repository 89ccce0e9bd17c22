package main

import (
	"strconv"
)

var (
	httpPaths  = []string{"/", "/index.html", "/favicon.ico", "/css/main.css?v=12", "/img/logo_320x200.png", "/ajax/feed?cursor=AQHR-xyz&limit=20", "/p/citt%C3%A0/torino", "/search?q=caff\xc3\xa8", "/update/v1/check.json", "/videoplayback?id=o-AABB&itag=22", "/a/very/long/path/with/many/segments/and/a/file-name-that-is-long.jpg", "-"}
	httpAgents = []string{"Mozilla/5.0 (Windows NT 10.0; WOW64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/49.0.2623.87 Safari/537.36", "Mozilla/5.0 (iPhone; CPU iPhone OS 9_2 like Mac OS X) AppleWebKit/601.1.46 (KHTML, like Gecko) Version/9.0 Mobile/13C75 Safari/601.1", "Microsoft-CryptoAPI/10.0", "Dalvik/2.1.0 (Linux; U; Android 6.0; Nexus 5 Build/MRA58K)", "curl/7.47.0", "-", "Navigatore \xc3\xa8 \xe6\x97\xa5\xe6\x9c\xac"}
	httpTypes  = []string{"text/html", "image/png", "image/jpeg", "application/json", "text/css", "application/javascript", "video/mp4", "-", "text/html; charset=utf-8"}
	httpServer = []string{"nginx", "Apache/2.4.10 (Debian)", "gws", "Microsoft-IIS/8.5", "-", "cloudflare-nginx"}
	httpCodes  = []string{"200", "200", "200", "200", "200", "304", "302", "301", "404", "206", "204", "500"}
)

type httpReq struct {
	cli, srvIP string
	cport      int
	srv        *server
}

func (g *gen) tab() { g.b = append(g.b, '\t') }

// orDash appends a tab, followed by text if known is true and by "-" otherwise.
func (g *gen) orDash(known bool, text string) {
	g.tab()
	if known {
		g.str(text)
	} else {
		g.str("-")
	}
}

// httpRow appends a request (method in column 6) or a response ("HTTP" in column 6).
// Most requests are followed by their response.
func (g *gen) httpRow() {
	if p := g.pending; p != nil && g.chance(0.9) {
		g.pending = nil
		g.httpResponse(p)
	} else {
		g.nextHTTPConn()
		g.pending = &g.httpConn
		g.httpRequest(&g.httpConn)
	}
	g.b = append(g.b, '\n')
}

func (g *gen) httpResponse(r *httpReq) {
	g.httpPrefix(r, g.now)
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
	g.orDash(code == "206", "bytes 0-65535/1048576")
	g.orDash(code == "302" || code == "301", "http://"+r.srv.name+"/")
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
}

// nextHTTPConn sets g.httpConn for the next request. It either keeps the connection of
// the previous request or chooses a new one.
func (g *gen) nextHTTPConn() {
	r := &g.httpConn
	if r.srv != nil && !g.chance(0.6) {
		return
	}
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

func (g *gen) httpRequest(r *httpReq) {
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
	g.orDash(g.chance(0.7), r.srv.name)
	g.tab()
	g.str(httpPaths[g.skewed(len(httpPaths))])
	g.orDash(g.chance(0.5), "http://"+r.srv.name+"/index.html")
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
