#!/usr/bin/env bash
# `make judge`: the same requests to a real Apache Kafka and to this broker, and every answer compared. SEEDS is how many
# seeds of generated requests run, ROUNDS how many times forty conversations of groups are drawn; `ci/judge.sh short` takes
# at most three minutes. JUDGE_ONLY names parts: cases, groups, recorded, generated. The driver is the tests' build, and so
# is the broker unless BROKER_BINARY names another; JUDGE_BINARY is a driver that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
  short) seeds=25 rounds=1 ;;
  *) seeds=${SEEDS:-400} rounds=${ROUNDS:-2} ;;
esac
ci/install.sh compat
ci/compat/install.sh kafka
driver=${JUDGE_BINARY:-}
if [ -z "$driver" ]; then
  # The flags of `make test`, so that nothing is built twice.
  driver=$(cargo test --workspace --features kafscale-broker/planted-bugs --locked --test judge --no-run \
    --message-format=json-render-diagnostics | python3 -c '
import json, sys
built = [json.loads(line) for line in sys.stdin]
print(*(one["executable"] for one in built if one.get("executable") and one["target"]["name"] == "judge"))')
fi
directory=$(mktemp -d)
kafka=
finish() {
  if [ -n "$kafka" ]; then kill -TERM "$kafka" 2>/dev/null || true; wait "$kafka" 2>/dev/null || true; fi
  rm -rf "$directory"
}
trap finish EXIT
trap 'exit 1' TERM INT

# Topics are created by the cases. Groups assign at once, as here: by default Kafka does so once in a second, beside its
# answers.
cat >"$directory/properties" <<PROPERTIES
group.consumer.assignment.interval.ms=0
group.consumer.assignor.offload.enable=false
PROPERTIES
KAFKA_PROPERTIES="$directory/properties" KAFKA_HEAP=512m ci/compat/kafka.sh >"$directory/kafka" 2>"$directory/kafka-log" &
kafka=$!
for _ in $(seq 300); do
  address=$(sed -n 's/^broker listening on //p' "$directory/kafka")
  if [ -n "$address" ]; then break; fi
  kill -0 "$kafka" 2>/dev/null || { cat "$directory/kafka-log" >&2; exit 1; }
  sleep 0.2
done
[ -n "$address" ] || { echo "Kafka did not start within a minute" >&2; exit 1; }
if [ -n "${JUDGE_ONLY:-}" ]; then export KAFSCALE_JUDGE_ONLY=$JUDGE_ONLY; fi
if [ -n "${BROKER_BINARY:-}" ]; then export KAFSCALE_JUDGE_BROKER=$BROKER_BINARY; fi
cd broker # The recorded sessions are found from here.
KAFSCALE_JUDGE_KAFKA=$address KAFSCALE_JUDGE_SEEDS=$seeds KAFSCALE_JUDGE_ROUNDS=$rounds \
  "$driver" --ignored --exact --nocapture every_answer_is_kafkas
