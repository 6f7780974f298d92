#!/usr/bin/env bash
# `make test`: format, lints, licences, every test, and a summary of what ran and of where the time went.
#
# Generated documentation is checked by tests named `..._docs_are_current`; `make docs` writes it again.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/times.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

step "install" ci/install.sh test
# Builds cargo-deny where it is missing: beside the other steps, since nothing waits for it until the end.
nice ci/deny.sh >"$work/deny" 2>&1 &
deny=$!
step "format" cargo fmt --all --check
features=(--workspace --features kafscale-broker/planted-bugs --locked)
step "lints" cargo clippy "${features[@]}" --all-targets --quiet -- -D warnings
build_tests() { cargo test "${features[@]}" --no-run --message-format=json-render-diagnostics >"$work/messages"; }
step "build of the tests" build_tests
status=0
export CHAOS_SECONDS=${CHAOS_SECONDS:-180}
step "tests" ci/run_tests.py "$work/messages" "${features[@]}" > >(tee "$work/tests") 2>&1 || status=$?
step "licences and sources" wait "$deny" || { status=$?; echo "licences and sources: FAILED"; }
cat "$work/deny"
print_times
# The runner's summary is the last line.
tail -n 1 "$work/tests"
exit "$status"
