#!/usr/bin/env bash
# `make fuzz`: gives every fuzz target FUZZ_SECONDS, starting from the golden frames of real clients and from what earlier
# runs found interesting (fuzz/corpus, not kept in the repository). Installs a nightly toolchain and cargo-fuzz if they
# are missing.
set -euo pipefail
cd "$(dirname "$0")/.."

retry() {
  for pause in 2 10 30 0; do
    "$@" && return 0
    sleep "$pause"
  done
  echo "failed for good: $*" >&2
  return 1
}

seconds=${FUZZ_SECONDS:-60}
cargo +nightly --version >/dev/null 2>&1 || retry rustup toolchain install nightly --profile minimal
cargo fuzz --version >/dev/null 2>&1 || retry cargo install --locked cargo-fuzz
codec/fuzz/seeds.py
ran=0
for directory in */fuzz; do
  for target in $(cd "$directory/.." && cargo +nightly fuzz list); do
    echo "== $directory $target"
    (cd "$directory/.." && cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -max_len=4096 -rss_limit_mb=2048)
    ran=$((ran + 1))
  done
done
echo "fuzz: $ran targets, $seconds s each, no finding"
