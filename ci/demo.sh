#!/usr/bin/env bash
# `make demo`: some hundred thousand records of real data go in through kcat; the broker is killed with SIGKILL in the
# middle and started again; everything is read back and compared with what went in.
set -euo pipefail
cd "$(dirname "$0")/.."
ci/install.sh compat
cargo build --release --locked -p kafscale-broker
. ci/broker.sh
topic=packages
partitions=6
records_max=500000
sent=$broker_dir/sent
read_back=$broker_dir/read

# Debian's package index, as this machine knows it; elsewhere the names of all files under /usr. Key: the line's number.
if command -v apt-cache >/dev/null && [ "$(apt-cache dumpavail 2>/dev/null | head -n 200000 | wc -l)" -ge 200000 ]; then
  what="lines of Debian's package index"
  lines() { apt-cache dumpavail; }
else
  what="names of files under /usr"
  lines() { find /usr -xdev 2>/dev/null || true; }
fi
# Tabs separate key and value below; head ends the pipe early, which is no failure here.
{ lines | tr '\t' ' ' | grep -v '^$' | head -n "$records_max" | awk '{ print NR "\t" $0 }' >"$sent"; } || true
total=$(wc -l <"$sent")
echo "$total $what, $(du -h "$sent" | cut -f1)"

start_broker --auto-create-partitions "$partitions"
echo "A broker listens on $bootstrap. kcat sends, with idempotence, to $partitions partitions."
kcat -E -b "$bootstrap" -P -t "$topic" -K '	' -l -X enable.idempotence=true -X message.timeout.ms=120000 \
  -X linger.ms=20 -X batch.num.messages=500 -X queue.buffering.max.messages=5000 "$sent" 2>"$broker_dir/kcat" &
kcat_pid=$!

durable() {
  curl -fsS "http://127.0.0.1:$((broker_port + 1))/metrics" |
    awk '/^kafscale_partition_high_watermark\{/ { n += $2 } END { print n + 0 }'
}
for _ in $(seq 1 600); do
  now=$(durable)
  if [ "$now" -ge $((total / 4)) ] || ! kill -0 "$kcat_pid" 2>/dev/null; then break; fi
  sleep 0.02
done
kill -0 "$kcat_pid" 2>/dev/null || fail "kcat ended before the kill: $(cat "$broker_dir/kcat")"
echo "$now records are durable: SIGKILL, and a start on the same directory"
kill_broker
start_broker --auto-create-partitions "$partitions"
wait "$kcat_pid" || fail "kcat did not get everything acknowledged: $(cat "$broker_dir/kcat")"
echo "kcat is through: all $total are acknowledged. Reading everything back:"

kcat -b "$bootstrap" -C -t "$topic" -o beginning -e -q -f '%p\t%o\t%k\t%s\n' >"$read_back"
awk -F '\t' '$2 != next_offset[$1]++ { print "partition " $1 ": offset " $2 " is out of turn"; exit 1 }
  $3 + 0 <= last[$1] { print "partition " $1 ": record " $3 " after " last[$1]; exit 1 }
  { last[$1] = $3 + 0; count[$1]++ }
  END { for (p in count) printf "  partition %s: %d records, offsets without a gap, in the order in which they were sent\n", p, count[p] }' \
  "$read_back" | sort || fail "see above"
if ! cut -f 3- "$read_back" | sort -n | cmp - <(sort -n "$sent"); then
  fail "what came back is not what was acknowledged"
fi
echo "demo: $(wc -l <"$read_back") of $total records came back, each once and unchanged, through a SIGKILL after $now"
stop_broker
