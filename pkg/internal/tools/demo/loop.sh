#!/bin/sh
# Demonstrates the whole loop of mPlane on one machine: a supervisor, a repository
# and a probe. A script simulates Tstat: it writes logs and RRDs within seconds.
# Called by demo.sh; needs bin/tstatrepo, bin/tstatgen, bin/tstatduck and rrdtool.
# All files are in the folder $1.
set -eu
cd "$(dirname "$0")/../../../.."
mkdir -p "$1"
out=$(cd "$1" && pwd)
repo=bin/tstatrepo
gen=bin/tstatgen
page=http://127.0.0.1:19099/
clients=http://127.0.0.1:18890/

heading() { printf '\n== %s\n\n' "$*"; }

# show prints a command as a user would type it, and runs it.
show() {
	printf '$ %s\n' "$*"
	"$@" 2>&1
}

# until_true COMMAND... waits at most 60 s for a command to succeed.
until_true() {
	for _ in $(seq 300); do
		! "$@" >/dev/null 2>&1 || return 0
		sleep 0.2
	done
	echo "demo: waited a minute for: $*" >&2
	tail -n 5 "$out"/*.log >&2
	exit 1
}

pids=
stop() {
	# shellcheck disable=SC2086 # a list
	[ -z "$pids" ] || kill $pids 2>/dev/null || true
	wait
	pids=
}
trap stop EXIT
trap 'exit 130' HUP INT TERM

# background NAME COMMAND... runs a command in the background, with output in
# NAME.log.
background() {
	name=$1
	shift
	printf '$ %s &\n' "$*"
	"$@" >"$out/$name.log" 2>&1 &
	pids="$pids $!"
}

runcap() { "$repo" runcap --supervisor "$clients" --state-dir "$out/client" "$@"; }

# show_runcap prints a runcap command as an operator on this machine would type it,
# and runs it.
show_runcap() {
	printf '$ tstatrepo runcap'
	for a in "$@"; do
		case $a in *' '*) printf " '%s'" "$a" ;; *) printf ' %s' "$a" ;; esac
	done
	printf '\n'
	runcap "$@" 2>&1
}

# tstat simulates Tstat: it writes one log folder after another, some lines at a
# time, and updates RRDs meanwhile. The last folder remains open.
tstat() {
	n=0
	for folder in "$out"/source/*.out; do
		mkdir "$out/probe-logs/$(basename "$folder")"
		for part in 1 2 3 4 5; do
			for log in "$folder"/*; do
				lines=$(wc -l <"$log")
				each=$((lines / 5 + 1))
				tail -n +$(((part - 1) * each + 1)) "$log" | head -n "$each" >>"$out/probe-logs/$(basename "$folder")/$(basename "$log")"
			done
			n=$((n + 1))
			for i in 0 1 3 4; do
				value=$(awk -v n=$n -v i=$i 'BEGIN { srand(n + 7 * i); printf "%d", (20 + 10 * sin(n / 4 + i) + 4 * rand()) * 1000 / (i + 1) }')
				rrdtool update "$out/probe-rrds/L3_bitrate_in.idx$i.rrd" "N:$value"
			done
			sleep 1
		done
	done
}

heading "The loop of mPlane: supervisor, repository and probe on one machine"
mkdir -p "$out/source" "$out/probe-logs" "$out/probe-rrds"
"$gen" -out "$out/source" -rows 6000 -dirs 6 -interval 1m -format v33 -start "$(date -u -d '-6 minutes' +%Y-%m-%dT%H:%M:00Z)" >/dev/null
now=$(date +%s)
for i in 0 1 3 4; do
	rrdtool create "$out/probe-rrds/L3_bitrate_in.idx$i.rrd" --start $((now - 2)) --step 1 \
		DS:L3_bitrate_in:GAUGE:10:U:U RRA:AVERAGE:0.5:1:600 RRA:AVERAGE:0.5:60:600
done

cat >"$out/repository.toml" <<E2
state-dir = "$out/repository"

[serve]
supervisor = "http://127.0.0.1:18889/"
identity = "org.mplane.demo.repository"
admin = ":19099"

[collect-log]
listen = [":13000"]
to = ["parquet:$out/logs"]
timezone = "UTC"
poll = "1s"

[collect-streaming]
listen = [":19001"]
to = ["file:$out/live"]

[collect-rrd]
listen = [":19000"]
to = "whisper:$out/whisper"

[[remote-probe]]
name = "demo"
addresses = ["127.0.0.1"]
E2
cat >"$out/probe.toml" <<E2
state-dir = "$out/probe"

[serve]
supervisor = "http://127.0.0.1:18889/"
identity = "org.mplane.demo.probe"
admin = ":19098"

[collect-log]
listen = []
[collect-streaming]
listen = []
[collect-rrd]
listen = []

[probe]
name = "demo"
log-folder = "$out/probe-logs"
rrd-folder = "$out/probe-rrds"
listen = [":13001"]
timezone = "UTC"
every = "1s"
E2
background supervisor "$repo" supervisor --components :18889 --clients :18890 --state-dir "$out/supervisor"
background repository "$repo" serve --config "$out/repository.toml"
background probe "$repo" serve --config "$out/probe.toml"
has() { runcap --list 2>/dev/null | grep -q "$1"; }
until_true has repository-collect_log
until_true has tstat-exporter_log
tstat >"$out/tstat.log" 2>&1 &
pids="$pids $!"
writer=$!
echo
show_runcap --list

heading "Three exports, as on mPlane's page"
show_runcap tstat-exporter_log --when 'now + inf' --set repository.url=localhost:13000
show_runcap tstat-exporter_streaming --when 'now + 1d' --set "log.folder=$out/probe-logs" --set log.time=60 --set log.type=log_tcp_complete --set repository.url=localhost:19001
show_runcap tstat-exporter_rrd --when 'now + 1h' --set repository.url=localhost:19000
echo
echo "Tstat (a script, some seconds for what takes hours) writes logs and RRDs. See $page"

# written prints the number of data lines of a log type in the finished folders:
# all but the newest.
written() { find "$out/probe-logs" -name "$1" | sort | sed '$d' | xargs -r cat | grep -vc '^#'; }
stored() { bin/tstatduck query "SELECT count(*) AS n FROM read_parquet('$out/logs/type=$1/**/*.parquet')" | tr -dc '0-9\n' | grep . | tail -n 1; }
live() { find "$out/live" -type f -exec cat {} + | grep -v '#' | grep -c .; }
flows() { cat "$out"/probe-logs/*/log_tcp_complete | grep -vc '^#'; }
all_stored() { [ "$(stored log_tcp_complete)" = "$(written log_tcp_complete)" ]; }
all_live() { [ "$(live)" = "$(flows)" ]; }
wait "$writer"
until_true all_stored
until_true all_live

heading "What arrived"
echo "finished logs   $(written log_tcp_complete) flows written, $(stored log_tcp_complete) in Parquet (each once; the newest folder is still open)"
echo "live lines      $(flows) flows written, $(live) received"
echo "RRDs            $(find "$out/whisper" -name '*.wsp' | wc -l) metrics in Whisper files:"
find "$out/whisper" -name '*.wsp' | sed "s,$out/whisper/,                ," | sort
echo
show_runcap --status

if [ -t 0 ] && [ -t 1 ]; then
	heading "The page of the repository: $page"
	printf 'Look at it in a browser. Enter ends the demo: '
	read -r _
fi

heading "Stopped, with a true result"
for label in tstat-exporter_log-0 tstat-exporter_streaming-0 tstat-exporter_rrd-0; do
	show_runcap --stop --token "$label" | sed -n 1,4p
done
finished() { runcap --result --token tstat-exporter_rrd-0 | grep -q '^result'; }
until_true finished
echo
show_runcap --result --token tstat-exporter_rrd-0
stop
trap - EXIT
