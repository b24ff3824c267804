#!/usr/bin/env bash
# Fetches the newest kernel of a Debian suite.
#
#   tests/kernels/fetch.sh SUITE DIRECTORY      leaves DIRECTORY/vmlinuz, DIRECTORY/modules/*.ko and DIRECTORY/version
set -euo pipefail
directory=$2
[ -e "$directory/version" ] && exit
. "$(dirname "$0")/../suite.sh" "$1"

# The package without a version names the newest; newer suites have the kernel and its modules in packages of their own.
needs() { apt-cache depends "$1" | sed -nE 's/^ +Depends: (linux-(image|binary|modules)-[0-9].*)/\1/p'; }
image=$(needs linux-image-cloud-amd64)
mapfile -t parts < <(needs "$image")
unpack "$image" "${parts[@]}"

mkdir -p "$directory/modules"
cp "$(find "$work/root" -name 'vmlinuz*' -type f)" "$directory/vmlinuz"
for module in unix_diag inet_diag tcp_diag; do
  found=$(find "$work/root" -name "$module.ko*")
  case $found in
    *.xz) xz -dc "$found" ;;
    *) cat "$found" ;;
  esac >"$directory/modules/$module.ko"
done
echo "${image#linux-image-}" >"$directory/version"
