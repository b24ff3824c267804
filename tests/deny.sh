#!/usr/bin/env bash
# Licences, bans and sources of all dependencies, and known advisories where their database can be had.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/target/tools/bin:$PATH
command -v cargo-deny >/dev/null || {
  echo "cargo-deny is missing: tests/install.sh lint" >&2
  exit 1
}
for manifest in Cargo.toml fuzz/Cargo.toml; do
  cargo deny --locked --manifest-path "$manifest" check --config "$PWD/deny.toml" --hide-inclusion-graph bans licenses sources
done
if cargo deny fetch db >/dev/null 2>&1; then
  cargo deny --locked check --hide-inclusion-graph advisories
else
  echo "advisories: the database cannot be had here, not checked"
fi
