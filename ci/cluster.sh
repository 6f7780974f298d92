#!/usr/bin/env bash
# `make cluster`: three brokers that share an etcd and an S3 server on this machine, to play with. Ctrl-C ends all.
#
# BROKERS, ETCD_MEMBERS and FLAGS (for the brokers) change it. Everything is below a directory that goes away at the end; the
# brokers' logs and process ids are there as broker-N.log and broker-N.pid.
set -euo pipefail
cd "$(dirname "$0")/.."
ci/install.sh test
cargo build --release --locked -p kafscale-broker -p kafscale-test-s3
bin=${CARGO_TARGET_DIR:-target}/release
dir=${CLUSTER_DIR:-$(mktemp -d)}
mkdir -p "$dir"
pids=()

end() {
  trap - EXIT INT TERM
  kill "${pids[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  if [ -z "${CLUSTER_DIR:-}" ]; then rm -rf "$dir"; fi
}
trap end EXIT INT TERM

s3=127.0.0.1:${S3_PORT:-9000}
"$bin/kafscale-test-s3" --addr "$s3" --root "$dir/s3" --bucket records --access-key test --secret-key secret >"$dir/s3.log" 2>&1 &
pids+=($!)
peers=()
endpoints=()
members=${ETCD_MEMBERS:-1}
for member in $(seq 1 "$members"); do
  peers+=("m$member=http://127.0.0.1:$((2380 + member * 10))")
  endpoints+=("http://127.0.0.1:$((2379 + member * 10))")
done
for member in $(seq 1 "$members"); do
  etcd --name "m$member" --data-dir "$dir/etcd-$member" --log-level error \
    --listen-client-urls "${endpoints[member - 1]}" --advertise-client-urls "${endpoints[member - 1]}" \
    --listen-peer-urls "http://127.0.0.1:$((2380 + member * 10))" \
    --initial-advertise-peer-urls "http://127.0.0.1:$((2380 + member * 10))" \
    --initial-cluster "$(IFS=,; echo "${peers[*]}")" \
    --auto-compaction-mode periodic --auto-compaction-retention 10m >"$dir/etcd-$member.log" 2>&1 &
  pids+=($!)
done

start() {
  # shellcheck disable=SC2086 # FLAGS are several words.
  "$bin/kafscale-broker" --broker-id "$1" --broker-addr "127.0.0.1:$((8992 + $1 * 100))" --metrics-addr "127.0.0.1:$((8993 + $1 * 100))" \
    --s3-bucket records --s3-endpoint "http://$s3" --s3-access-key test --s3-secret-key secret \
    --etcd-endpoints "$(IFS=,; echo "${endpoints[*]}")" ${FLAGS:-} >>"$dir/broker-$1.log" 2>&1 &
  pids+=($!)
  echo $! >"$dir/broker-$1.pid"
}

brokers=${BROKERS:-3}
for _ in $(seq 1 100); do
  if grep -q "listening on" "$dir/s3.log" && curl -fs "${endpoints[0]}/health" >/dev/null 2>&1; then break; fi
  sleep 0.1
done
for broker in $(seq 1 "$brokers"); do start "$broker"; done
for broker in $(seq 1 "$brokers"); do
  for _ in $(seq 1 150); do
    if grep -q "broker listening on" "$dir/broker-$broker.log"; then break; fi
    sleep 0.2
  done
  grep "broker listening on" "$dir/broker-$broker.log" || { cat "$dir/broker-$broker.log" >&2; exit 1; }
done
echo "cluster is up: logs and process ids are in $dir"
wait
