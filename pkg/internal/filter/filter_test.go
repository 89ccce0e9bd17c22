package filter

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
	"github.com/tstatrepo/tstatrepo/pkg/tstat"
)

// rows is a log_udp_complete log. Tests identify its rows by the fqdn.
const rows = `#c_ip:1 c_port:2 c_first_abs:3 c_durat:4 c_bytes_all:5 c_isint:6 s_ip:7 s_port:8 s_durat:9 fqdn:10
10.0.0.1 1024 1458855462170.0 1.5 100 1 192.168.1.1 53 1.5 a
10.0.0.2 1025 1458855463170.0 2.5 9007199254740993 0 8.8.8.8 53 nan b
2001:db8::1 443 1458941863170.0 -nan 5 1 2001:0db8::2 443 - c
- 1 - - - - - - - d
anon 53 1458855462170.0 0.0 0 0 10.0.0.1 53 0.0 e"f
`

// names returns the names of the selected rows.
func names(t testing.TB, e *Expr) (string, error) {
	t.Helper()
	typ := tstat.TypeByName("log_udp_complete")
	p, err := e.Compile(typ)
	if err != nil {
		return "", err
	}
	var got []string
	r := tstat.NewReader(strings.NewReader(rows), typ, tstat.ReaderOptions{Use: func(c tstat.Column) tstat.Use {
		if c.Name == "fqdn" || slices.Contains(p.Columns(), c.Name) {
			return tstat.Decoded
		}
		return tstat.Skipped
	}})
	for {
		b, err := r.Next()
		if err == io.EOF {
			return strings.Join(got, " "), nil
		}
		if err != nil || r.Counts().Rejects > 0 {
			t.Fatal(err, r.Counts())
		}
		keep := make([]bool, b.Len())
		n := p.Select(b, keep)
		b.Keep(keep)
		if b.Len() != n {
			t.Errorf("%d rows, told %d", b.Len(), n)
		}
		v, _ := b.Decoded(typ.Column("fqdn"))
		for _, x := range v.Texts {
			got = append(got, string(x[:1]))
		}
	}
}

func TestSelectEvaluatesOperators(t *testing.T) {
	for text, want := range map[string]string{
		"c_port = 443":                                "c",
		"c_port == 443":                               "c",
		"c_port != 443":                               "a b d e",
		"c_port <> 443":                               "a b d e",
		"c_port < 1024":                               "c d e",
		"c_port<=1024":                                "a c d e",
		"c_port > 1024":                               "b",
		"c_port >= 1024":                              "a b",
		"c_port > 1023.5":                             "a b",
		"c_port <= 1024.5":                            "a c d e",
		"c_port = 1024.5":                             "",
		"c_port != 1024.5":                            "a b c d e",
		"c_port < 1e300":                              "a b c d e",
		"c_port > -1e300":                             "a b c d e",
		"c_port >= -9223372036854775808":              "a b c d e",
		"c_bytes_all = 9007199254740993":              "b",
		"c_bytes_all > 9007199254740992":              "b",
		"c_bytes_all > 1e3 and c_port > 0":            "b",
		"c_durat > 1.5":                               "b c", // NaN
		"c_durat = 0":                                 "e",
		"s_durat > c_durat":                           "b",
		"c_durat >= s_durat":                          "a e",
		"c_port = s_port":                             "c e",
		"c_bytes_all < c_durat":                       "c",
		"c_ip = s_ip":                                 "",
		"c_ip < fqdn":                                 "a b c e",
		"c_isint":                                     "a c",
		"not c_isint":                                 "b e",
		"c_isint = true":                              "a c",
		"c_isint != true":                             "b e",
		"c_isint = 0":                                 "b e",
		"c_isint in (true, false)":                    "a b c e",
		"fqdn = \"a\"":                                "a",
		"fqdn = 'a'":                                  "a",
		"fqdn >= \"b\"":                               "b c d e",
		"fqdn = \"e\"\"f\"":                           "e",
		"fqdn = 'e\"f'":                               "e",
		"fqdn in (\"a\", 'd')":                        "a d",
		"fqdn not in (\"a\", 'd')":                    "b c e",
		"fqdn ~ \"^[ab]$\"":                           "a b",
		"fqdn ~ \"F$\"":                               "",
		"fqdn ~ \"(?i)F$\"":                           "e",
		"fqdn !~ \"^[ab]$\"":                          "c d e",
		"c_ip is null":                                "d",
		"c_ip is not null":                            "a b c e",
		"c_ip in 10.0.0.0/8":                          "a b",
		"c_ip not in 10.0.0.0/8":                      "c e",
		"not c_ip in 10.0.0.0/8":                      "c e",
		"c_ip in (10.0.0.2/32, 2001:db8::/32)":        "b c",
		"c_ip in (10.0.0.2, \"anon\")":                "b e",
		"s_ip = 2001:db8::2":                          "c", // in any notation
		"s_ip != 2001:db8::2":                         "a b e",
		"c_ip in 0.0.0.0/0":                           "a b",
		"c_ip in ::/0":                                "c",
		"c_ip in fe80::/10 or s_port = 53":            "a b e",
		"c_first_abs >= 2016-03-25":                   "c",
		"c_first_abs < \"2016-03-24T21:37:43Z\"":      "a e",
		"c_first_abs < 2016-03-24T22:37:43+01:00":     "a e",
		"c_first_abs > \"2016-03-24 21:37\"":          "a b c e",
		"c_first_abs = \"2016-03-24T21:37:42.17\"":    "a e",
		"c_first_abs is null":                         "d",
		"c_port > 1000 and c_isint or fqdn = \"d\"":   "a d",
		"c_port > 1000 and (c_isint or fqdn = \"d\")": "a",
		"not (c_port > 1000 and c_isint)":             "b c d e",
		"not not c_isint":                             "a c",
		"c_isint and c_ip is null":                    "",
		"c_isint or c_ip is null":                     "a c d",
		"c_isint or not c_isint":                      "a b c e",
		"c_port IN (443) OR c_port Is Not NULL AND not c_isint": "b c e",
	} {
		e, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got, err := names(t, e)
		if err != nil || got != want {
			t.Errorf("%s: %q, want %q, %v", text, got, want, err)
		}
		again, err := Parse(e.String())
		if err != nil || again.String() != e.String() {
			t.Errorf("%s: %s, then %v, %v", text, e, again, err)
			continue
		}
		if got, err := names(t, again); err != nil || got != want {
			t.Errorf("%s: as %s %q, want %q, %v", text, again, got, want, err)
		}
	}
}

func TestStringIsCanonical(t *testing.T) {
	for text, want := range map[string]string{
		"a=1":                         "a = 1",
		"( (a>1)) AND b Is Not NULL":  "a > 1 and b is not null",
		"a in 1":                      "a in (1)",
		"a or (b or c)":               "a or b or c",
		"a and (b or c) and d":        "a and (b or c) and d",
		"not (a and b)":               "not (a and b)",
		"not a and b":                 "not a and b",
		`a = 'x"y' and b ~ "it''s"`:   `a = "x""y" and b ~ "it''s"`,
		"a = TRUE and b not in (1,2)": "a = true and b not in (1, 2)",
	} {
		e, err := Parse(text)
		if err != nil || e.String() != want {
			t.Errorf("%s: %v, want %s, %v", text, e, want, err)
		}
	}
}

func TestErrorsNameCharacterAndHint(t *testing.T) {
	for text, want := range map[string]struct {
		at           int
		reason, hint string
	}{
		"":                          {1, "is empty", "for example"},
		"  ":                        {3, "is empty", "for example"},
		"c_port":                    {1, "c_port is an integer, not a flag", "compare it"},
		"c_port =":                  {9, "the end where a value is expected", ""},
		"c_port = = 3":              {10, `"=" where a value is expected`, ""},
		"c_port > 3 c_port":         {12, `"c_port" where "and", "or" or the end is expected`, ""},
		"(c_port > 3":               {12, `the end where ")" is expected`, `at character 1`},
		"c_port > 3)":               {11, `")" where "and", "or" or the end is expected`, ""},
		"c_prot > 3":                {1, "log_udp_complete has no column c_prot", "did you mean c_port?"},
		"C_p2p_pkts is null":        {1, "log_udp_complete has no column C_p2p_pkts", "did you mean c_p2p_pkts?"},
		"p2p_pkts_tva is null":      {1, "log_udp_complete has no column p2p_pkts_tva", "did you mean c_p2p_pkts_tva?"},
		"c_mptcp is null":           {1, "log_udp_complete has no column c_mptcp", "log_tcp_complete has it"},
		"c_p2p_pkts = 'x'":          {14, "c_p2p_pkts is an integer, and \"x\" is not", "a number"},
		"C_PORT > 3":                {1, "log_udp_complete has no column C_PORT", "did you mean c_port?"},
		"port > 3":                  {1, "log_udp_complete has no column port", "did you mean c_port?"},
		"c_isint and c_tls_SNI > 3": {13, "log_udp_complete has no column c_tls_SNI", "log_tcp_complete has it"},
		"c_port > \"x\"":            {10, `c_port is an integer, and "x" is not`, "a number"},
		"c_port > x":                {10, "log_udp_complete has no column x", ""},
		"c_port > 10.0.0.1":         {10, "c_port is an integer, and 10.0.0.1 is not", "a number"},
		"c_durat > true":            {11, "c_durat is a number, and true is not", "a number"},
		"c_port > nan":              {10, "log_udp_complete has no column nan", ""},
		"c_isint > true":            {11, "flags have no order for >", ""},
		"c_isint = 2":               {11, "c_isint is a flag, and 2 is not", "true or false"},
		"c_first_abs > 5":           {15, "c_first_abs is a time, and 5 is not", "2024-05-01T12:00"},
		"c_first_abs > 2024-13-01":  {15, "c_first_abs is a time, and 2024-13-01 is not", "2024-05-01T12:00"},
		"c_ip = 10.0.0":             {8, "10.0.0 is neither an address nor a network", "string needs quotes"},
		"c_ip = 10.0.0.1/8":         {8, "10.0.0.1/8 has bits behind its prefix: the network is 10.0.0.0/8", ""},
		"c_ip < 10.0.0.1":           {8, "addresses have no order for <", "in 10.0.0.0/8"},
		"c_ip = x":                  {8, "log_udp_complete has no column x", "a string needs quotes"},
		"c_ip in (10.0.0.1":         {18, `the end where "," or ")" is expected`, ""},
		"c_ip in ()":                {10, `")" where a value is expected`, ""},
		"c_ip in (x)":               {10, "x is not an address", "quotes"},
		"c_ip in fe80::1%eth0":      {16, `unexpected '%'`, ""},
		"c_ip = null":               {8, "nothing equals null", "is null"},
		"c_ip is 3":                 {9, `"3" where "null" is expected`, ""},
		"c_ip not 3":                {10, `"3" where "in" is expected`, ""},
		"c_port in (1, c_port)":     {15, "a column cannot be in a list", ""},
		"c_ip ~ x":                  {8, "a regular expression is a string", "quotes"},
		"c_ip ~ \"(\"":              {8, "error parsing regexp: missing closing ): `(`", "RE2"},
		"c_port ~ \"4\"":            {8, "c_port is an integer, which no regular expression matches", "texts"},
		"c_port = c_ip":             {10, "c_port is an integer, and c_ip is a text", ""},
		"c_ip = \"x":                {8, "the string does not end", "written twice"},
		"443 = c_port":              {1, `"443" where a column is expected`, "the column comes first"},
		"c_port && c_ip":            {8, `"&&" is not an operator`, "write and"},
		"c_port = 1 || c_ip":        {12, `"||" is not an operator`, "write or"},
		"!c_isint":                  {1, `"!" is not an operator`, "write not"},
		"c_ip =~ \"x\"":             {6, `"=~" is not an operator`, "write ~"},
		"ä = 1":                     {1, `unexpected 'ä'`, ""},
		"c_ip = \"ä\" ; x":          {12, `unexpected ';'`, ""},
		"c_ip = \xff":               {8, "not UTF-8", ""},
		"in = 3":                    {1, `"in" where a column is expected`, ""},
		strings.Repeat("(", 200):    {101, "more than 100 levels deep", ""},
		strings.Repeat("not ", 200): {401, "more than 100 levels deep", ""},
		strings.Repeat("x", 1<<17):  {1, "longer than 65536 bytes", ""},
	} {
		e, err := Parse(text)
		if err == nil {
			_, err = names(t, e)
		}
		var fe *Error
		if !errors.As(err, &fe) || fe.At != want.at || fe.Reason != want.reason || !strings.Contains(fe.Hint(), want.hint) || !hint.IsUsage(err) {
			t.Errorf("%.40s: %v (hint %q), want character %d: %s", text, err, hint.Of(err), want.at, want.reason)
		}
	}
}

func TestExpressionsCanNameEveryColumn(t *testing.T) {
	for _, typ := range tstat.Types() {
		for _, c := range slices.Concat(typ.Columns, typ.Optional) {
			e, err := Parse(c.Name + " is null and not " + c.Name + " is not null")
			if err != nil {
				t.Errorf("%s: %v", c.Name, err)
				continue
			}
			if p, err := e.Compile(typ); err != nil || len(p.Columns()) != 1 || !slices.Equal(e.Names(), []string{c.Name}) {
				t.Errorf("%s: %v", c.Name, err)
			}
		}
	}
}

// TestOptionalColumnsAreNullWhereLogsLackThem uses columns that only some builds of Tstat
// write, at any position in the header.
func TestOptionalColumnsAreNullWhereLogsLackThem(t *testing.T) {
	const (
		without = "#c_ip:1 c_port:2\n1.1.1.1 1\n1.1.1.1 2\n"
		with    = "#c_port:1 s_mptcp:2 c_sit1:3 c_mptcp:4\n1 7 0.5 1\n2 - nan 0\n3 8 1.5 -\n"
	)
	typ := tstat.TypeByName("log_tcp_complete")
	for text, want := range map[string][2][]int64{
		"c_mptcp = 1":                       {nil, {1}},
		"c_mptcp != 1":                      {nil, {2}},
		"not c_mptcp = 1":                   {nil, {2}},
		"c_mptcp is null":                   {{1, 2}, {3}},
		"c_mptcp is not null":               {nil, {1, 2}},
		"not c_mptcp is null":               {nil, {1, 2}},
		"c_mptcp in (0, 1)":                 {nil, {1, 2}},
		"c_mptcp not in (1)":                {nil, {2}},
		"c_mptcp = 1 or c_port = 2":         {{2}, {1, 2}},
		"c_mptcp = 1 and c_port = 2":        {nil, nil},
		"not (c_mptcp = 1 and c_port = 2)":  {{1}, {1, 2, 3}},
		"not (c_mptcp = 1 or c_port = 2)":   {nil, nil},
		"c_mptcp < s_mptcp":                 {nil, {1}},
		"c_port < s_mptcp":                  {nil, {1, 3}},
		"c_sit1 > 1":                        {nil, {2, 3}}, // NaN
		"c_sit1 < c_mptcp":                  {nil, {1}},
		"c_sit2 > 1 or c_sit2 <= 1":         {nil, nil},
		"c_sit2 is null":                    {{1, 2}, {1, 2, 3}},
		"c_sit2 is null and s_mptcp > 7":    {nil, {3}},
		"c_sit2 is not null or c_port >= 2": {{2}, {2, 3}},
	} {
		e, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		s := Selection{Where: e, Columns: []string{"c_port"}}
		for i, log := range []string{without, with} {
			rows, err := s.For(typ)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			b, err := tstat.NewReader(strings.NewReader(log), typ, tstat.ReaderOptions{Use: rows.Uses()}).Next()
			if err != nil {
				t.Fatal(err)
			}
			rows.Apply(b)
			if v, _ := b.Column(typ.Column("c_port")); !slices.Equal(v.Ints, want[i]) {
				t.Errorf("%s: rows %v of log %d, want %v", text, v.Ints, i+1, want[i])
			}
		}
	}
}

// TestSampleIsStable checks that a sample has about one flow in N, is a subset of larger
// samples, is the same in both directions and never differs from that of older versions.
func TestSampleIsStable(t *testing.T) {
	typ := tstat.TypeByName("log_udp_complete")
	sample := func(n, text string) (selected []int64) {
		t.Helper()
		s, err := ParseSample(n)
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.For(typ)
		if err != nil || s.String() != n {
			t.Fatal(err)
		}
		r := tstat.NewReader(strings.NewReader(text), typ, tstat.ReaderOptions{})
		for {
			b, err := r.Next()
			if err == io.EOF {
				return selected
			}
			if err != nil {
				t.Fatal(err)
			}
			keep := make([]bool, b.Len())
			for i := range keep {
				keep[i] = true
			}
			n := p.Select(b, keep)
			b.Keep(keep)
			if n != b.Len() {
				t.Errorf("%d rows, told %d", b.Len(), n)
			}
			for i := range b.Len() {
				selected = append(selected, b.LineNumber(i))
			}
		}
	}
	var there, back strings.Builder
	there.WriteString("#c_ip:1 c_port:2 s_ip:3 s_port:4\n")
	back.WriteString("#s_ip:1 s_port:2 c_ip:3 c_port:4\n")
	for i := range 20000 {
		line := fmt.Sprintf("10.0.%d.%d %d 2001:db8::%x 443\n", i/250%100, i%250, 1024+i%60000, i%77)
		there.WriteString(line)
		back.WriteString(line)
	}
	hundredth, tenth := sample("1/100", there.String()), sample("1/10", there.String())
	if n := len(hundredth); n < 140 || n > 260 {
		t.Errorf("%d of 20000 rows are 1/100", n)
	}
	if n := len(tenth); n < 1800 || n > 2200 {
		t.Errorf("%d of 20000 rows are 1/10", n)
	}
	for _, line := range hundredth {
		if !slices.Contains(tenth, line) {
			t.Errorf("line %d is in 1/100, not in 1/10", line)
		}
	}
	if !slices.Equal(sample("1/100", back.String()), hundredth) {
		t.Error("the other direction has another sample")
	}
	if n := len(sample("1/1", there.String())); n != 20000 {
		t.Errorf("1/1 are %d rows", n)
	}
	if want := []int64{232, 401, 445, 472, 834}; !slices.Equal(hundredth[:5], want) {
		t.Errorf("the first lines are %v, want %v", hundredth[:5], want)
	}
	for _, text := range []string{"", "1/", "1/0", "2/3", "1/-1", "0.1", "1/x", "1/99999999999999999999"} {
		if _, err := ParseSample(text); err == nil || !hint.IsUsage(err) || hint.Of(err) == "" {
			t.Errorf("%q: %v", text, err)
		}
	}
	s, _ := ParseSample("1/10")
	if _, err := s.For(tstat.TypeByName("log_l3_bitrate")); err == nil || !hint.IsUsage(err) {
		t.Errorf("log_l3_bitrate: %v", err)
	}
}

// FuzzParse checks that Parse never panics, that errors name a character of the text, and
// that the canonical form of an expression parses to the same expression.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"c_port = 443 and not (s_ip in (10.0.0.0/8, ::1) or fqdn ~ \"x\")", "c_isint", "a is not null or b not in ('x''y', \"z\")", "c_first_abs > 2024-05-01T10:00Z", "((", "a = -1e9 && b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := Parse(text)
		if err != nil {
			var fe *Error
			if !errors.As(err, &fe) || fe.At < 1 || fe.At > len([]rune(text))+1 {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		again, err := Parse(e.String())
		if err != nil || again.String() != e.String() {
			t.Fatalf("%q: %s, then %v, %v", text, e, again, err)
		}
		got, err := names(t, e)
		got2, err2 := names(t, again)
		if got != got2 || (err == nil) != (err2 == nil) {
			t.Errorf("%q: %q, %v; as %s: %q, %v", text, got, err, again, got2, err2)
		}
	})
}
