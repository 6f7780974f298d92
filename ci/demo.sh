#!/usr/bin/env bash
# `make demo`: a broker of its own, a thousand records in, the last ones out, and what the metrics say of it.
set -euo pipefail
cd "$(dirname "$0")/.."
ci/install.sh compat
cargo build --release --locked -p kafscale-broker
. ci/broker.sh
start_broker
echo "A broker listens on $bootstrap; its records are in $broker_dir/data."
seq 1 1000 | sed 's/^/record number /' | kcat -b "$bootstrap" -P -t demo
echo "A thousand records are durable. The last three, read back:"
kcat -b "$bootstrap" -C -t demo -o -3 -e -q
echo "Killing the broker with kill -9, starting it again, and counting what survived:"
kill_broker
start_broker
kcat -b "$bootstrap" -C -t demo -o beginning -e -q | wc -l
curl -fsS "http://127.0.0.1:$((broker_port + 1))/metrics" | grep -E '^kafscale_(build_info|object_store_requests_total)' || true
