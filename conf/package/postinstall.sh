#!/bin/sh
# Nothing is enabled or started: the operator configures first.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
