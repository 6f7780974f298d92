#!/usr/bin/env bash
# `make compat`: real Kafka clients against a real broker. `ci/compat.sh NAME...` runs only those, see ci/compat/run.py.
# BROKER_BINARY is the broker that serves; a release build if it is not set.
set -euo pipefail
cd "$(dirname "$0")/.."
ci/install.sh compat
if [ -z "${BROKER_BINARY:-}" ]; then cargo build --release --locked -p kafscale-broker; fi
exec ci/compat/run.py "$@"
