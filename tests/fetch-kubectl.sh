#!/usr/bin/env bash
# Fetches the kubectl of another Debian suite: one binary that needs nothing.
#
#   tests/fetch-kubectl.sh SUITE DIRECTORY      leaves DIRECTORY/kubectl
set -euo pipefail
directory=$2
[ -e "$directory/kubectl" ] && exit
. "$(dirname "$0")/suite.sh" "$1"
# The suite is named: a machine may have a kubectl of other origin, with a higher version.
unpack "kubectl/$1"
mkdir -p "$directory"
cp "$work/root/usr/bin/kubectl" "$directory/kubectl.part"
mv "$directory/kubectl.part" "$directory/kubectl"
