// Command tstatduck runs DuckDB for tstatrepo's tests, benchmark and demo. It is a
// separate module, so that DuckDB (C++, 130 MB) does not become a dependency of
// tstatrepo.
//
//	tstatduck query [flags] SQL...      run SQL and print the results
//	tstatduck readcsv [flags] TREE      read a Tstat log tree with DuckDB's read_csv
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/duckdb/duckdb-go/v2"
)

const usage = `usage: tstatduck query [flags] SQL...
       tstatduck readcsv [flags] TREE
"tstatduck query -h" and "tstatduck readcsv -h" list the flags.
`

// errUsage means that the usage was already printed.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "tstatduck:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "query":
			return query(ctx, args[1:], stdout, stderr)
		case "readcsv":
			return readCSV(ctx, args[1:], stdout, stderr)
		}
	}
	fmt.Fprint(stderr, usage)
	return errUsage
}

// newFlags returns the flag set of a subcommand.
func newFlags(name, args string, stderr io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprintf(stderr, "usage: tstatduck %s [flags] %s\n", name, args)
		fs.PrintDefaults()
	}
	return fs
}

// parse calls fs.Parse. It returns errUsage in place of an error that fs.Parse has
// already printed.
func parse(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil && !errors.Is(err, flag.ErrHelp) {
		return errUsage
	} else {
		return err
	}
}

// open opens a database file, or a database in memory if path is empty. It prevents
// DuckDB from downloading extensions: all that is needed is built in, and tests must not
// depend on the network.
func open(path, memory string, threads int) (*sql.DB, error) {
	dsn := path + "?autoinstall_known_extensions=false&autoload_known_extensions=false"
	if memory != "" {
		dsn += "&memory_limit=" + memory
	}
	if threads > 0 {
		dsn += fmt.Sprintf("&threads=%d", threads)
	}
	c, err := duckdb.NewConnector(dsn, nil)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(c), nil
}
