package tstat_test

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// A Reader returns the rows of a log in batches, with the values by column.
func ExampleReader() {
	log := strings.NewReader("#c_ip:1 c_port:2 s_ip:3 s_port:4\n10.0.0.1 40000 192.0.2.1 443\n10.0.0.2 40001 192.0.2.1 80\nbroken\n")
	typ := tstat.TypeByName("log_udp_complete")
	r := tstat.NewReader(log, typ, tstat.ReaderOptions{
		Reject: func(line int64, reason string, _ []byte) { fmt.Printf("line %d: %s\n", line, reason) },
	})
	for {
		batch, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		ports, _ := batch.Column(typ.Column("s_port"))
		fmt.Println(ports.Ints)
	}
	fmt.Printf("%d rows, %d rejected\n", r.Counts().Rows, r.Counts().Rejects)
	// Output:
	// line 4: 1 columns, not 4
	// [443 80]
	// 2 rows, 1 rejected
}

// The name of a folder is the probe's local time. When the clock goes back, a name has
// two possible times.
func ExampleParseFolder() {
	rome, err := time.LoadLocation("Europe/Rome")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, name := range []string{"2016_03_24_22_37.out", "2016_10_30_02_30.out"} {
		t, err := tstat.ParseFolder(name, rome)
		fmt.Println(t.Time.Format(time.DateTime), t.Latest.Format(time.DateTime), err)
	}
	// Output:
	// 2016-03-24 21:37:00 2016-03-24 21:37:00 <nil>
	// 2016-10-30 00:30:00 2016-10-30 01:30:00 <nil>
}
