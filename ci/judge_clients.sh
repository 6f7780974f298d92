#!/usr/bin/env bash
# `make judge-clients`: clients that found faults here, unmodified, against a real broker. sarama 1.43.3 writes 300 MB with
# its defaults, and all of it is there after retention has run; the offsets of 3,000 partitions by time take one request no
# more than twice as long as 30 connections. BROKER_BINARY is the broker; a release build if it is not set.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v go >/dev/null || ci/compat/install.sh go
broker=${BROKER_BINARY:-}
if [ -z "$broker" ]; then
  cargo build --release --locked -p kafscale-broker
  broker=${CARGO_TARGET_DIR:-target}/release/kafscale-broker
fi
clients=$PWD/.cache/judge_clients
mkdir -p "$clients"
(cd ci/judge_clients/go && go vet ./... && go build -o "$clients/" ./sarama ./offsets)
directory=$(mktemp -d)
process=
finish() {
  if [ -n "$process" ]; then kill -TERM "$process" 2>/dev/null || true; wait "$process" 2>/dev/null || true; fi
  rm -rf "$directory"
}
trap finish EXIT
trap 'exit 1' TERM INT
"$broker" --broker-addr 127.0.0.1:0 --metrics-addr 127.0.0.1:0 --shards 2 --data-dir "$directory/data" 2>"$directory/log" &
process=$!
for _ in $(seq 300); do
  address=$(sed -n 's/.*broker listening on //p' "$directory/log" | head -n 1)
  if [ -n "$address" ]; then break; fi
  kill -0 "$process" 2>/dev/null || { cat "$directory/log" >&2; exit 1; }
  sleep 0.2
done
[ -n "$address" ] || { echo "the broker did not start within a minute" >&2; exit 1; }
"$clients/sarama" "$address" 10
"$clients/offsets" "$address"
