#!/usr/bin/env bash
# `make bench`: a broker of its own under three loads. BENCH_ARGS replace the loads by one of your own; with --bootstrap in
# them they go to your broker, whatever it is.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --locked -p kafscale-broker -p kafscale-bench
bench=${CARGO_TARGET_DIR:-target}/release/kafscale-bench
case " ${BENCH_ARGS:-} " in
  *" --bootstrap"*)
    # shellcheck disable=SC2086 # They are several words.
    exec "$bench" $BENCH_ARGS
    ;;
esac
. ci/broker.sh
start_broker
run() {
  echo "== $*"
  # Let the broker roll and merge what the load before has left.
  sleep 2
  local command=()
  case $1 in
    groups | sweep | catch-up | sizes)
      command=("$1")
      shift
      ;;
  esac
  # Groups produce nothing that is put.
  local metrics=(--metrics "127.0.0.1:$((broker_port + 1))")
  if [ "${command[*]}" = groups ]; then metrics=(); fi
  "$bench" "${command[@]}" --bootstrap "$bootstrap" --broker-pid "$broker_pid" "${metrics[@]}" --topic "bench-$RANDOM" "$@"
}
if [ -n "${BENCH_ARGS:-}" ]; then
  # shellcheck disable=SC2086
  run $BENCH_ARGS
else
  run --seconds "${BENCH_SECONDS:-15}"
  run --seconds "${BENCH_SECONDS:-15}" --rate 10000
  run --seconds "${BENCH_SECONDS:-15}" --producers 32 --batch-bytes 1024 --in-flight 1 --consumers 0
fi
stop_broker
