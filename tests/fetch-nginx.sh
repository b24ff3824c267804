#!/usr/bin/env bash
# Fetches the nginx of another Debian suite with the libraries that it needs.
#
#   tests/fetch-nginx.sh SUITE DIRECTORY      leaves DIRECTORY/nginx, which runs it
set -euo pipefail
directory=$2
[ -e "$directory/nginx" ] && exit
. "$(dirname "$0")/suite.sh" "$1"
unpack nginx libc6 libcrypt1 libpcre2-8-0 libssl3t64 zlib1g libzstd1
mkdir -p "$directory"
rm -rf "$directory/root"
cp -r "$work/root" "$directory/root"
cat >"$directory/nginx" <<'END'
#!/bin/sh
root=$(dirname "$0")/root
set -- "$root/usr/sbin/nginx" "$@"
for libraries in "$root"/usr/lib/*-linux-gnu; do
  set -- --library-path "$libraries" "$@"
done
for loader in "$libraries"/ld-linux-*; do
  exec "$loader" "$@"
done
END
chmod +x "$directory/nginx"
