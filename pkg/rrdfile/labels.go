package rrdfile

import (
	"regexp"
	"slices"
	"strings"
)

// LabelNamingOf returns the Naming of a mode for destinations whose metrics have labels.
// The names are NAME{LABEL=VALUE,...}, with the labels sorted by name:
//
//   - default: see Table.LabelName
//   - raw: rrd{file=FILE}, the file name without ".rrd"
//
// Table t overrides default names; it may be nil. ok is false for other modes, such as
// upstream, whose names have no labels.
func LabelNamingOf(mode string, t *Table) (naming Naming, ok bool) {
	switch mode {
	case "default":
		if t == nil {
			t = &Table{}
		}
		return t.LabelName, true
	case "raw":
		return rawLabelName, true
	}
	return nil, false
}

func rawLabelName(file string) string {
	return "rrd{file=" + cleanPath(strings.TrimSuffix(file, ".rrd")) + "}"
}

// Patterns for the parts of a file name that become a metric name and label values.
var (
	histogramForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*$`)
	statisticForm = regexp.MustCompile(`^(?:idx(?:[0-9]+|oth)|prc[0-9]+(?:\.[0-9]+)?|[A-Za-z]+)$`)
)

// LabelName returns the metric name and the labels of a file:
//
//	tcp_rtt_avg_in.prc95.rrd    tcp_rtt_avg{direction=in,percentile=95}
//	tcp_rtt_avg_out.avg.rrd     tcp_rtt_avg{direction=out,statistic=avg}
//	L7_TCP_num_c_in.idx16.rrd   L7_TCP_num{cloud=yes,direction=in,index=16,name=uTP}
//	ip_protocol_loc.idxoth.rrd  ip_protocol{direction=local,index=other}
//
// The metric name is the histogram's name without the direction and the cloud marker.
// Each file has exactly one of the labels index, percentile and statistic, so no two of
// Tstat's files share a series. The label "name" is present if the index has a name. A
// file name that does not follow this pattern becomes rrd{file=FILE}.
func (t *Table) LabelName(file string) string {
	h, ok := parseName(file)
	if !ok || !histogramForm.MatchString(h.base) || !statisticForm.MatchString(h.statistic) {
		return rawLabelName(file)
	}
	name := h.base
	if own := t.Histograms[h.full]; own != "" {
		name = strings.NewReplacer(".", "_", "-", "_").Replace(strings.TrimSuffix(own, "."+h.direction))
	}
	var labels []string
	add := func(label, value string) {
		if value != "" {
			labels = append(labels, label+"="+value)
		}
	}
	add("cloud", map[string]string{"cloud": "yes", "noncloud": "no"}[h.cloud])
	add("direction", h.direction)
	if index, is := strings.CutPrefix(h.statistic, "idx"); is {
		add("index", strings.Replace(index, "oth", "other", 1))
		add("name", t.indexName(&h, index))
	} else if percentile, is := strings.CutPrefix(h.statistic, "prc"); is {
		add("percentile", percentile)
	} else {
		add("statistic", h.statistic)
	}
	return name + "{" + strings.Join(labels, ",") + "}"
}

// portHistograms lists the histograms that count packets by TCP port. LabelName uses port
// names for all of them; NamingOf does so only for some.
var portHistograms = []string{"tcp_port_dst", "tcp_port_src", "tcp_port_syndst", "tcp_port_synsrc"}

// indexName returns the name of a histogram's index, such as uTP for 16, or "" if the
// index has no name.
func (t *Table) indexName(h *histogram, index string) string {
	if own := t.Indexes[h.base][index]; own != "" {
		return own
	}
	names := families[h.base].index
	if slices.Contains(portHistograms, h.base) {
		names = tcpPorts
	}
	if index == "oth" {
		return ""
	}
	return names[index]
}
