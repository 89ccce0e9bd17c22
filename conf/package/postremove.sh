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
		rm -rf "$dir/locks" "$dir/rejects" "$dir/copies" "$dir/passed" "$dir/math" "$dir/importer" "$dir/rrd-push" "$dir/stream" \
			"$dir/math.json" "$dir"/math-*.json "$dir"/*.state
		rmdir "$dir" 2>/dev/null || echo "tstatrepo: $dir keeps what was collected; remove it by hand if you do not need it"
	done
	if [ -L /var/lib/tstatrepo ] && [ ! -e /var/lib/tstatrepo ]; then
		rm -f /var/lib/tstatrepo
	fi
	rmdir /etc/tstatrepo 2>/dev/null || true
fi
