# shellcheck shell=bash
# Sourced by scripts that need a broker of their own: start_broker, stop_broker, kill_broker.
#
# It listens on an unusual port and keeps its data in a directory that goes away when the script ends.

broker_dir=$(mktemp -d)
: >"$broker_dir/log"
broker_pid=
broker_port=${BROKER_PORT:-$((20000 + RANDOM % 10000))}
bootstrap=127.0.0.1:$broker_port
broker_binary=${BROKER_BINARY:-${CARGO_TARGET_DIR:-target}/release/kafscale-broker}

end_broker_for_good() {
  if [ -n "$broker_pid" ]; then kill -9 "$broker_pid" 2>/dev/null || true; fi
  rm -rf "$broker_dir"
}
trap end_broker_for_good EXIT

# Starts the broker, with the extra flags given, and waits until it serves. Its log is in $broker_dir/log.
start_broker() {
  local log_lines
  log_lines=$(wc -l <"$broker_dir/log")
  "$broker_binary" --broker-addr "$bootstrap" --metrics-addr "127.0.0.1:$((broker_port + 1))" \
    --data-dir "$broker_dir/data" "$@" >>"$broker_dir/log" 2>&1 &
  broker_pid=$!
  local waited
  for waited in $(seq 1 150); do
    # Earlier runs have left their lines in the log.
    if tail -n "+$((log_lines + 1))" "$broker_dir/log" 2>/dev/null | grep -q "broker listening on"; then return 0; fi
    kill -0 "$broker_pid" 2>/dev/null || break
    sleep 0.2
  done
  echo "the broker did not start (waited $waited turns); its log:" >&2
  cat "$broker_dir/log" >&2
  return 1
}

# Ends it as an operator would.
stop_broker() {
  kill -TERM "$broker_pid"
  wait "$broker_pid"
  broker_pid=
}

# Ends it as a power cut would, as far as the process is concerned.
kill_broker() {
  kill -9 "$broker_pid"
  { wait "$broker_pid" || true; } 2>/dev/null # The shell would tell of the kill.
  broker_pid=
}

fail() {
  echo "FAILED: $*" >&2
  echo "--- the broker's log ends with:" >&2
  tail -n 40 "$broker_dir/log" >&2
  exit 1
}
