#!/usr/bin/env bash
# `make judge-clients`: clients that found faults here, unmodified, against a real broker. sarama 1.43.3 writes 300 MB with
# its defaults, and all of it is there after retention has run; the offsets of 3,000 partitions by time take one request no
# more than twice as long as 30 connections. BROKER_BINARY is the broker; a release build if it is not set.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v go >/dev/null || ci/compat/install.sh go
if [ -z "${BROKER_BINARY:-}" ]; then cargo build --release --locked -p kafscale-broker; fi
clients=$PWD/.cache/judge_clients
mkdir -p "$clients"
(cd ci/judge_clients/go && go vet ./... && go build -o "$clients/" ./sarama ./offsets)
. ci/broker.sh
start_broker --shards 2
"$clients/sarama" "$bootstrap" 10
"$clients/offsets" "$bootstrap"
