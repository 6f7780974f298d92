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


class Broker:
    """A process that serves on a free loopback port, with a data directory that goes when it ends."""

    def __init__(self, use_kafka):
        self.directory = tempfile.TemporaryDirectory(prefix="kafscale-compat-")
        self.log_path = os.path.join(self.directory.name, "log")
        if use_kafka:
            command, environment = self._kafka()
        else:
            command, environment = self._kafscale()
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

    def _kafscale(self):
        target = os.environ.get("CARGO_TARGET_DIR", "target")
        binary = os.environ.get("BROKER_BINARY", f"{target}/release/kafscale-broker")
        command = [binary, "--broker-addr", "127.0.0.1:0", "--metrics-addr", "127.0.0.1:0"]
        command += ["--data-dir", os.path.join(self.directory.name, "data")]
        command += ["--auto-create-partitions", str(PARTITIONS)]
        return command, {}

    def _kafka(self):
        properties = os.path.join(self.directory.name, "kafka.properties")
        with open(properties, "w", encoding="utf-8") as file:
            file.write(f"num.partitions={PARTITIONS}\n")
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
        # ApiVersions version 0, correlation id 1, no client id, no body.
        request = struct.pack(">hhih", API_VERSIONS, 0, 1, -1)
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            (length,) = struct.unpack(">i", read_exactly(connection, 4))
            answer = read_exactly(connection, length)
        _, error, count = struct.unpack_from(">ihi", answer)
        if error != 0:
            raise RuntimeError(f"ApiVersions was answered with error {error}")
        return {struct.unpack_from(">hhh", answer, 10 + 6 * index)[0] for index in range(count)}

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


def read_exactly(connection, length):
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise RuntimeError("the broker closed the connection")
        data += part
    return data
