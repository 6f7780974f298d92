#!/usr/bin/env bash
# Checks licences, sources and bans of all dependencies by deny.toml.
#
# Building cargo-deny takes some minutes, so only `ci/deny.sh install` (`make deny`) does it; otherwise the check is
# skipped, aloud, where the tool is missing. Advisories need a database from the network: run `cargo deny check advisories`
# where that can be had.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v cargo-deny >/dev/null; then
  if [ "${1:-}" != install ]; then
    echo "SKIPPED: cargo-deny is not installed; 'make deny' installs it and runs this check."
    exit 0
  fi
  cargo install --locked cargo-deny
fi
cargo deny --offline check bans licenses sources
