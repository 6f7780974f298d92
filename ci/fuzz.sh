#!/usr/bin/env bash
# `make fuzz`: gives every fuzz target FUZZ_SECONDS. Needs a nightly toolchain and cargo-fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}
if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "cargo-fuzz is missing. Install it: cargo install --locked cargo-fuzz; rustup toolchain install nightly" >&2
  exit 1
fi
ran=0
for directory in */fuzz; do
  [ -f "$directory/Cargo.toml" ] || continue
  for target in $(cd "$directory/.." && cargo +nightly fuzz list); do
    echo "== $directory $target"
    (cd "$directory/.." && cargo +nightly fuzz run "$target" -- -max_total_time="$seconds")
    ran=$((ran + 1))
  done
done
[ "$ran" -gt 0 ] || { echo "There is no fuzz target in this tree yet." >&2; exit 1; }
