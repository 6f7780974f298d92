"""The broker that the clients talk to: ours, or Apache Kafka as the reference."""

import os
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

from .records import PARTITIONS

START_SECONDS = 60
STOP_SECONDS = 30
JOIN_GROUP = 11
CONSUMER_GROUP_HEARTBEAT = 68
DESCRIBE_CONFIGS = 32
API_VERSIONS = 18
OFFSET_FETCH = 9


class Broker:
    """A process that serves on a free loopback port, with a data directory that goes when it ends."""

    def __init__(self, use_kafka, partitions=PARTITIONS, session_ms=None):
        """`partitions`: of a topic that comes into being by itself. `session_ms`: of groups of the consumer protocol."""
        self.directory = tempfile.TemporaryDirectory(prefix="kafscale-compat-")
        self.log_path = os.path.join(self.directory.name, "log")
        # Of the status page, which Kafka has not.
        self.http = f"127.0.0.1:{free_port()}"
        if use_kafka:
            command, environment = self._kafka(partitions, session_ms)
        else:
            command, environment = self._kafscale(partitions, session_ms)
        self.bootstrap = None
        self.log = open(self.log_path, "wb")
        self.process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._listening = threading.Event()
        threading.Thread(target=self._keep_log, daemon=True).start()
        if not self._listening.wait(START_SECONDS) or self.bootstrap is None:
            self.stop()
            raise RuntimeError(f"the broker did not start:\n{self.log_tail()}")

    def _kafscale(self, partitions, session_ms):
        target = os.environ.get("CARGO_TARGET_DIR", "target")
        binary = os.environ.get("BROKER_BINARY", f"{target}/release/kafscale-broker")
        command = [binary, "--broker-addr", "127.0.0.1:0", "--metrics-addr", self.http]
        command += ["--data-dir", os.path.join(self.directory.name, "data")]
        command += ["--auto-create-partitions", str(partitions)]
        if session_ms is not None:
            command += ["--group-consumer-session-timeout-ms", str(session_ms)]
        return command, {}

    def _kafka(self, partitions, session_ms):
        properties = os.path.join(self.directory.name, "kafka.properties")
        with open(properties, "w", encoding="utf-8") as file:
            file.write(f"num.partitions={partitions}\n")
            if session_ms is not None:
                for name in ("session", "min.session"):
                    file.write(f"group.consumer.{name}.timeout.ms={session_ms}\n")
        return ["ci/compat/kafka.sh"], {"KAFKA_PROPERTIES": properties}

    def _keep_log(self):
        for line in self.process.stdout:
            self.log.write(line)
            self.log.flush()
            if b"broker listening on " in line and self.bootstrap is None:
                self.bootstrap = line.split(b"broker listening on ", 1)[1].split()[0].decode()
                self._listening.set()
        self._listening.set()

    def log_tail(self, lines=12):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-lines:])

    def is_alive(self):
        return self.process.poll() is None

    def served_apis(self):
        """The keys of the APIs it says it serves."""
        host, port = self.bootstrap.rsplit(":", 1)
        with socket.create_connection((host, int(port)), 10) as connection:
            answer = ask(connection, API_VERSIONS, 0, b"")
        error, count = struct.unpack_from(">hi", answer)
        if error != 0:
            raise RuntimeError(f"ApiVersions was answered with error {error}")
        return {struct.unpack_from(">hhh", answer, 6 + 6 * index)[0] for index in range(count)}

    def stop(self):
        """Ends it as an operator would. Gives its exit status, None if it had to be killed."""
        status = self.process.poll()
        if status is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                status = self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        time.sleep(0.1)  # Its last lines are still on their way to the log.
        return status


def free_port():
    """A port that was free a moment ago; the kernel hands such ports out in turn."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class CommittedOffsets:
    """Asks for a group's committed offsets, again and again."""

    def __init__(self, bootstrap, group):
        self.bootstrap = bootstrap
        name = group.encode()
        self.request = struct.pack(">h", len(name)) + name + struct.pack(">i", -1)  # All topics.
        self.connection = None

    def get(self):
        """The offsets by partition, of the group's only topic; none while the coordinator cannot tell."""
        if self.connection is None:
            host, port = self.bootstrap.rsplit(":", 1)
            self.connection = socket.create_connection((host, int(port)), 30)
        answer = ask(self.connection, OFFSET_FETCH, 2, self.request)
        (topics,) = struct.unpack_from(">i", answer)
        at, offsets = 4, {}
        for _ in range(topics):
            (length,) = struct.unpack_from(">h", answer, at)
            (partitions,) = struct.unpack_from(">i", answer, at + 2 + length)
            at += 6 + length
            for _ in range(partitions):
                partition, offset, metadata = struct.unpack_from(">iqh", answer, at)
                at += 14 + max(metadata, 0) + 2
                offsets[partition] = offset
        (error,) = struct.unpack_from(">h", answer, at)
        return None if error else offsets


def ask(connection, api, version, body):
    """The body of the answer to a request of a version before flexible ones, without a client id."""
    request = struct.pack(">hhih", api, version, 1, -1) + body
    connection.sendall(struct.pack(">i", len(request)) + request)
    (length,) = struct.unpack(">i", read_exactly(connection, 4))
    return read_exactly(connection, length)[4:]


def read_exactly(connection, length):
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise RuntimeError("the broker closed the connection")
        data += part
    return data
