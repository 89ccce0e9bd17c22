package dest_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

func TestSplit(t *testing.T) {
	for text, want := range map[string][2]string{
		"parquet:/srv/tstat": {"parquet", "/srv/tstat"},
		"tcp://h:1":          {"tcp", "//h:1"},
		"whisper:":           {"whisper", ""},
		"/srv/a:b":           {"", "/srv/a:b"},
		"./a:b":              {"", "./a:b"},
		"tstat":              {"", "tstat"},
		"-":                  {"", "-"},
		"":                   {"", ""},
	} {
		if scheme, rest := dest.Split(text); [2]string{scheme, rest} != want {
			t.Errorf("%q: %q, %q", text, scheme, rest)
		}
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]dest.URL{
		"tcp://h:1":   {Scheme: "tcp", Hosts: "h:1"},
		"postgres://": {Scheme: "postgres"},
		"kafka+tls://me@a,b:2/T?compress=none&password-file=%2Ff": {Scheme: "kafka+tls", User: url.User("me"),
			Hosts: "a,b:2", Path: "T", Options: dest.Options{"compress": "none", "password-file": "/f"}},
		"clickhouse://u%40x:p%2Fw:1@[::1]:8125/d%20b/c": {Scheme: "clickhouse",
			User: url.UserPassword("u@x", "p/w:1"), Hosts: "[::1]:8125", Path: "d%20b/c"},
	} {
		if want.Options == nil {
			want.Options = dest.Options{}
		}
		u, err := dest.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got := dest.URL{Scheme: u.Scheme, User: u.User, Hosts: u.Hosts, Path: u.Path, Options: u.Options}
		if !reflect.DeepEqual(got, want) || u.String() != text {
			t.Errorf("%s: %+v", u, got)
		}
	}
	for text, want := range map[string]string{
		"tcp:h:1":                       "not a URL",
		"":                              "not a URL",
		"a://u:secret%zz@h":             "its user and password cannot be read",
		"a://h?%zzsecret":               "its query cannot be read",
		"a://h?x=1;y=2":                 "its query cannot be read",
		"a://h?x=secret&x=1":            "x is given twice",
		"a://u:my?secret@h/d":           "its user and password cannot be read",
		"a://u:1/secret@h/d":            "its user and password cannot be read",
		"a://secret/en@h/d":             "its user and password cannot be read",
		"a://u@corp:1/secret@h/d":       "its user and password cannot be read",
		"a://u:my?x=1&se/secret&tls=on": "its user and password cannot be read",
		"a://h?a-b=1&x=&a-b=":           "a-b is given twice",
	} {
		_, err := dest.Parse(text)
		if err == nil || err.Error() != want || !hint.IsUsage(err) || hint.Of(err) == "" || strings.Contains(hint.Of(err), "secret") {
			t.Errorf("%q: %v (%s)", text, err, hint.Of(err))
		}
	}
	if path, options, err := dest.ParsePath("/srv/w?schemas=/etc/s"); path != "/srv/w" || options["schemas"] != "/etc/s" || err != nil {
		t.Error(path, options, err)
	}
	if _, _, err := dest.ParsePath("d?%zz"); !hint.IsUsage(err) {
		t.Error(err)
	}
}

func TestAddrs(t *testing.T) {
	for _, c := range []struct{ hosts, port, want string }{
		{"h:1", "", "[h:1]"},
		{"h", "9092", "[h:9092]"},
		{"a,b:2,[::1],[fe80::1%25eth0]:3", "1", "[a:1 b:2 [::1]:1 [fe80::1%eth0]:3]"},
		{"h:", "7", "[h:7]"},
		{"h", "", "host or port is missing"},
		{"", "1", "host or port is missing"},
		{":1", "1", "host or port is missing"},
		{"a,", "1", "host or port is missing"},
		{"h:x", "", "not a URL"},
		{"h:0", "", "its port is not a number from 1 to 65535"},
		{"h:65536", "", "its port is not a number from 1 to 65535"},
		{"a b", "1", "not a URL"},
		{"h#x", "1", "not a URL"},
		{"h:9000#", "", "not a URL"},
		{"h:9000?", "", "not a URL"},
		{"::1", "1", "not a URL"},
		{"[::1", "1", "not a URL"},
	} {
		addrs, err := (&dest.URL{Hosts: c.hosts}).Addrs(c.port)
		got := fmt.Sprint(addrs)
		if err != nil {
			got = err.Error()
		}
		if got != c.want || err != nil && !hint.IsUsage(err) {
			t.Errorf("%q, default %q: %s, want %s", c.hosts, c.port, got, c.want)
		}
	}
}

// TestOptionsAcceptOldSpelling checks that Check also accepts the spelling of
// older versions.
func TestOptionsAcceptOldSpelling(t *testing.T) {
	for _, c := range []struct {
		given dest.Options
		want  string
		hint  string
	}{
		{dest.Options{}, "map[]", ""},
		{dest.Options{"password-file": "/f", "tls": "on"}, "map[password-file:/f tls:on]", ""},
		{dest.Options{"password_file": "/f"}, "map[password-file:/f]", ""},
		{dest.Options{"password_file": "/f", "password-file": "/g"}, "password-file is given twice", "give it once"},
		{dest.Options{"tls": "on", "pasword-file": "/f"}, `unknown setting "pasword-file"`, "known: password-file, tls"},
	} {
		err := c.given.Check("setting", "password-file", "tls")
		got := fmt.Sprint(c.given)
		if err != nil {
			got = err.Error()
		}
		if got != c.want || hint.Of(err) != c.hint || err != nil && !hint.IsUsage(err) {
			t.Errorf("%s (%s), want %s (%s)", got, hint.Of(err), c.want, c.hint)
		}
	}
	if err := (dest.Options{"x": ""}).Check("option"); err == nil || hint.Of(err) != "there are none" {
		t.Errorf("%v (%s)", err, hint.Of(err))
	}
}

func TestPasswordOfFileOrVariable(t *testing.T) {
	t.Setenv("DEST_TEST_PASSWORD", "from the variable")
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("from the file\r\nmore\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"": "from the variable", file: "from the file"} {
		if got, err := (dest.Options{"password-file": path}).Password("DEST_TEST_PASSWORD"); got != want || err != nil {
			t.Errorf("%q: %q, %v", path, got, err)
		}
	}
	if _, err := (dest.Options{"password-file": file + "x"}).Password("DEST_TEST_PASSWORD"); err == nil || !strings.HasPrefix(err.Error(), "password file: open ") {
		t.Error(err)
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"parquet:./tstat":                       "parquet:./tstat",
		"postgres://me@host:5432,b:1/db?a=b":    "postgres://me@host:5432,b:1/db?a=b",
		"postgres://me:se@cret@host/db":         "postgres://me:xxxxx@host/db",
		"postgres://me:a/b@host/db?x=1":         "postgres://me:xxxxx@host/db?x=1",
		"postgres://me:a?b@host/db?x=1":         "postgres://me:xxxxx@host/db?x=1",
		"postgres://:p@h/db":                    "postgres://:xxxxx@h/db",
		"postgres://u:host-forgotten/db":        "postgres://u:xxxxx",
		"postgres://h/db?sslpassword=a%20b&p=1": "postgres://h/db?sslpassword=xxxxx&p=1",
		"clickhouse://h/db?PassWord=p&a=b":      "clickhouse://h/db?PassWord=xxxxx&a=b",
		"clickhouse://h:1/db?password=a@b":      "clickhouse://xxxxx",
		"clickhouse://h/db?password-file=/f":    "clickhouse://h/db?password-file=/f",
		"postgres:host=h password=p user=me":    "postgres:host=h password=xxxxx user=me",
		"nats://token@h/S":                      "nats://xxxxx@h/S",
		"nats+tls://me:se@cret@h:1/S":           "nats+tls://xxxxx@h:1/S",
		"kafka://me:secret@h:1,i/T?sasl=plain":  "kafka://xxxxx@h:1,i/T?sasl=plain",
		"http://user:secret@host:1x":            "http://user:xxxxx@host:1x",
		"math://probe:3001/s":                   "math://probe:3001/s",
		// A user name with an @ or a slash.
		"postgres://me@corp:secret@host/db": "postgres://me@corp:xxxxx@host/db",
		"postgres://me@corp:secret":         "postgres://me@corp:xxxxx",
		"postgres:///me:secret@h/db":        "postgres:///me:xxxxx@h/db",
		// Arguments of commands and quoted settings.
		"exec:prog --password=x --v=1":                      "exec:prog --password=xxxxx --v=1",
		"exec:prog --token=x --api-key=y --apikey=z":        "exec:prog --token=xxxxx --api-key=xxxxx --apikey=xxxxx",
		"exec:env KEY=x prog --keys=2 me@h":                 "exec:env KEY=xxxxx prog --keys=2 me@h",
		"exec:PASSWORD=\"a 'b\"c prog >>log":                "exec:PASSWORD=xxxxx prog >>log",
		"exec:sh -c 'prog --secret=a\nb'":                   "exec:sh -c 'prog --secret=xxxxx\nb'",
		"exec:curl 'https://h/?api_key=x'":                  "exec:curl 'https://h/?api_key=xxxxx",
		"postgres:host=h password='a b' user=me":            "postgres:host=h password=xxxxx user=me",
		"postgres:host=h password = 'a\\' b' user=me":       "postgres:host=h password = xxxxx user=me",
		"postgres:host=h password='a b":                     "postgres:host=h password=xxxxx",
		"clickhouse://h/db?cert=/c&key=/k&password-file=/f": "clickhouse://h/db?cert=/c&key=/k&password-file=/f",
		"postgres://h/db?sslkey=/k":                         "postgres://h/db?sslkey=/k",
		// The scheme or a slash is missing.
		"me:secret@host/db":                "me:xxxxx@host/db",
		"me:se/cr:e@t@host/db":             "me:xxxxx@host/db",
		"postgres:/me:secret@h/db":         "postgres:xxxxx@h/db",
		"nats:/token@h/S":                  "nats:xxxxx@h/S",
		"NATS://token@h/S":                 "NATS://xxxxx@h/S",
		"Kafka+TLS://me:secret@h/T":        "Kafka+TLS://xxxxx@h/T",
		"file:/srv/a:b@c":                  "file:/srv/a:b@c",
		"parquet:a@b":                      "parquet:a@b",
		"copy:a@b":                         "copy:a@b",
		"whisper:a@b":                      "whisper:a@b",
		"exec:mail me@host":                "exec:mail me@host",
		"/srv/a:b@c":                       "/srv/a:b@c",
		"./a:b@c":                          "./a:b@c",
		"graphite://[::1]:2003?timeout=1m": "graphite://[::1]:2003?timeout=1m",
	} {
		if got := dest.Redact(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestSchemes(t *testing.T) {
	s := dest.Schemes{"-", "file:DIR", "tls://", "kafka://HOST:PORT/TOPIC"}
	if got := s.String(); got != "-, file:DIR, tls://, kafka://HOST:PORT/TOPIC" {
		t.Error(got)
	}
	if got := s.Prefixes(); !slices.Equal(got, []string{"-", "file:", "tls://", "kafka://"}) {
		t.Error(got)
	}
	if !s.Has("file") || !s.Has("kafka") || s.Has("DIR") || s.Has("") {
		t.Error("wrong schemes")
	}
}

func TestBareSchemeIsNoPath(t *testing.T) {
	s := dest.Schemes{"-", "file:DIR", "kafka://HOST:PORT/TOPIC"}
	for text, want := range map[string]string{
		"-": "", "./file": "", "file:kafka": "", "kafka:": "", "files": "", "": "",
		"file":  "write it as file:DIR; a folder with this name is ./file",
		"kafka": "write it as kafka://HOST:PORT/TOPIC; a folder with this name is ./kafka",
	} {
		err := s.CheckPath(text)
		if hint.Of(err) != want || hint.IsUsage(err) != (want != "") {
			t.Errorf("%q: %v, hint %q", text, err, hint.Of(err))
		}
	}
}

// FuzzParse checks that String of a parsed URL parses to the same URL. Neither
// errors nor Redact may show a password, and a redacted URL must not have one.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"postgres://u:%s@h:5432/db?sslmode=disable", "nats://%s@h/S", "clickhouse://h/db?password=%s&tls=on",
		"kafka+tls://me:%s@a,b:2/T?compress=none", "http://u:%s@h:1x/?%zz", "a://u:%s"} {
		f.Add(s, "pass word/@?#&:%zz")
	}
	f.Fuzz(func(t *testing.T, form, middle string) {
		const mark = "s3cr3t"
		text := strings.Replace(form, "%s", mark+url.QueryEscape(middle)+mark, 1)
		if u, err := dest.Parse(text); err != nil {
			if !hint.IsUsage(err) {
				t.Errorf("%q: %v", text, err)
			}
		} else {
			again, err := dest.Parse(u.String())
			if err != nil || !reflect.DeepEqual(again, u) {
				t.Errorf("%q: %+v, again %+v, %v", text, u, again, err)
			}
			u.Addrs("1")
			u.Options.Check("option", "x")
			if password, has := u.User.Password(); has && strings.Contains(password, mark) && strings.Contains(dest.Redact(text), mark+url.QueryEscape(middle)+mark) {
				t.Errorf("%q: redacted %q", text, dest.Redact(text))
			}
		}
		// Forms without any escaping.
		for _, form := range []string{"postgres://u:%s@h:5432/db?sslmode=disable", "nats://%s@h/S", "kafka+tls://me:%s@a,b:2/T", "x://u:%s@"} {
			text := strings.Replace(form, "%s", mark+middle+mark, 1)
			redacted := dest.Redact(text)
			if strings.Contains(redacted, mark) {
				t.Errorf("%q: redacted %q", text, redacted)
			}
			if dest.Redact(redacted) != redacted {
				t.Errorf("%q: redacted %q, and again %q", text, redacted, dest.Redact(redacted))
			}
			if _, err := dest.Parse(text); err != nil && strings.Contains(err.Error()+hint.Of(err), mark) {
				t.Errorf("%q: %v", text, err)
			}
		}
		text = "clickhouse://h/db?password=" + mark + url.QueryEscape(middle) + mark + "&tls=on"
		if redacted := dest.Redact(text); strings.Contains(redacted, mark) {
			t.Errorf("%q: redacted %q", text, redacted)
		}
	})
}
