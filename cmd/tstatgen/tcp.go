package main

import (
	"strings"
)

type tcpProfile struct {
	col                              []string // the real columns
	cb, cr, sb, sr                   int64    // unique and retransmitted bytes
	durat, cfirst, sfirst, clast     float64  // ms
	slast, cack, sack                float64
	c3to6, c10to14, s17to20, s26to28 string // ranges of columns, counted from 1, each with a leading space
	c38to44, l7a                     string
	rttc, rtts                       [4]float64
	rttcTail, rttsTail, p2p          string
	named, tls                       bool
	tailTLS                          string
}

var tcpProfiles = func() (ps []tcpProfile) {
	for _, l := range strings.Split(strings.TrimSuffix(tcpData, "\n"), "\n") {
		c := strings.Split(l, " ")
		p := tcpProfile{col: c}
		p.cb, p.cr = int64(num(c[6])), int64(num(c[10]))
		p.sb, p.sr = int64(num(c[20])), int64(num(c[24]))
		p.durat, p.cfirst, p.sfirst = num(c[30]), num(c[31]), num(c[32])
		p.clast, p.slast, p.cack, p.sack = num(c[33]), num(c[34]), num(c[35]), num(c[36])
		p.c3to6, p.c10to14 = join(c, 3, 6), join(c, 12, 14)
		p.s17to20, p.s26to28 = join(c, 17, 20), join(c, 26, 28)
		p.c38to44 = join(c, 38, 44)
		for i := range 4 {
			p.rttc[i], p.rtts[i] = num(c[44+i]), num(c[51+i])
		}
		p.rttcTail, p.rttsTail = join(c, 49, 51), join(c, 56, 58)
		p.p2p = join(c, 59, 115) // P2P, options, start of layer 7
		p.l7a = join(c, 118, 126)
		p.tls = c[115] != "-"
		p.named = c[126] != "-" || p.tls || c[130] != "-"
		p.tailTLS = join(c, 132, 133)
		ps = append(ps, p)
	}
	return
}()

func (g *gen) bytesCol(uniq, retx int64, pktsData, pktsRetx string, f float64) {
	u := int64(float64(uniq) * f)
	if uniq > 0 && u < 1 {
		u = 1
	}
	g.sp()
	g.int(u)
	g.sp()
	g.str(pktsData)
	g.sp()
	g.int(u + retx)
	g.sp()
	g.str(pktsRetx)
	g.sp()
	g.int(retx)
}

func (g *gen) rtt(v [4]float64, f float64) {
	for _, x := range v {
		g.sp()
		g.b = fixed6(g.b, int64(x*f*1e6))
	}
}

// rel appends a time since the start of the flow: ms * f milliseconds, but at most the
// duration of the flow, which is durUS microseconds.
func (g *gen) rel(ms, f float64, durUS int64) {
	us := int64(ms * f * 1000)
	if us > durUS {
		us = durUS
	}
	g.sp()
	g.b = ms6(g.b, us)
}

func (g *gen) tcpRow() {
	p := &g.tcp[g.intn(len(g.tcp))]
	c := p.col
	v6 := g.chance(g.c.ipv6)
	srv := &servers[g.skewed(len(servers))]
	f, tf, rf := g.factor(), g.factor(), g.factor()
	durUS := int64(p.durat * tf * 1000)
	if durUS > 7200e6 {
		durUS = 7200e6
	}
	last := g.now
	first := last - durUS
	// client
	g.client(v6)
	g.sp()
	g.int(int64(1024 + g.intn(64511)))
	g.str(p.c3to6)
	g.bytesCol(p.cb, p.cr, c[7], c[9], f)
	g.str(p.c10to14)
	// server
	g.sp()
	if v6 {
		g.str(srv.v6)
	} else {
		g.str(srv.v4)
	}
	g.sp()
	g.str(c[15])
	g.str(p.s17to20)
	g.bytesCol(p.sb, p.sr, c[21], c[23], f)
	g.str(p.s26to28)
	// times
	g.sp()
	g.b = ms6(g.b, first)
	g.sp()
	g.b = ms6(g.b, last)
	g.sp()
	g.b = ms6(g.b, durUS)
	g.rel(p.cfirst, tf, durUS)
	g.rel(p.sfirst, tf, durUS)
	g.rel(p.clast, tf, durUS)
	g.rel(p.slast, tf, durUS)
	g.rel(p.cack, tf, durUS)
	g.rel(p.sack, tf, durUS)
	g.str(p.c38to44)
	g.rtt(p.rttc, rf)
	g.str(p.rttcTail)
	g.rtt(p.rtts, rf)
	g.str(p.rttsTail)
	g.str(p.p2p)
	g.names(p, srv, first)
	if g.c.format == "v33" {
		g.sp()
		if c[130] != "-" {
			g.str(srv.name)
		} else {
			g.str("-")
		}
		g.str(p.tailTLS)
		g.str(" 0")
	}
	g.b = append(g.b, '\n')
}

// names appends the layer 7 and DNS columns of a flow. first is the time of the flow's
// first packet, in µs.
func (g *gen) names(p *tcpProfile, srv *server, first int64) {
	g.sp()
	if p.tls {
		g.str(srv.name)
	} else {
		g.str("-")
	}
	g.sp()
	if p.tls && p.col[116] != "-" {
		g.str("*.")
		g.str(srv.name[strings.IndexByte(srv.name, '.')+1:])
	} else {
		g.str("-")
	}
	g.str(p.l7a)
	if p.named {
		g.sp()
		g.str(srv.name)
		g.sp()
		g.str(srv.resolver)
		req := first - 1000 - int64(g.intn(3000000))
		g.sp()
		g.b = ms6(g.b, req)
		g.sp()
		g.b = ms6(g.b, req+int64(g.intn(80000))+200)
	} else {
		g.str(" - - 0.0 0.0")
	}
}
