#!/usr/bin/env bash
# `make sim`: runs SEEDS seeds of the simulation. A failing seed is printed; SEED=n runs that one alone.
set -euo pipefail
cd "$(dirname "$0")/.."
# The planted bugs are part of it: a simulator that finds nothing in them proves nothing.
exec cargo test --release --locked -p kafscale-broker --features planted-bugs --test sim -- --nocapture
