#!/bin/sh
# Purging removes state and configuration, but never what was collected: the
# default stores logs, live and whisper are in the state folder too.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
if [ "$1" = purge ]; then
	for dir in /var/lib/private/tstatrepo /var/lib/tstatrepo; do
		if [ -L "$dir" ] || [ ! -d "$dir" ]; then
			continue
		fi
		# Only files: a store may be in a folder of such a name, as in copy:/var/lib/tstatrepo/copies.
		rm -rf "$dir"/rrd-push/*.spool
		for name in locks rejects copies passed math stream rrd-push; do
			[ ! -d "$dir/$name" ] || find "$dir/$name" -maxdepth 1 -type f -delete
			rmdir "$dir/$name" 2>/dev/null || true
		done
		find "$dir" -maxdepth 1 -type f \( -name importer -o -name math.json -o -name 'math-*.json' -o -name '*.state' \) -delete
		rmdir "$dir" 2>/dev/null || echo "tstatrepo: $dir keeps what was collected; remove it by hand if you do not need it"
	done
	if [ -L /var/lib/tstatrepo ] && [ ! -e /var/lib/tstatrepo ]; then
		rm -f /var/lib/tstatrepo
	fi
	rmdir /etc/tstatrepo 2>/dev/null || true
fi
