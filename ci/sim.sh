#!/usr/bin/env bash
# `make sim`: runs SEEDS seeds of the simulation. A failing seed is printed; SEED=n runs that one alone.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -e broker/tests/sim.rs ] && [ ! -e broker/tests/sim/main.rs ]; then
  echo "There is no simulation in this tree yet (broker/tests/sim)." >&2
  exit 1
fi
exec cargo test --release --locked -p kafscale-broker --test sim -- --nocapture
