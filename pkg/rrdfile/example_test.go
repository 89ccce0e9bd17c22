package rrdfile_test

import (
	"fmt"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/rrdfile"
)

// Each file in Tstat's RRD folder holds one metric. This example prints the points of
// the last hour.
func ExampleReader() {
	name, _ := rrdfile.NamingOf("default", nil)
	r := rrdfile.NewReader()
	defer r.Close()
	const folder, file = "/var/lib/tstat/rrd/", "ip_protocol_in.idx6.rrd"
	f, err := r.Read(folder+file, time.Now().Add(-time.Hour).Unix())
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, series := range f.Series {
		for _, p := range series.Points {
			fmt.Println(name(file), p.Value, p.Time)
		}
	}
}

// A metric has one name with dots for Graphite, and one with labels for Prometheus.
func ExampleTable_LabelName() {
	graphite, _ := rrdfile.NamingOf("default", nil)
	prometheus, _ := rrdfile.LabelNamingOf("default", nil)
	for _, file := range []string{"ip_protocol_in.idx6.rrd", "tcp_cl_p_out.prc95.rrd"} {
		fmt.Println(graphite(file), prometheus(file))
	}
	// Output:
	// ip.protocol.in.TCP ip_protocol{direction=in,index=6,name=TCP}
	// tcp.cl_p.out.quantile_95 tcp_cl_p{direction=out,percentile=95}
}
