"""The clients, and how their programs are run. README.md says what goes into and out of a program."""

import json
import os
import queue
import subprocess
import threading
import time

from . import records

COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
CACHE = os.path.abspath(".cache/compat")
PROGRAMS = os.path.abspath("ci/compat")
RUN_SECONDS = 60
FORMAT_LIMITS = {
    "magic0": (records.without_headers, records.without_timestamps),
    "magic1": (records.without_headers,),
}


class Failed(Exception):
    """A case failed: what was wrong, with the client's output."""


class Client:
    """One client library.

    It writes with each of `compressions`, and reads all. `variants` are settings that are not its default, and get a
    case of their own. `limits` are functions of records.py for what it cannot send. `groups_only`: it cannot read
    without a group. `by_stretch`: it wants similar records side by side. `consumer_protocol`: it speaks the newer of the
    two protocols of groups (KIP-848) too. `cooperative`: the name of its assignor that moves partitions without stopping
    the others, "" if that is its default. `static`: it knows static members (KIP-345).
    """

    def __init__(
        self,
        name,
        piece,
        command,
        compressions=COMPRESSIONS,
        variants=(),
        limits=(),
        groups_only=False,
        by_stretch=False,
        consumer_protocol=False,
        cooperative=None,
        static=False,
    ):
        self.name = name
        self.piece = piece
        self.command = command
        self.compressions = compressions
        self.variants = variants
        self.limits = limits
        self.groups_only = groups_only
        self.by_stretch = by_stretch
        self.consumer_protocol = consumer_protocol
        self.cooperative = cooperative
        self.static = static

    def write(self, bootstrap, topic, compression, partitions, variant=None):
        """Sends the records, a list for each partition. Gives what readers should find."""
        partitions = self._arriving(partitions, variant)
        if self.by_stretch:
            ordered = [record for partition in partitions for record in partition]
        else:
            ordered = records.interleave(partitions)
        job = {"topic": topic, "compression": compression, "variant": variant, "records": ordered}
        self._run("produce", {"bootstrap": bootstrap, "jobs": [job]})
        return partitions

    def _arriving(self, partitions, variant=None):
        """The records as far as this client can send them, which is what readers should find."""
        for limit in (*self.limits, *FORMAT_LIMITS.get(variant, ())):
            partitions = records.change(partitions, limit)
        return partitions

    def read(self, bootstrap, topics):
        """All records of the topics, by topic."""
        task = {
            "bootstrap": bootstrap,
            "topics": [{"topic": topic, "partitions": records.PARTITIONS} for topic in topics],
        }
        by_topic = {topic: [] for topic in topics}
        for line in self._run("consume", task).splitlines():
            record = json.loads(line)
            by_topic[record["topic"]].append(record)
        return by_topic

    def _run(self, action, task):
        try:
            done = subprocess.run(
                [*self.command, action],
                env=environment(),
                input=(json.dumps(task) + "\n").encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                timeout=RUN_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{action} took longer than {RUN_SECONDS} s\n{text(error.stderr)}") from None
        if done.returncode != 0:
            raise Failed(f"{action} ended with {done.returncode}\n{text(done.stderr)}")
        return done.stdout

    def join(self, bootstrap, group, topics, protocol=None, **settings):
        """Settings are those that README.md lists."""
        task = {"bootstrap": bootstrap, "group": group, "topics": [{"topic": topic} for topic in topics]}
        return Member(self, {**task, "protocol": protocol, **settings})


class Member:
    """A client's program that reads in a group until `leave`."""

    def __init__(self, client, task):
        self.records = []
        # What it was given and has to give up: {"event": "assigned" or "revoked", "partitions": [...]}
        self.events = []
        self._lines = queue.SimpleQueue()
        self._errors = []
        self.process = subprocess.Popen(
            [*client.command, "consume"],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._readers = [
            threading.Thread(target=self._keep, args=(self.process.stdout, self._lines.put), daemon=True),
            threading.Thread(target=self._keep, args=(self.process.stderr, self._errors.append), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self.process.stdin.write((json.dumps(task) + "\n").encode())
        self.process.stdin.flush()

    @staticmethod
    def _keep(stream, put):
        for line in stream:
            if line.endswith(b"\n"):  # The last line of a killed program may be cut off.
                put(line)

    def poll(self):
        """Takes in what the program has printed. All records so far are in `records`."""
        self._take_in()
        if self.process.poll() not in (None, 0):
            self._readers[1].join(1)
            raise Failed(f"a member ended with {self.process.returncode}\n{self.errors()}")

    def _take_in(self):
        while not self._lines.empty():
            line = json.loads(self._lines.get())
            (self.events if "event" in line else self.records).append(line)

    def errors(self):
        return text(b"".join(self._errors))

    def leave(self):
        """Has it commit and leave, and waits for its end."""
        if not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(RUN_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failed(f"a member did not leave within {RUN_SECONDS} s\n{self.errors()}") from None
        for reader in self._readers:
            reader.join(5)
        self.poll()

    def kill(self):
        """SIGKILL, if it still runs, and takes in what it had printed."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(5)
        self._take_in()


def wait_until(members, condition, seconds, what):
    """Polls the members until the condition holds."""
    deadline = time.monotonic() + seconds
    while True:
        for member in members:
            member.poll()
        if condition():
            return
        if time.monotonic() > deadline:
            counts = [len(member.records) for member in members]
            output = "\n".join(member.errors() for member in members)
            raise Failed(f"not within {seconds} s: {what}; the members have read {counts} records\n{output}")
        time.sleep(0.05)


def environment():
    return {**os.environ, "COMPAT_NODE_MODULES": f"{CACHE}/node", "PYTHONUNBUFFERED": "1"}


def text(output, lines=40):
    """The end of a program's output."""
    return "\n".join((output or b"").decode(errors="replace").splitlines()[-lines:])


def java(generation):
    classes = f"{CACHE}/classes-{generation}:{CACHE}/java/clients-{generation}/*"
    return ["java", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classes, "Compat"]


def python(environment_name, program):
    interpreter = "python3" if environment_name is None else f"{CACHE}/{environment_name}/bin/python"
    return [interpreter, f"{PROGRAMS}/clients/{program}.py"]


CLIENTS = [
    Client(
        "java-4",
        "java",
        java(4),
        variants=("acks1",),
        consumer_protocol=True,
        cooperative="cooperative-sticky",
        static=True,
    ),
    Client("java-3", "java", java(3), variants=("acks1",), cooperative="cooperative-sticky", static=True),
    Client(
        "kcat",
        "kcat",
        python(None, "kcat"),
        variants=("idempotent",),
        limits=(records.without_empty_records, records.without_timestamps),
        by_stretch=True,
    ),
    Client(
        "confluent",
        "confluent",
        python("confluent", "confluent"),
        variants=("idempotent",),
        consumer_protocol=True,
        cooperative="cooperative-sticky",
        static=True,
    ),
    Client(
        "franz-go",
        "go",
        [f"{CACHE}/go/franz"],
        variants=("acks1",),
        consumer_protocol=True,
        cooperative="",
        static=True,
    ),
    Client("sarama", "go", [f"{CACHE}/go/sarama"], variants=("idempotent", "magic0", "magic1"), static=True),
    Client(
        "kafka-python",
        "kafka-python",
        python("kafka-python", "kafka_python"),
        variants=("acks1",),
        static=True,
        limits=(records.without_null_records, records.without_null_headers),
    ),
    Client(
        "kafka-python-2.0",
        "kafka-python-2.0",
        python("kafka-python-2.0", "kafka_python"),
        limits=(records.without_null_records, records.without_null_headers),
    ),
    Client(
        "kafkajs",
        "node",
        ["node", f"{PROGRAMS}/node/client.js"],
        # Its codec writes lz4 in linked blocks, which Kafka's own clients refuse to read.
        compressions=("none", "gzip", "snappy", "zstd"),
        variants=("idempotent",),
        limits=(records.without_null_headers,),
        groups_only=True,
    ),
]
