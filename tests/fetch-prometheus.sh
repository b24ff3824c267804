#!/usr/bin/env bash
# Fetches the Prometheus of another Debian suite, where promtool is a package of its own.
#
#   tests/fetch-prometheus.sh SUITE DIRECTORY      leaves DIRECTORY/prometheus and DIRECTORY/promtool
set -euo pipefail
directory=$2
[ -e "$directory/promtool" ] && exit
. "$(dirname "$0")/suite.sh" "$1"
unpack "prometheus/$1" "promtool/$1"
mkdir -p "$directory"
cp "$work/root/usr/bin/prometheus" "$directory/prometheus"
cp "$work/root/usr/bin/promtool" "$directory/promtool.part"
mv "$directory/promtool.part" "$directory/promtool"
