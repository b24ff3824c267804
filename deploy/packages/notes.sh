#!/usr/bin/env bash
# Prints the section of CHANGELOG.md about a release.
#
#   deploy/packages/notes.sh VERSION
set -euo pipefail
cd "$(dirname "$0")/../.."

notes=$(awk -v heading="## [$1]" '/^## / { inside = index($0, heading) == 1; next } inside' CHANGELOG.md)
[ -n "$notes" ] || {
  echo "CHANGELOG.md has nothing under '## [$1]'" >&2
  exit 1
}
printf '%s\n' "$notes"
