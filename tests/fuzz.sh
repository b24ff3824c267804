#!/usr/bin/env bash
# Runs every fuzz target with libFuzzer, one after the other, and prints how many inputs each was given.
#
#   tests/fuzz.sh SECONDS [TARGET...]     SECONDS for each target
#
# What libFuzzer learns is kept in target/fuzz/corpus; an input that makes a target fail goes to target/fuzz/artifacts and ends the run. Move
# it to fuzz/corpus/TARGET: tests/fuzz.rs runs what is kept there.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1
shift
PATH=$PWD/target/tools/bin:$PATH
command -v cargo-fuzz >/dev/null || {
  echo "cargo-fuzz is missing: tests/install.sh fuzz" >&2
  exit 1
}
targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(sed -n 's/^name = "\(.*\)"$/\1/p' fuzz/Cargo.toml | tail -n +2)
# Some targets read their input from a file.
[ -w /dev/shm ] && export TMPDIR=/dev/shm

table=target/fuzz/executions.txt
mkdir -p target/fuzz
: >"$table"
# Without a sanitizer the stable toolchain will do: there is no unsafe code, and the fuzzer searches for panics.
cargo fuzz build --fuzz-dir fuzz --target-dir target/fuzz/build --sanitizer none
for target in "${targets[@]}"; do
  mkdir -p "target/fuzz/corpus/$target" "target/fuzz/artifacts/$target"
  log=target/fuzz/$target.log
  if ! cargo fuzz run --fuzz-dir fuzz --target-dir target/fuzz/build --sanitizer none "$target" \
    "target/fuzz/corpus/$target" "fuzz/corpus/$target" -- \
    "-max_total_time=$seconds" -timeout=10 -print_final_stats=1 "-artifact_prefix=target/fuzz/artifacts/$target/" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    exit 1
  fi
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  printf '%-16s %12d\n' "$target" "$executions" | tee -a "$table"
done
awk '{ sum += $2 } END { printf "%-16s %12d\n", "all", sum }' "$table" | tee -a "$table"
