#!/usr/bin/env bash
# `make test`: format, lints, licences, every test, and a summary of what ran.
#
# Generated documentation is checked by tests named `..._docs_are_current`; `make docs` writes it again.
set -euo pipefail
cd "$(dirname "$0")/.."
ci/install.sh test
log=$(mktemp)
trap 'rm -f "$log"' EXIT

echo "== format"
cargo fmt --all --check
echo "== lints"
cargo clippy --workspace --all-targets --features kafscale-broker/planted-bugs --locked --quiet -- -D warnings
echo "== licences and sources"
ci/deny.sh
echo "== tests"
status=0
export CHAOS_SECONDS=${CHAOS_SECONDS:-180}
cargo test --workspace --features kafscale-broker/planted-bugs --locked --no-fail-fast 2>&1 | tee "$log" || status=$?
passed=$(awk '/^test result:/ { n += $4 } END { print n + 0 }' "$log")
failed=$(awk '/^test result:/ { n += $6 } END { print n + 0 }' "$log")
echo
echo "tests: $passed passed, $failed failed"
exit "$status"
