#!/bin/sh
# Tries the packages of dist.sh as an operator would: `make dist-test`, as root.
# In a Debian root without Go the package is installed, used, upgraded from one
# of an older commit with state and store in place, removed and purged.
# Needs debootstrap, lintian, rpm and cpio.
# It runs the commands of README's section Install, with README's version.
#   BEFORE   the older commit, which is built as version 0.8.0
#   MIRROR   of Debian
set -eu
cd "$(dirname "$0")/../.."

BEFORE=${BEFORE:-4452157}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
work=$(mktemp -d)
trap 'rm -rf "$work"; git worktree prune' EXIT
root=$work/root

say() { printf '== %s\n' "$*"; }
fail() {
	printf 'dist-test: %s\n' "$*" >&2
	exit 1
}
# in_root runs a command in the Debian root.
in_root() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"; }
# same DIR DIR compares two folders of packages by their checksums.
same() { cmp "$1/SHA256SUMS" "$2/SHA256SUMS" || fail "two builds differ"; }

# install_commands WORD prints the commands of README's section Install that
# begin with a word.
install_commands() { sed -n '/^## Install/,/^## /s/^    \('"$1"' [^#]*[^# ]\) *\(#.*\)*$/\1/p' README.md; }
VERSION=$(sed -n 's/^.make dist VERSION=\([0-9.]*\). .*/\1/p' README.md)
[ -n "$VERSION" ] || fail "README does not say how to build packages"
export VERSION

say "build twice, in different folders"
git clone -q . "$work/here"
git clone -q . "$work/there/in-another-folder"
TARGETS=linux/amd64 sh "$work/here/conf/package/dist.sh" >/dev/null
(umask 077 && TZ=Asia/Tokyo TARGETS=linux/amd64 sh "$work/there/in-another-folder/conf/package/dist.sh" >/dev/null)
same "$work/here/dist" "$work/there/in-another-folder/dist"
deb=$(echo "$work"/here/dist/*_amd64.deb)
rpm=$(echo "$work"/here/dist/*.x86_64.rpm)

say "build version 0.8.0 from $BEFORE"
git clone -q . "$work/before"
git -C "$work/before" checkout -q "$BEFORE"
mkdir -p "$work/before/conf/prometheus"
cp Makefile "$work/before"
cp -R conf/package "$work/before/conf"
cp conf/prometheus/*.yml "$work/before/conf/prometheus"
VERSION=0.8.0 TARGETS=linux/amd64 sh "$work/before/conf/package/dist.sh" >/dev/null
old=$(echo "$work"/before/dist/*_amd64.deb)

say "lintian"
lintian --fail-on error,warning "$deb" 2>&1 | grep -v 'root privileges' && fail "lintian has objections"

say "rpm"
rpm -qpl "$rpm" | grep -qx /usr/bin/tstatrepo || fail "the RPM package has no program"
rpm -qp --configfiles "$rpm" | grep -qx /etc/tstatrepo/tstatrepo.toml || fail "the RPM package has no configuration file"
mkdir "$work/rpm"
(cd "$work/rpm" && rpm2cpio "$rpm" | cpio -idm --quiet --no-absolute-filenames 2>/dev/null)
"$work/rpm/usr/bin/tstatrepo" --version >/dev/null

say "Debian root"
debootstrap --variant=minbase --include=systemd,procps,man-db bookworm "$root" "$MIRROR" >"$work/debootstrap.log" 2>&1 || {
	tail -5 "$work/debootstrap.log" >&2
	fail "debootstrap failed"
}
in_root sh -c '! command -v go' || fail "the root has Go"
cp -R pkg/tstat/testdata/logs/v321 "$root/srv/logs"
cp "$old" "$root/old.deb"
cp "$deb" "$root/new.deb"

say "install 0.8.0 and import"
in_root dpkg -i /old.deb >/dev/null
in_root tstatrepo --version | grep -q '0\.8\.0' || fail "not version 0.8.0"
state=/var/lib/tstatrepo
# import FILE imports the logs and writes the summary to FILE.
import() {
	in_root tstatrepo import-bulk --json --state-dir $state --probe p1 --timezone UTC --settle 1s --to parquet:$state/logs /srv/logs \
		>"$1" 2>"$work/import.log" || fail "import: $(cat "$work/import.log")"
}
# total FILE COUNT prints a count of all types of a summary.
total() { sed -n '/^  "total": {/,/}/s/^ *"'"$2"'": \([0-9]*\),*$/\1/p' "$1"; }
import "$work/first.json"
files=$(total "$work/first.json" files)
[ "$files" -gt 5 ] || fail "$files files were imported"
echo "# edited" >>"$root/etc/tstatrepo/tstatrepo.toml"

say "upgrade"
in_root dpkg --force-confold -i /new.deb >/dev/null 2>&1
grep -q '^# edited' "$root/etc/tstatrepo/tstatrepo.toml" || fail "the edited configuration file is gone"
import "$work/second.json"
[ "$(total "$work/second.json" files) $(total "$work/second.json" skipped)" = "0 $files" ] ||
	fail "after the upgrade the logs are not taken for stored: $(cat "$work/second.json")"
in_root tstatrepo store verify parquet:$state/logs >/dev/null || fail "store verify after the upgrade"

say "units"
[ ! -e "$root/etc/systemd/system/multi-user.target.wants/tstatrepo.service" ] || fail "the installation enabled a service"
for unit in "$root"/lib/systemd/system/tstatrepo*; do
	in_root systemd-analyze verify --man=no "${unit#"$root"}" || fail "systemd-analyze verify ${unit##*/}"
done

say "remove"
in_root dpkg -r tstatrepo >/dev/null
[ ! -e "$root/usr/bin/tstatrepo" ] || fail "the program is still there"
[ -e "$root/etc/tstatrepo/tstatrepo.toml" ] || fail "removing took the configuration"
[ -d "$root$state/locks" ] || fail "removing took the state"

say "purge"
# What imports, streams, pushes and serve remember.
cp -R pkg/command/testdata/0.9.0/state/. "$root$state"
mkdir -p "$root$state/copies" "$root$state/math" "$root$state/passed" "$root$state/rejects" "$root$state/rrd-push" "$root$state/stream"
echo state >"$root$state/copies/state"
mkdir "$root$state/copies/p1" # a store that has the name of a folder of state
echo row >"$root$state/copies/p1/log_tcp_complete"
mkdir -p "$root$state/rrd-push/p1.spool"
echo points >"$root$state/rrd-push/p1.spool/1.batch"
mv "$root$state/math.json" "$root$state/math-3000.json"
mv "$root$state"/rrd-push.* "$root$state/rrd-push"
mv "$root$state"/default.* "$root$state/stream"
in_root dpkg -P tstatrepo >"$work/purge.log"
[ ! -e "$root/etc/tstatrepo" ] || fail "purging left the configuration"
left=$(cd "$root$state" && echo * */*/log_*)
[ "$left" = "copies logs copies/p1/log_tcp_complete" ] || fail "purging left something else than the stores: $left"
[ ! -e "$root$state/copies/state" ] || fail "purging left the state of copies"
[ -n "$(find "$root$state/logs" -name '*.parquet')" ] || fail "purging took the store"
grep -q 'keeps what was collected' "$work/purge.log" || fail "purging did not say that the store stays"
if find "$root" -xdev -name '*tstatrepo*' -not -path "$root$state*" -not -path "$root/srv/*" -not -path "$root/var/log/*" | grep .; then
	fail "purging left these"
fi

say "README's commands on a root without tstatrepo"
rm -rf "$root$state"
mkdir "$root/dist"
cp "$deb" "$root/dist"
command=$(install_commands apt-get)
[ -n "$command" ] || fail "README does not say how to install the Debian package"
in_root sh -c "cd /dist && yes | DEBIAN_FRONTEND=noninteractive $command" >"$work/apt.log" 2>&1 || fail "$command: $(cat "$work/apt.log")"
in_root tstatrepo version | grep -qx "tstatrepo $VERSION" || fail "not version $VERSION"
rpm=$(install_commands rpm)
[ -e "$work/here/dist/${rpm##* }" ] || fail "README installs ${rpm##* }, which is not built"
command=$(sed -n 's/^ *\(tstatrepo import-bulk [^#]*[^# ]\) *#.*/\1/p' README.md)
[ "$command" = "tstatrepo import-bulk /var/lib/tstat" ] || fail "README begins with another import: $command"
cp -R "$root/srv/logs" "$root/var/lib/tstat"
find "$root/var/lib/tstat" -exec touch -d '3 hours ago' {} + # Tstat has finished them
in_root sh -c "cd /root && $command" >"$work/import.log" 2>&1 || fail "$command: $(cat "$work/import.log")"
[ -n "$(find "$root/root/tstat" -name '*.parquet')" ] || fail "$command stored nothing: $(cat "$work/import.log")"

say "manual"
for page in man/*.?; do
	name=${page#man/}
	in_root man "${name##*.}" "${name%.*}" >"$work/page" 2>"$work/man.log" || fail "man $name: $(cat "$work/man.log")"
	if [ -s "$work/man.log" ] || [ "$(wc -l <"$work/page")" -lt 20 ]; then
		fail "man $name: $(wc -l <"$work/page") lines, $(cat "$work/man.log")"
	fi
done
say "all is well"
