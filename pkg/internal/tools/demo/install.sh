#!/bin/sh
# Installs missing packages for building and testing: on Debian with apt-get, as
# root or with sudo. On other systems it lists the missing packages. It prints
# nothing if none is missing.
set -eu
PATH=$PATH:/usr/local/go/bin # where Go's tarball is installed

# Used only if Go is missing: Go 1.21 and later download the version in go.mod.
go_version=1.26.8

say() { echo "install: $*" >&2; }

fail() {
	say "$*"
	exit 1
}

# as_root runs a command as root.
as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif [ -t 0 ]; then
		sudo "$@"
	else
		sudo -n "$@"
	fi
}

have() { command -v "$1" >/dev/null 2>&1; }

# go_is_new succeeds if Go is installed and can download a newer toolchain.
go_is_new() {
	have go || return 1
	v=$(cd / && GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) || return 1
	minor=${v#go1.}
	minor=${minor%%[!0-9]*}
	[ "${minor:-0}" -ge 21 ]
}

# Most packages are only for the tests and the demo: DuckDB is C++, and the tests
# compare the reader of RRDs with librrd.
packages=
for tool in git make gcc g++; do
	have "$tool" || packages="$packages $tool"
done
[ -e /etc/ssl/certs/ca-certificates.crt ] || [ ! -e /etc/debian_version ] || packages="$packages ca-certificates"
have pkg-config && pkg-config --exists librrd || packages="$packages pkg-config librrd-dev"
have rrdtool || packages="$packages rrdtool"
# Tests of databases, brokers, Graphite, Prometheus, shells and the page of serve are
# skipped without the server, shell or browser, but not on CI.
if [ "${CI:-}" = true ]; then
	for tool in codespell curl groff mandoc openssl; do
		have "$tool" || packages="$packages $tool"
	done
	have systemd-analyze || packages="$packages systemd"
	have zsh || packages="$packages zsh"
	have fish || packages="$packages fish"
	have nats-server || packages="$packages nats-server"
	have kcat || packages="$packages kcat"
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || have initdb || packages="$packages postgresql"
	have clickhouse-server || packages="$packages clickhouse-server"
	have java || packages="$packages default-jre-headless"
	[ -e /usr/share/java/zookeeper.jar ] || packages="$packages libzookeeper-java"
	have carbon-cache || packages="$packages graphite-carbon"
	have prometheus || packages="$packages prometheus"
	have victoria-metrics || packages="$packages victoria-metrics"
	have graphite-manage || packages="$packages graphite-web"
	have chromium || packages="$packages chromium"
	/usr/bin/python3 -c 'import whisper' 2>/dev/null || packages="$packages python3-whisper"
fi
go_is_new || have curl || packages="$packages curl"

if [ -n "$packages" ]; then
	have apt-get || fail "please install:$packages (and Go 1.21 or newer, https://go.dev/dl)"
	[ "$(id -u)" = 0 ] || have sudo || fail "please install as root: apt-get install$packages"
	say "apt-get install$packages"
	log=$(mktemp)
	# Tests start their own servers. In runlevel 1, packages do not start servers.
	# shellcheck disable=SC2086 # a list
	if ! { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update &&
		as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -q -y --no-install-recommends install $packages; } >"$log" 2>&1; then
		cat "$log" >&2
		rm -f "$log"
		fail "apt-get failed"
	fi
	rm -f "$log"
	# The tests start their own servers.
	for service in clickhouse-server prometheus; do
		case $packages in
		*"$service"*) [ ! -d /run/systemd/system ] || as_root systemctl disable --now "$service" >/dev/null 2>&1 || true ;;
		esac
	done
fi

if ! go_is_new; then
	# Debian 12 has Go 1.19, which cannot download a newer toolchain. Use Go's
	# tarball instead.
	case $(uname -sm) in
	"Linux x86_64") arch=linux-amd64 ;;
	"Linux aarch64") arch=linux-arm64 ;;
	*) fail "please install Go 1.21 or newer: https://go.dev/dl" ;;
	esac
	[ ! -e /usr/local/go ] || fail "/usr/local/go is older than Go 1.21: please replace it, see https://go.dev/dl"
	say "Go $go_version into /usr/local/go"
	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	tarball=go$go_version.$arch.tar.gz
	url=https://dl.google.com/go/$tarball
	if ! { curl -fsSL -o "$tmp/$tarball" "$url" && curl -fsSL -o "$tmp/sum" "$url.sha256"; }; then
		fail "cannot download Go; please install it: https://go.dev/dl"
	fi
	echo "$(cat "$tmp/sum")  $tmp/$tarball" | sha256sum -c --quiet - || fail "the download of Go is damaged"
	as_root tar -C /usr/local -xzf "$tmp/$tarball"
fi
