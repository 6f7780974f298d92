#!/usr/bin/env bash
# `make chaos`: a cluster of real processes in which everything breaks, for CHAOS_SECONDS. CHAOS_SEED repeats a run's choices.
set -euo pipefail
cd "$(dirname "$0")/.."
ci/install.sh test
exec cargo test --release --locked -p kafscale-broker --test chaos -- --nocapture
