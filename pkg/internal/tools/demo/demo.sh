#!/bin/sh
# Demonstrates tstatrepo: `make demo`. It first imports a few hundred kB of real
# logs, then runs the loop of mPlane (loop.sh). All files are in demo-out/, which
# is emptied first.
set -eu
PATH=$PATH:/usr/local/go/bin # where Go's tarball is installed
cd "$(dirname "$0")/../../../.."
export GOTOOLCHAIN="${GOTOOLCHAIN:-auto}" # Debian pins it to "local"

logs=${TSTATREPO_TESTLOGS:-pkg/tstat/testdata/logs}
out=demo-out
repo=bin/tstatrepo

heading() { printf '\n== %s\n\n' "$*"; }

# show prints a command as a user would type it, and runs it.
show() {
	printf '$ %s\n' "$*"
	"$@" 2>&1
}

# query prints SQL and its result.
query() {
	printf '%s\n\n' "$1"
	bin/tstatduck query "$1"
}

heading "Build"
sh pkg/internal/tools/demo/install.sh
make --no-print-directory build
# The query tool is DuckDB (C++). tstatrepo does not need it.
echo "CGO_ENABLED=1 go -C pkg/internal/tools/duckdb build -o ../../../../bin/tstatduck ."
CGO_ENABLED=1 go -C pkg/internal/tools/duckdb build -o ../../../../bin/tstatduck .
echo "go build -o bin/tstatgen ./cmd/tstatgen"
go build -o bin/tstatgen ./cmd/tstatgen
"$repo" --version

rm -rf "$out"
mkdir "$out"

heading "Import Tstat logs into Parquet files"
echo "The samples are logs of several Tstat versions, one tree for each; here each is a"
echo "probe. --include-open takes the newest folder too: a live Tstat still writes to it."
echo
first=
for tree in "$logs"/*/; do
	tree=${tree%/}
	set -- "$repo" import-bulk --to "parquet:$out/tstat" --probe "$(basename "$tree")" --include-open --timezone UTC --state-dir "$out/state" "$tree"
	if [ -z "$first" ]; then
		first=$tree
		show "$@" --verbose
		printf '\n... and likewise'
	else
		printf ' %s' "$(basename "$tree")"
		"$@" --quiet
	fi
done
echo

heading "The result: a dataset that DuckDB, pandas, Spark and ClickHouse read"
echo "$out/tstat/type=<log type>/probe=<probe>/date=<day>/<log folder>.parquet:"
find "$out/tstat" -name '*.parquet' | sort | sed -n '1,3p'
echo "... $(find "$out/tstat" -name '*.parquet' | wc -l) files, $(du -sh "$out/tstat" | cut -f1)"

heading "A second run imports nothing"
show "$repo" import-bulk --verbose --to "parquet:$out/tstat" --probe "$(basename "$first")" --include-open --timezone UTC --state-dir "$out/state" "$first"

heading "Query: what is there?"
query "SELECT type, count(DISTINCT probe) AS probes, count(*) AS rows
FROM read_parquet('$out/tstat/**/*.parquet', hive_partitioning = true, union_by_name = true)
GROUP BY type ORDER BY rows DESC;"

heading "Query: who sends most?"
query "SELECT coalesce(c_tls_SNI, nullif(fqdn, ''), s_ip) AS server, count(*) AS flows, sum(s_bytes_all) AS bytes,
       round(avg(c_rtt_avg), 1) AS rtt_ms, min(first) AS since
FROM read_parquet('$out/tstat/type=log_tcp_complete/**/*.parquet', union_by_name = true)
GROUP BY server ORDER BY bytes DESC LIMIT 8;"

heading "Query: which names are asked for?"
query "SELECT query, count(*) AS answers, count(DISTINCT c_ip) AS clients,
       string_agg(DISTINCT dns_type, ' ' ORDER BY dns_type) AS types
FROM read_parquet('$out/tstat/type=log_dns_complete/**/*.parquet', union_by_name = true)
GROUP BY query ORDER BY answers DESC, query LIMIT 8;"

heading "The same without this demo's query tool"
cat <<E2
duckdb      duckdb -c "SELECT ... FROM read_parquet('$out/tstat/type=log_tcp_complete/**/*.parquet', union_by_name=true)"
pandas      pandas.read_parquet('$out/tstat/type=log_tcp_complete')
clickhouse  clickhouse local -q "SELECT count() FROM file('$out/tstat/type=log_tcp_complete/**/*.parquet')"
E2

heading "Or copy the logs as they are"
show "$repo" import-bulk --verbose --to "copy:$out/archive" --probe "$(basename "$first")" --include-open --timezone UTC --state-dir "$out/state" "$first"
find "$out/archive" -name 'log_*' | sort | sed -n '1,3p'
copied=$(find "$out/archive" -name 'log_tcp_complete*' | sort | head -n 1)
cmp "$copied" "$first/${copied#*/*/*/}" && echo "byte for byte the same"

sh pkg/internal/tools/demo/loop.sh "$out/loop"

heading "What to do next"
cat <<E2
Your logs:   $repo import-bulk /var/lib/tstat            (into ./tstat)
Look first:  $repo import-bulk --dry-run /var/lib/tstat
From cron:   7 * * * *  tstatrepo import-bulk --to parquet:/srv/tstat /var/lib/tstat
As it runs:  $repo import-bulk --follow --to parquet:/srv/tstat /var/lib/tstat
All flags:   $repo import-bulk --help, or man man/tstatrepo-import-bulk.1
This demo's files are in $out/; they may be deleted.
E2
