#!/usr/bin/env bash
# Runs one Apache Kafka node (KRaft) on a free loopback port, in the foreground: our reference for what Kafka does.
#
#   ci/compat/kafka.sh [PORT]     prints "broker listening on 127.0.0.1:PORT" once it serves; ends on SIGTERM or Ctrl-C
#
# Its data goes away with it. KAFKA_LOG_LEVEL (warn) is the level of its log on standard error, KAFKA_PROPERTIES a file
# of further server properties, KAFKA_HEAP (1g) the most memory that its heap may take.
set -euo pipefail
cd "$(dirname "$0")/../.."
ci/compat/install.sh kafka
read -r port controller_port < <(python3 - "${1:-0}" <<'PYTHON'
import socket, sys
held = [socket.socket() for _ in range(2)]
for sock, port in zip(held, (int(sys.argv[1]), 0)):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
print(*(sock.getsockname()[1] for sock in held))
PYTHON
)
directory=$(mktemp -d)
server=
finish() {
  if [ -n "$server" ]; then kill -TERM "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
  rm -rf "$directory"
}
trap finish EXIT
trap 'exit 0' TERM INT

# Replication factors of one, since there is one node; groups start at once, as in Kafka's own quick start.
cat >"$directory/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller_port
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller_port
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$directory/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
PROPERTIES
if [ -n "${KAFKA_PROPERTIES:-}" ]; then cat "$KAFKA_PROPERTIES" >>"$directory/server.properties"; fi

java_options=(-cp ".cache/compat/java/kafka/*" "-Dorg.slf4j.simpleLogger.defaultLogLevel=${KAFKA_LOG_LEVEL:-warn}")
java "${java_options[@]}" kafka.tools.StorageTool format -t "$(python3 -c \
  'import base64, uuid; print(base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="))')" \
  -c "$directory/server.properties" >"$directory/format" 2>&1 || { cat "$directory/format" >&2; exit 1; }
java -Xms256m "-Xmx${KAFKA_HEAP:-1g}" "${java_options[@]}" kafka.Kafka "$directory/server.properties" >&2 &
server=$!
until python3 -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" 2>/dev/null; do
  kill -0 "$server" 2>/dev/null || { echo "Kafka did not start" >&2; exit 1; }
  sleep 0.2
done
echo "broker listening on 127.0.0.1:$port"
wait "$server"
