package command

import (
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/tstatrepo/tstatrepo/pkg/internal/config"
	"github.com/tstatrepo/tstatrepo/pkg/internal/console"
	"github.com/tstatrepo/tstatrepo/pkg/internal/dest"
)

// passwords describes, for each scheme, how to give a password outside the URL.
var passwords = map[string]string{
	"postgres":   "the password in PGPASSWORD or ~/.pgpass",
	"postgresql": "the password in PGPASSWORD or ~/.pgpass",
	"dbstream":   "the password in PGPASSWORD or ~/.pgpass",
	"clickhouse": "the password in CLICKHOUSE_PASSWORD or password-file=FILE",
	"nats":       "the file of credentials, creds=FILE",
	"nats+tls":   "the file of credentials, creds=FILE",
}

// warnPasswords warns about passwords in URLs on the command line.
func warnPasswords(c *cli.Context, con *console.Console, settings []*config.Setting) {
	given := map[string][]string{"an argument": c.Args().Slice()}
	for _, s := range settings {
		if texts := s.Texts(); texts != nil {
			given[s.From] = texts
		}
	}
	for _, where := range slices.Sorted(maps.Keys(given)) {
		if where != "an argument" && !strings.HasPrefix(where, "--") {
			continue
		}
		for _, text := range given[where] {
			if shown := dest.Redact(text); shown != text {
				scheme, _ := dest.Split(text)
				attrs := []any{"in", where, "url", shown}
				var places []string
				if place, ok := passwords[scheme]; ok {
					places = append(places, place)
				}
				if c.Command.Name != "store" { // the URL of store can only be an argument
					places = append(places, "the URL in the config file")
				}
				if places != nil {
					attrs = append(attrs, "hint", "give "+strings.Join(places, ", or "))
				}
				con.Logger().Warn("every user of this machine can see a password on the command line", attrs...)
			}
		}
	}
}
