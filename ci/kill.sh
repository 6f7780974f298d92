#!/usr/bin/env bash
# `make kill`: SIGKILL at random moments under load, ROUNDS times, and a look at everything that was acknowledged.
set -euo pipefail
cd "$(dirname "$0")/.."
KAFSCALE_KILL_ROUNDS="${ROUNDS:-200}" exec cargo test --release --locked -p kafscale-broker --test e2e -- \
  --exact --nocapture kill::what_was_acknowledged_survives_kills
