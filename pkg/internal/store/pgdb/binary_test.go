package pgdb

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/store"
	"github.com/tstatrepo/tstatrepo/pkg/internal/store/sqlstore"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// TestAsWritten checks that the binary form also keeps integers in text columns and
// times in number columns as Tstat wrote them. It tries other values in the same
// batch, and later headers with another order of columns.
func TestAsWritten(t *testing.T) {
	typ := tstat.TypeByName("log_tcp_complete")
	var targets []sqlstore.Target
	for name, as := range map[string]string{"c_port": "int4", "c_pkts_all": "text", "first": "float8", "c_ip": "text"} {
		targets = append(targets, sqlstore.Target{Name: name, Type: as, Source: typ.Column(name)})
	}
	const (
		header = "#c_port:1 c_pkts_all:2 first:3 c_ip:4\n"
		other  = "#c_ip:1 first:2 c_port:3 c_pkts_all:4\n"
		none   = "#c_ip:1 c_port:2\n"
	)
	for _, c := range []struct{ log, want string }{
		{header + "1 200 1458855462170.811035 a\n2 0 0.0 b\n", "1 200 1458855462170.811 a, 2 0 0 b"},
		{header + "1 007 5.5 a\n2 200 1e3 b\n", "1 007 5.5 a"}, // no exponents in times
		{header + "1 -0 - a\n2 - 7 -\n3 12.0 1458855462170.123456789 c\n", "1 -0 NULL a, 2 NULL 7 NULL, 3 12.0 1458855462170.1235 c"},
		{header + "1 --- 5 a\n2 3 --- b\n", "1 --- 5 a, 2 3 NULL b"},
		{header + "1 5 5.5 a\n" + other + "b 6.5 2 06\n" + none + "c 3\n", "1 5 5.5 a, 2 06 6.5 b, 3 NULL NULL c"},
	} {
		rows := newRows(store.FileInfo{Type: typ, Columns: typ.Columns}, RowOptions{Targets: targets, Columns: sqlstore.Widen, AsWritten: true, binary: true})
		r := tstat.NewReader(strings.NewReader(c.log), typ, tstat.ReaderOptions{})
		var got []string
		for {
			b, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := rows.Start(b); err != nil {
				t.Fatal(err)
			}
			for i := range b.Len() {
				var buf Batch
				if !rows.Append(&buf, rows.Begin(nil), b, i, "") {
					t.Fatalf("%q: row %d rejected", c.log, i)
				}
				got = append(got, decode(t, buf.data, rows.columns()))
			}
		}
		if got := strings.Join(got, ", "); got != c.want {
			t.Errorf("%q: %s, want %s", c.log, got, c.want)
		}
	}
}

// decode returns the values of a row in binary form, in the order of their
// names: c_port, c_pkts_all, first, c_ip.
func decode(t *testing.T, row []byte, columns []sqlstore.Target) string {
	t.Helper()
	values := make([]string, 4)
	if n := int(binary.BigEndian.Uint16(row)); n != len(columns) {
		t.Fatalf("%d values of %d columns", n, len(columns))
	}
	row = row[2:]
	for _, c := range columns {
		text := "NULL"
		n := int32(binary.BigEndian.Uint32(row))
		row = row[4:]
		if n >= 0 {
			switch c.Type {
			case "int4":
				text = fmt.Sprint(int32(binary.BigEndian.Uint32(row)))
			case "float8":
				text = strconv.FormatFloat(math.Float64frombits(binary.BigEndian.Uint64(row)), 'f', -1, 64)
			default:
				text = string(row[:n])
			}
			row = row[n:]
		}
		values[slices.Index([]string{"c_port", "c_pkts_all", "first", "c_ip"}, c.Name)] = text
	}
	if len(row) > 0 {
		t.Fatalf("%d bytes more", len(row))
	}
	return strings.Join(values, " ")
}
