#!/usr/bin/env bash
# `make chaos`: a cluster of real processes in which everything breaks, for CHAOS_SECONDS. CHAOS_SEED repeats a run's choices.
#
# CHAOS_DAMAGES objects (5) are removed, cut or changed. CHAOS_OLD_COMMIT is the release before this one: brokers go back to it and
# forward again. Empty values leave these faults out.
set -euo pipefail
cd "$(dirname "$0")/.."
ci/install.sh test
export CHAOS_DAMAGES=${CHAOS_DAMAGES-5}
commit=${CHAOS_OLD_COMMIT-64b1cb0}
if [ -z "${CHAOS_OLD_BROKER-}" ] && [ -n "$commit" ]; then
    CHAOS_OLD_BROKER=$(ci/old_broker.sh "$commit")
fi
[ -z "${CHAOS_OLD_BROKER-}" ] || export CHAOS_OLD_BROKER
exec cargo test --release --locked -p kafscale-broker --test chaos -- --nocapture
