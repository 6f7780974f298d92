#!/usr/bin/env bash
# kcat writes records and reads them back, in every compression it knows, and again after a kill and a clean restart.
set -euo pipefail
cd "$(dirname "$0")/../.."
. ci/broker.sh

# Reads a topic from its beginning to its end, as key:value lines.
read_all() {
  timeout 60 kcat -b "$bootstrap" -C -t "$1" -o beginning -e -q -K : -X broker.address.family=v4
}

start_broker
for codec in none gzip snappy lz4 zstd; do
  topic=round-trip-$codec
  seq 1 1000 | sed 's/.*/key-&:value-&/' >"$broker_dir/sent"
  timeout 60 kcat -b "$bootstrap" -P -t "$topic" -K : -z "$codec" -X enable.idempotence=true <"$broker_dir/sent" ||
    fail "kcat could not produce with $codec"
  read_all "$topic" >"$broker_dir/received" || fail "kcat could not consume with $codec"
  diff -q "$broker_dir/sent" "$broker_dir/received" >/dev/null || fail "$codec: what came back is not what was sent"
done

kill_broker
start_broker
read_all round-trip-lz4 >"$broker_dir/received" || fail "kcat could not consume after kill -9"
diff -q "$broker_dir/sent" "$broker_dir/received" >/dev/null || fail "records differ after kill -9"

stop_broker || fail "SIGTERM did not end the broker cleanly"
start_broker
read_all round-trip-lz4 >"$broker_dir/received" || fail "kcat could not consume after a restart"
diff -q "$broker_dir/sent" "$broker_dir/received" >/dev/null || fail "records differ after a restart"
