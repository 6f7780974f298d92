#!/usr/bin/env bash
# `make compat`: real Kafka clients against a real broker.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "No client is driven yet: the broker does not serve."
