#!/usr/bin/env bash
# Checks licences, sources and bans of all dependencies by deny.toml.
#
# Where cargo-deny is missing it is built once (some minutes). `make test` goes on without it, aloud, if that fails;
# `ci/deny.sh install` (`make deny`) does not. Advisories need a database from the network: run
# `cargo deny check advisories` where that can be had.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v cargo-deny >/dev/null && ! cargo install --quiet --locked --version 0.20.2 cargo-deny; then
  echo "SKIPPED: cargo-deny could not be installed, licences and sources are not checked." >&2
  [ "${1:-}" != install ]
  exit
fi
cargo deny --offline --log-level warn check bans licenses sources
