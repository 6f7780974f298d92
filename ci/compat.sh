#!/usr/bin/env bash
# `make compat`: real Kafka clients against a real broker. `ci/compat.sh NAME...` runs only those, see ci/compat/run.py.
set -euo pipefail
cd "$(dirname "$0")/.."
ci/install.sh compat
cargo build --release --locked -p kafscale-broker
exec ci/compat/run.py "$@"
