#!/usr/bin/env python3
"""Apache Kafka and this broker under the same loads, in turns, on this machine: ci/bench_compare.py --help.

Each turn starts one broker after the other, each on an empty directory of its own, and puts the same loads on it:

  peak    8 producers as fast as it goes, 1 KiB records, acks=all, idempotent, one consumer that reads along
  read    what that has left, read once from the start by one consumer
  half    the same as peak on a schedule, at half of what Kafka acknowledged at its peak in the first turn, linger 5 ms
  steady  10,000 records a second on schedule, linger 1 ms, two producers, one consumer
  small   64 producers, one record of 1 KiB a request, one request of each on its way
  java    kafka-producer-perf-test as fast as it goes, acks=all, with the same batch size
  rdkafka librdkafka's rdkafka_performance, likewise

Between two loads a broker gets up to REST_SECONDS_MAX to come to rest; how long it took after the peak is in the table.
Kafka runs once as it comes (an acknowledged record is in memory) and once with log.flush.interval.messages=1 (it is on the
disk, which is what this broker promises). This broker runs on its embedded store, and on an S3 server with etcd; CPU and
memory are the broker's alone, without those two. What is printed is the median of all turns; compare.json has every figure, and
report-LOAD.html has the curves of all brokers and turns. Puts are told by this broker only, which has the metrics page for it.
Tansu (--brokers tansu-memory, which builds it from crates.io) keeps all in memory and promises nothing, without idempotence and
without `java` and `rdkafka`: version 0.6.0 gives no producer id there. On our S3 server it answers produce with an error.
It ends only what it started. Needs what ci/compat/install.sh has for Kafka and librdkafka (it installs it), and a release build.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parent.parent
RELEASE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
JARS = ROOT / ".cache/compat/java/kafka"
TANSU = ROOT / ".cache/compat/tansu/bin/tansu"
RDKAFKA = ROOT / ".cache/compat/rdkafka/rdkafka_performance"
RECORD_BYTES = 1024
SMALL_CONNECTIONS = 64
STEADY_RATE = 10_000
TOOL_RECORDS = 400_000
TOOL_SECONDS_MAX = 120
# At rest is who uses less than this of a core in half a second.
REST_CORES = 0.1
REST_SECONDS_MAX = 6
START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 30
# As bin/kafka-server-start.sh and bin/kafka-run-class.sh have it.
KAFKA_JAVA_OPTIONS = [
    "-Xms1G", "-Xmx1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true",
]  # fmt: skip
BROKERS = ("kafka", "kafka-synced", "kafscale", "kafscale-s3", "tansu-memory")
# Tansu is built from crates.io, which takes long: only who names it gets it.
USUAL_BROKERS = BROKERS[:4]
LOADS = ("peak", "read", "half", "steady", "small", "java", "rdkafka")
Figures = dict[str, float]


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody has; all are held until all are known."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def answers(port: int) -> bool:
    """Whether a broker answers ApiVersions there."""
    request = struct.pack(">hhih", 18, 0, 1, -1)
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            return len(connection.recv(8, socket.MSG_WAITALL)) == 8
    except OSError:
        return False


def listens(port: int) -> Callable[[], bool]:
    """Whether anybody takes connections there."""

    def connects() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            return False

    return connects


class Broker:
    """One broker and what it needs, below a directory that goes away with it."""

    def __init__(self, kind: str, directory: pathlib.Path) -> None:
        self.kind = kind
        self.directory = directory
        self.port = 0
        # Of the metrics page; 0 without one that tells of puts.
        self.metrics = 0
        self.ready_s = 0.0
        self.started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Broker":
        try:
            start = {"kafka": self.start_kafka, "kafscale": self.start_kafscale, "tansu": self.start_tansu}
            self.pid = start[self.kind.split("-")[0]]().pid
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def spawn(self, name: str, words: list[str]) -> subprocess.Popen[bytes]:
        with open(self.directory / f"{name}.log", "ab") as log:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def wait(self, name: str, process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> float:
        """Seconds until it is ready."""
        began = time.monotonic()
        while time.monotonic() - began < START_SECONDS_MAX and process.poll() is None:
            if ready():
                return time.monotonic() - began
            time.sleep(0.005)
        sys.exit(f"{name} did not start:\n" + (self.directory / f"{name}.log").read_text(errors="replace")[-4000:])

    def start_kafka(self) -> subprocess.Popen[bytes]:
        self.port, controller = free_ports(2)
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.directory / "data"),
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
        }
        if self.kind == "kafka-synced":
            properties["log.flush.interval.messages"] = "1"
        file = self.directory / "server.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        java = ["java", "-cp", f"{JARS}/*", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        formatted = self.spawn(
            "format", [*java, "kafka.tools.StorageTool", "format", "-t", "a2Fmc2NhbGUtYmVuY2gtMQ", "-c", str(file)]
        )
        if formatted.wait(START_SECONDS_MAX):
            sys.exit((self.directory / "format.log").read_text(errors="replace")[-4000:])
        broker = self.spawn("broker", [*java, *KAFKA_JAVA_OPTIONS, "kafka.Kafka", str(file)])
        self.ready_s = self.wait("broker", broker, lambda: answers(self.port))
        return broker

    def start_kafscale(self) -> subprocess.Popen[bytes]:
        self.port, self.metrics, s3, client, peer = free_ports(5)
        words = [
            str(RELEASE / "kafscale-broker"), "--broker-addr", f"127.0.0.1:{self.port}",
            "--metrics-addr", f"127.0.0.1:{self.metrics}", "--data-dir", str(self.directory / "data"),
        ]  # fmt: skip
        if self.kind == "kafscale-s3":
            self.start_stores(s3, client, peer)
            words += [
                "--s3-bucket", "records", "--s3-endpoint", f"http://127.0.0.1:{s3}", "--s3-access-key", "test",
                "--s3-secret-key", "secret", "--etcd-endpoints", f"http://127.0.0.1:{client}",
            ]  # fmt: skip
        broker = self.spawn("broker", words)
        self.ready_s = self.wait("broker", broker, lambda: answers(self.port))
        return broker

    def start_tansu(self) -> subprocess.Popen[bytes]:
        """In its own memory."""
        self.port = free_ports(1)[0]
        address = f"tcp://127.0.0.1:{self.port}"
        words = [str(TANSU), "broker", "--listener-url", address, "--advertised-listener-url", address]
        broker = self.spawn("broker", [*words, "--storage-engine", "memory://tansu/"])
        self.ready_s = self.wait("broker", broker, lambda: answers(self.port))
        return broker

    def start_s3(self, s3: int) -> None:
        store = self.spawn("s3", [
            str(RELEASE / "kafscale-test-s3"), "--addr", f"127.0.0.1:{s3}", "--root", str(self.directory / "s3"),
            "--bucket", "records",
        ])  # fmt: skip
        self.wait("s3", store, listens(s3))

    def start_stores(self, s3: int, client: int, peer: int) -> None:
        member, client_url = f"http://127.0.0.1:{peer}", f"http://127.0.0.1:{client}"
        etcd = self.spawn("etcd", [
            "etcd", "--name", "m", "--data-dir", str(self.directory / "etcd"), "--log-level", "error",
            "--listen-client-urls", client_url, "--advertise-client-urls", client_url, "--listen-peer-urls", member,
            "--initial-advertise-peer-urls", member, "--initial-cluster", f"m={member}",
        ])  # fmt: skip
        self.start_s3(s3)
        self.wait("etcd", etcd, listens(client))
        time.sleep(1)  # etcd elects its leader.

    def end(self) -> None:
        """Ends what was started here, the last first; whoever does not go is killed."""
        for process in reversed(self.started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOP_SECONDS_MAX)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.started.clear()


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rest(pid: int) -> float:
    """Waits until a process has come to rest, and says how many seconds that took."""
    began = time.monotonic()
    while time.monotonic() - began < REST_SECONDS_MAX:
        before = cpu_s(pid)
        time.sleep(0.5)
        if cpu_s(pid) - before < REST_CORES * 0.5:
            break
    return time.monotonic() - began - 0.5


def bench(broker: Broker, words: list[str], seconds_max: float) -> Figures:
    """One run of kafscale-bench."""
    command = [str(RELEASE / "kafscale-bench"), *words, "--bootstrap", f"127.0.0.1:{broker.port}", "--pid", str(broker.pid), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds_max + 90)
    if done.returncode:
        sys.exit(f"{broker.kind}: {' '.join(command)}: {done.stderr}")
    return json.loads(done.stdout)


def tool(broker: Broker, name: str, command: list[str]) -> tuple[str, float]:
    """What a tool says, and the CPU seconds that the broker used meanwhile."""
    before = cpu_s(broker.pid)
    done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS_MAX)
    if done.returncode:
        sys.exit(f"{broker.kind}: {name}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout + done.stderr, cpu_s(broker.pid) - before


def java_command(topic: str, records: int, rate: int, warmup_records: int, properties: list[str]) -> list[str]:
    """kafka-producer-perf-test; a rate of -1 is as fast as it goes."""
    command = [
        "java", "-Xmx512M", "-cp", f"{JARS}/*", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
        "org.apache.kafka.tools.ProducerPerformance", "--topic", topic, "--num-records", str(records),
        "--record-size", str(RECORD_BYTES), "--throughput", str(rate),
    ]  # fmt: skip
    if warmup_records:
        command += ["--warmup-records", str(warmup_records)]
    return [*command, "--command-property", *properties]


def java_summaries(said: str) -> list[list[float]]:
    """Of each summary of kafka-producer-perf-test: records, records a second, p50, p99 and p99.9 in ms."""
    summaries = re.findall(
        r"(\d+) .*records sent, ([\d.]+) records/sec.* ([\d.]+) ms 50th, \S+ ms 95th, ([\d.]+) ms 99th, ([\d.]+) ms 99.9th", said
    )
    if not summaries:
        sys.exit(f"kafka-producer-perf-test has no summary: {said[-2000:]}")
    return [[float(number) for number in one] for one in summaries]


def java_figures(summary: list[float]) -> Figures:
    """By the names that kafscale-bench has."""
    _, rate, p50, p99, p999 = summary
    return {"bytes_per_s": rate * RECORD_BYTES, "publish_p50_ms": p50, "publish_p99_ms": p99, "publish_p99.9_ms": p999}


def core_s_per_gb(used_s: float, records: int) -> Figures:
    return {"broker_core_s_per_gb": used_s / (records * RECORD_BYTES / 1e9)}


class Loads:
    """The loads, with the times and sizes that the arguments say."""

    def __init__(self, arguments: argparse.Namespace, half_rate: int) -> None:
        self.seconds: int = arguments.seconds
        self.warmup: int = arguments.warmup
        self.producers: int = arguments.producers
        self.batch_bytes: int = arguments.batch_bytes
        self.syscalls: bool = arguments.syscalls
        self.half_rate = half_rate
        # Where the results of each load go that is of this harness.
        self.kept = arguments.results

    def load(self, broker: Broker, topic: str, *words: str) -> Figures:
        more = ["--seconds", str(self.seconds), "--warmup-s", str(self.warmup), "--results", str(self.kept / topic)]
        if broker.metrics:
            more += ["--metrics", f"127.0.0.1:{broker.metrics}"]
        if broker.kind.startswith("tansu"):
            # Version 0.6.0 gives no producer id.
            more.append("--no-idempotence")
        if self.syscalls:
            more.append("--syscalls")
        return bench(broker, ["--topic", topic, "--record-bytes", str(RECORD_BYTES), *more, *words], self.seconds + self.warmup)

    def batching(self) -> list[str]:
        return ["--producers", str(self.producers), "--batch-bytes", str(self.batch_bytes), "--consumers", "1"]

    def peak(self, broker: Broker) -> Figures:
        return self.load(broker, "peak", *self.batching())

    def read(self, broker: Broker) -> Figures:
        return bench(broker, ["read", "--topic", "peak"], 60)

    def half(self, broker: Broker) -> Figures:
        return self.load(broker, "half", *self.batching(), "--linger-ms", "5", "--rate", str(self.half_rate))

    def steady(self, broker: Broker) -> Figures:
        return self.load(broker, "steady", "--producers", "2", "--consumers", "1", "--rate", str(STEADY_RATE))

    def small(self, broker: Broker) -> Figures:
        words = ["--producers", str(SMALL_CONNECTIONS), "--batch-bytes", str(RECORD_BYTES), "--in-flight", "1", "--consumers", "0"]
        return self.load(broker, "small", *words)

    def java(self, broker: Broker) -> Figures:
        """A number of records rather than a time, as the tool has it."""
        properties = [f"bootstrap.servers=127.0.0.1:{broker.port}", "acks=all", f"batch.size={self.batch_bytes}", "linger.ms=5"]
        command = java_command("peak", TOOL_RECORDS, -1, 0, properties)
        said, used = tool(broker, "kafka-producer-perf-test", command)
        return java_figures(java_summaries(said)[-1]) | core_s_per_gb(used, TOOL_RECORDS)

    def rdkafka(self, broker: Broker) -> Figures:
        """As java; the tool has the mean of the latencies, and no percentiles, unless it writes each of them to a file."""
        latencies = broker.directory / "latencies"
        settings = ["acks=all", "enable.idempotence=true", f"batch.size={self.batch_bytes}", "linger.ms=5"]
        command = [
            str(RDKAFKA), "-P", "-q", "-b", f"127.0.0.1:{broker.port}", "-t", "peak", "-s", str(RECORD_BYTES),
            "-c", str(TOOL_RECORDS), "-l", "-A", str(latencies), *(word for one in settings for word in ("-X", one)),
        ]  # fmt: skip
        said, used = tool(broker, "rdkafka_performance", command)
        found = re.findall(r"(\d+) messages produced .* (\d+) delivered \(.* (\d+) failed\) in (\d+)ms", said)
        if not found or int(found[-1][1]) != TOOL_RECORDS:
            sys.exit(f"{broker.kind}: rdkafka_performance: {said[-2000:]}")
        took_ms = sorted(int(line) / 1000 for line in latencies.read_text().split())
        percentiles = {name: took_ms[int(len(took_ms) * part)] for name, part in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))}
        return {
            "bytes_per_s": TOOL_RECORDS * RECORD_BYTES / (int(found[-1][3]) / 1000),
            **{f"publish_{name}_ms": value for name, value in percentiles.items()},
        } | core_s_per_gb(used, TOOL_RECORDS)

    def run(self, broker: Broker, names: list[str]) -> dict[str, Figures]:
        found: dict[str, Figures] = {"start": {"ready_ms": broker.ready_s * 1000}}
        for name in names:
            found[name] = getattr(self, name)(broker)
            found[name]["rest_s"] = rest(broker.pid)
            if name == "peak" and not self.half_rate and broker.kind.startswith("kafka"):
                self.half_rate = int(found[name]["records_per_s"] / 2)
        return found


# Column, load, figure, divisor, digits.
COLUMNS = [
    ("acknowledged MB/s", "peak", "bytes_per_s", 1e6, 1),
    ("core-s/GB", "peak", "broker_core_s_per_gb", 1, 2),
    ("p50 ms", "peak", "publish_p50_ms", 1, 1),
    ("p99 ms", "peak", "publish_p99_ms", 1, 1),
    ("p99.9 ms", "peak", "publish_p99.9_ms", 1, 1),
    ("RSS MiB", "peak", "broker_resident_bytes", 2**20, 0),
    ("switches/s", "peak", "switches_per_s", 1, 0),
    ("system calls/s", "peak", "broker_syscalls_per_s", 1, 0),
    ("written bytes per byte", "peak", "broker_written_bytes_per_byte", 1, 2),
    ("PUT/s", "peak", "puts_per_s", 1, 1),
    ("KiB a PUT", "peak", "put_mean_bytes", 1024, 0),
    ("put bytes per byte", "peak", "put_bytes_per_byte", 1, 2),
    ("at rest after s", "peak", "rest_s", 1, 1),
    ("client cores", "peak", "load_cores", 1, 2),
    ("read MB/s", "read", "bytes_per_s", 1e6, 1),
    ("read core-s/GB", "read", "broker_core_s_per_gb", 1, 2),
    ("half: acknowledged MB/s", "half", "bytes_per_s", 1e6, 1),
    ("half: p50 ms", "half", "publish_p50_ms", 1, 2),
    ("half: p99 ms", "half", "publish_p99_ms", 1, 1),
    ("half: p99.9 ms", "half", "publish_p99.9_ms", 1, 1),
    ("half: end-to-end p99 ms", "half", "end_to_end_p99_ms", 1, 1),
    ("half: core-s/GB", "half", "broker_core_s_per_gb", 1, 2),
    ("steady: p50 ms", "steady", "publish_p50_ms", 1, 2),
    ("steady: p99 ms", "steady", "publish_p99_ms", 1, 1),
    ("steady: p99.9 ms", "steady", "publish_p99.9_ms", 1, 1),
    ("steady: end-to-end p99 ms", "steady", "end_to_end_p99_ms", 1, 1),
    ("steady: PUT/s", "steady", "puts_per_s", 1, 1),
    ("small requests/s", "small", "requests_per_s", 1, 0),
    ("small: p50 ms", "small", "publish_p50_ms", 1, 2),
    ("small: p99 ms", "small", "publish_p99_ms", 1, 1),
    ("small: requests per core-s", "small", "requests_per_core_s", 1, 0),
    ("Java's tool MB/s", "java", "bytes_per_s", 1e6, 1),
    ("Java's tool: core-s/GB", "java", "broker_core_s_per_gb", 1, 2),
    ("Java's tool: p50 ms", "java", "publish_p50_ms", 1, 0),
    ("Java's tool: p99 ms", "java", "publish_p99_ms", 1, 0),
    ("librdkafka's tool MB/s", "rdkafka", "bytes_per_s", 1e6, 1),
    ("librdkafka's tool: core-s/GB", "rdkafka", "broker_core_s_per_gb", 1, 2),
    ("librdkafka's tool: p50 ms", "rdkafka", "publish_p50_ms", 1, 0),
    ("librdkafka's tool: p99 ms", "rdkafka", "publish_p99_ms", 1, 0),
    ("start to ready ms", "start", "ready_ms", 1, 0),
]


def derived(figures: Figures) -> Figures:
    """With what follows from the figures."""
    more = dict(figures)
    if "broker_voluntary_switches_per_s" in figures:
        more["switches_per_s"] = figures["broker_voluntary_switches_per_s"] + figures["broker_involuntary_switches_per_s"]
    if figures.get("broker_cpu_s") and "requests_per_s" in figures:
        more["requests_per_core_s"] = figures["requests_per_s"] * figures["seconds"] / figures["broker_cpu_s"]
    if "load_cpu_s" in figures and figures.get("seconds"):
        more["load_cores"] = figures["load_cpu_s"] / figures["seconds"]
    return more


def table(turns: list[dict[str, dict[str, Figures]]]) -> str:
    """Medians, as Markdown: a row for each figure, a column for each broker."""
    kinds = [kind for kind in BROKERS if any(kind in turn for turn in turns)]
    lines = ["| | " + " | ".join(kinds) + " |", "|---|" + "---|" * len(kinds)]
    for title, load, figure, divisor, digits in COLUMNS:
        cells = []
        for kind in kinds:
            found = [derived(turn[kind][load]).get(figure) for turn in turns if load in turn.get(kind, {})]
            values = [value / divisor for value in found if value is not None]
            cells.append(f"{statistics.median(values):,.{digits}f}" if values else "–")
        if any(cell != "–" for cell in cells):
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def pages(runs: pathlib.Path, results: pathlib.Path) -> list[str]:
    """A page for each load with the curves of all brokers and turns; their names."""
    written = []
    for load in LOADS:
        found = [(run, run / load / "run.json") for run in sorted(runs.glob("*"))]
        words = [f"{run.name}={file.parent}" for run, file in found if file.exists()]
        if words:
            page = results / f"report-{load}.html"
            command = [str(RELEASE / "kafscale-bench"), "report", "--output", str(page), *words]
            subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)
            written.append(str(page))
    return written


def sync_p50_ms(directory: pathlib.Path) -> float:
    """How long it takes to write a block of 4 KiB and sync it, at the median of 200."""
    took = []
    with open(directory / "probe", "wb", buffering=0) as probe:
        for _ in range(200):
            began = time.perf_counter()
            probe.write(b"\0" * 4096)
            os.fdatasync(probe.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


def words(of: tuple[str, ...]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        wrong = [word for word in text.split(",") if word not in of]
        if wrong:
            raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: there are {', '.join(of)}")
        return text.split(",")

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", type=words(BROKERS), default=list(USUAL_BROKERS), help="which, separated by commas")
    parser.add_argument("--loads", type=words(LOADS), default=list(LOADS), help="which, separated by commas")
    parser.add_argument("--turns", type=int, default=2, help="how often each broker has its turn")
    parser.add_argument("--seconds", type=int, default=6, help="that count of each load")
    parser.add_argument("--warmup", type=int, default=3, help="seconds before, of each load")
    parser.add_argument("--producers", type=int, default=8, help="of the loads peak and half; each has five requests on their way")
    parser.add_argument("--batch-bytes", type=int, default=262_144, help="bytes that make a batch full")
    parser.add_argument("--half-rate", type=int, default=0, help="records/s of the load on a schedule, instead of half of Kafka's peak")
    parser.add_argument("--syscalls", action="store_true", help="counts system calls with perf, which slows each of them a little")
    parser.add_argument("--results", type=pathlib.Path, default=RELEASE.parent / "bench-compare", help="where compare.json and compare.md go")
    parser.add_argument("--add", action="store_true", help="the turns are added to those that compare.json has, and go at its rate")
    arguments = parser.parse_args()
    if "half" in arguments.loads and not arguments.half_rate and not arguments.add and arguments.brokers[0] != "kafka":
        sys.exit("the load 'half' needs Kafka as the first broker, or --half-rate")
    if any(kind.startswith("kafka") for kind in arguments.brokers) or "java" in arguments.loads:
        subprocess.run([ROOT / "ci/compat/install.sh", "kafka"], check=True, timeout=1800)
    if "tansu-memory" in arguments.brokers:
        if {"java", "rdkafka"} & set(arguments.loads):
            sys.exit("tansu-memory gives no producer id, so there are no loads java and rdkafka")
        subprocess.run([ROOT / "ci/compat/install.sh", "tansu"], check=True, timeout=7200)
    if "rdkafka" in arguments.loads:
        subprocess.run([ROOT / "ci/compat/install.sh", "rdkafka"], check=True, timeout=1800)
    runs = arguments.results / "runs"
    if not arguments.add:
        # What an earlier comparison has left is not part of this one.
        shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir(parents=True, exist_ok=True)
    kept = arguments.results / "compare.json"
    before = json.loads(kept.read_text()) if arguments.add else {"turns": [], "half_rate": arguments.half_rate}
    turns: list[dict[str, dict[str, Figures]]] = before["turns"]
    # An end from outside is one as well: what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    loads = Loads(arguments, arguments.half_rate or before["half_rate"])
    sync_ms = 0.0
    for number in range(arguments.turns):
        turns.append({})
        for kind in arguments.brokers:
            directory = pathlib.Path(tempfile.mkdtemp(prefix="bench-compare-"))
            try:
                sync_ms = sync_ms or sync_p50_ms(directory)
                began = time.monotonic()
                loads.kept = runs / f"{kind} {len(turns)}"
                with Broker(kind, directory) as broker:
                    turns[-1][kind] = loads.run(broker, arguments.loads)
                print(f"turn {number + 1} of {arguments.turns}: {kind}, {time.monotonic() - began:.0f} s", file=sys.stderr)
            finally:
                shutil.rmtree(directory, ignore_errors=True)
            # What one has left to be written is not to be the next one's burden.
            os.sync()
            kept.write_text(json.dumps({"turns": turns, "half_rate": loads.half_rate, "sync_p50_ms": sync_ms}, indent=1))
    about = (
        f"{os.cpu_count()} cores, Linux {os.uname().release}, write and fdatasync of 4 KiB {sync_ms:.2f} ms at the median; "
        f"{len(turns)} turns of {arguments.seconds} s a load, {arguments.producers} producers, batches of {arguments.batch_bytes} bytes, "
        f"half = {loads.half_rate} records/s"
    )
    text = f"{about}\n\n{table(turns)}\n"
    (arguments.results / "compare.md").write_text(text)
    print(text, end="")
    print("\n" + "\n".join(pages(runs, arguments.results)))


if __name__ == "__main__":
    main()
