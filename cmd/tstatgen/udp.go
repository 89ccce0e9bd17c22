package main

import (
	"strings"
)

type udpProfile struct {
	c                  []string
	cdur, sdur, sdelay float64
	cb, sb             int64
	fqdn, sni          bool
	cTail, sTail, quic string
}

var udpProfiles = func() (ps []udpProfile) {
	for _, l := range strings.Split(strings.TrimSuffix(udpData, "\n"), "\n") {
		c := strings.Split(l, " ")
		p := udpProfile{c: c, cdur: num(c[3]), sdur: num(c[12]), cb: int64(num(c[4])), sb: int64(num(c[13]))}
		if s := num(c[11]); s > 0 {
			p.sdelay = s - num(c[2])
		} else {
			p.sdelay = -1
		}
		p.fqdn, p.sni = c[18] != "-", c[19] != "-"
		p.cTail, p.sTail, p.quic = join(c, 6, 9), join(c, 15, 18), join(c, 21, 25)
		ps = append(ps, p)
	}
	return
}()

func (g *gen) udpRow() {
	p := &g.udp[g.intn(len(g.udp))]
	v6 := g.chance(g.c.ipv6)
	srv := &servers[g.skewed(len(servers))]
	f, tf := g.factor(), g.factor()
	// Tstat logs a UDP flow about 200 s after its last packet.
	first := g.now - int64(p.cdur*tf*1000) - 200e6
	g.client(v6)
	g.sp()
	g.int(int64(1024 + g.intn(64511)))
	g.sp()
	g.b = ms6(g.b, first)
	g.sp()
	g.b = ms6(g.b, int64(p.cdur*tf*1000))
	g.sp()
	g.int(int64(float64(p.cb) * f))
	g.str(p.cTail)
	g.sp()
	if v6 {
		g.str(srv.v6)
	} else {
		g.str(srv.v4)
	}
	g.sp()
	g.str(p.c[10])
	if p.sdelay < 0 {
		g.str(" 0.000000 0.000000 0")
	} else {
		g.sp()
		g.b = ms6(g.b, first+int64(p.sdelay*1000))
		g.sp()
		g.b = ms6(g.b, int64(p.sdur*tf*1000))
		g.sp()
		g.int(int64(float64(p.sb) * f))
	}
	g.str(p.sTail)
	g.sp()
	if p.fqdn || p.sni {
		g.str(srv.name)
	} else {
		g.str("-")
	}
	if g.c.format == "v33" {
		g.sp()
		if p.sni {
			g.str(srv.name)
		} else {
			g.str("-")
		}
		g.str(p.quic)
	}
	g.b = append(g.b, '\n')
}
