package main

import (
	"bytes"
	"context"
	"testing"
)

func TestQuery(t *testing.T) {
	const sql = "SELECT * FROM (VALUES (1, 'abc', TIMESTAMP '2015-02-27 12:00:00.5'), (20, chr(27) || 'd', NULL)) v(n, s, t)"
	for _, c := range []struct{ flag, want string }{
		{"-threads=1", "" + // the escape character does not reach the terminal
			" n  s    t\n" +
			"--  ---  ---------------------\n" +
			" 1  abc  2015-02-27 12:00:00.5\n" +
			"20  ?d   -\n"},
		{"-csv", "n,s,t\n1,abc,2015-02-27 12:00:00.5\n20,\x1bd,\n"},
		{"-json", `{"n":1,"s":"abc","t":"2015-02-27T12:00:00.5Z"}` + "\n" + `{"n":20,"s":"\u001bd","t":null}` + "\n"},
	} {
		var out, errs bytes.Buffer
		err := run(context.Background(), []string{"query", c.flag, "SET preserve_insertion_order = true", sql}, &out, &errs)
		if err != nil {
			t.Fatal(c.flag, err, errs.String())
		}
		if out.String() != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.flag, out.String(), c.want)
		}
	}
}
