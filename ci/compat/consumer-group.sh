#!/usr/bin/env bash
# kcat reads in a consumer group: what one member committed, the next one does not read again, restart or not.
set -euo pipefail
cd "$(dirname "$0")/../.."
. ci/broker.sh

# Reads COUNT records of the topic as a member of the group, then leaves.
read_in_group() {
  timeout 60 kcat -b "$bootstrap" -G readers -c "$1" -q -X auto.offset.reset=earliest events 2>>"$broker_dir/kcat"
}

produce() {
  timeout 60 kcat -b "$bootstrap" -P -t events || fail "kcat could not produce"
}

start_broker
seq 1 100 | produce
[ "$(read_in_group 100)" = "$(seq 1 100)" ] || fail "the first member did not read 1..100"
seq 101 200 | produce
[ "$(read_in_group 100)" = "$(seq 101 200)" ] || fail "the second member did not go on at 101"
stop_broker || fail "SIGTERM did not end the broker cleanly"
start_broker
seq 201 300 | produce
[ "$(read_in_group 100)" = "$(seq 201 300)" ] || fail "after a restart the group did not go on at 201"
