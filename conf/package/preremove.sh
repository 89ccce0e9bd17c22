#!/bin/sh
# Stops what runs, unless the package is upgraded: dpkg says "upgrade", rpm 1.
set -e
case "$1" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl --no-reload disable --now tstatrepo.service \
			tstatrepo-import-bulk.timer tstatrepo-rrd-push.timer >/dev/null 2>&1 || true
		systemctl stop tstatrepo-import-bulk.service tstatrepo-rrd-push.service >/dev/null 2>&1 || true
	fi
	;;
esac
