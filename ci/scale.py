#!/usr/bin/env python3
"""What many partitions and many segments cost: PUTs, memory, and the time to take everything over.

ci/scale.py [PARTITIONS...], from the top of the repository after `make build` (default: 10 10000). For each number of
partitions it starts etcd, an S3 server and a broker with two shards, loads all partitions at RATE records of 1 KiB a second,
and counts what the S3 server was asked for, by prefix of the key. SEGMENT_MS is compressed, so that SECONDS hold as many rolls as
SECONDS / (SEGMENT_MS / 3600000) hours; SMALL_MS is how long small partitions wait, six times as long. Then it kills the broker and starts it again. Prints figures; asserts nothing.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

BIN = os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release")
RATE = int(os.environ.get("RATE", "2000"))
SECONDS = int(os.environ.get("SECONDS", "120"))
SEGMENT_MS = int(os.environ.get("SEGMENT_MS", "60000"))
SMALL_MS = int(os.environ.get("SMALL_MS", str(6 * SEGMENT_MS)))
S3, KAFKA, HTTP, ETCD = 19000, 19092, 19093, 19379


def get(url, timeout=5):
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read().decode()


def wait_for(url, seconds, process):
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if process.poll() is not None:
            sys.exit(f"{process.args[0]} ended with {process.returncode}")
        try:
            get(url, 1)
            return time.monotonic() - began
        except OSError:
            time.sleep(0.01)
    sys.exit(f"{url} does not answer within {seconds} s")


def metrics():
    """Sums by metric, labels left out."""
    found = {}
    for line in get(f"http://127.0.0.1:{HTTP}/metrics", 30).splitlines():
        match = re.match(r"(\w+)(?:\{([^}]*)\})? (\S+)$", line)
        if match:
            name, labels, value = match.groups()
            operation = re.search(r'operation="(\w+)"', labels or "")
            name += f" {operation.group(1)}" if operation else ""
            found[name] = found.get(name, 0) + float(value)
    return found


def resident_mib(process):
    with open(f"/proc/{process.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) / 1024


class Parts:
    """etcd, the bucket and a broker, below one directory."""

    def __init__(self, directory):
        self.directory = directory
        self.processes = []

    def start(self, name, *words):
        log = open(f"{self.directory}/{name}.log", "a")
        process = subprocess.Popen(words, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def stores(self):
        peer = f"http://127.0.0.1:{ETCD + 1}"
        client = f"http://127.0.0.1:{ETCD}"
        etcd = self.start(
            "etcd", "etcd", "--name", "m", "--data-dir", f"{self.directory}/etcd", "--log-level", "error",
            "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
            "--initial-advertise-peer-urls", peer, "--initial-cluster", f"m={peer}",
        )  # fmt: skip
        s3 = self.start(
            "s3", f"{BIN}/kafscale-test-s3", "--addr", f"127.0.0.1:{S3}", "--root", f"{self.directory}/s3",
            "--bucket", "records",
        )  # fmt: skip
        wait_for(f"{client}/health", 20, etcd)
        wait_for(f"http://127.0.0.1:{S3}/_faults", 90, s3)

    def broker(self):
        """A broker, and how long it took to be ready."""
        broker = self.start(
            "broker", f"{BIN}/kafscale-broker", "--broker-id", "1", "--broker-addr", f"127.0.0.1:{KAFKA}",
            "--metrics-addr", f"127.0.0.1:{HTTP}", "--shards", "2", "--segment-ms", str(SEGMENT_MS),
            "--segment-small-ms", str(SMALL_MS),
            "--s3-bucket", "records", "--s3-endpoint", f"http://127.0.0.1:{S3}", "--s3-access-key", "test",
            "--s3-secret-key", "secret", "--etcd-endpoints", f"http://127.0.0.1:{ETCD}",
        )  # fmt: skip
        return broker, wait_for(f"http://127.0.0.1:{HTTP}/readyz", 120, broker)

    def end(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.kill()
            process.wait()


def watch(broker, load, every):
    """What the broker has in memory and in its write-ahead log while a load runs, every so many seconds."""
    began, told = time.monotonic(), 0
    while load.poll() is None:
        time.sleep(0.2)
        if time.monotonic() - began < (told + 1) * every:
            continue
        told += 1
        now = metrics()
        print(
            f"{time.monotonic() - began:6.0f} s: {resident_mib(broker):.0f} MiB, {now['kafscale_wal_live_objects']:.0f} live objects, "
            f"{now['kafscale_wal_live_runs']:.0f} runs, {now['kafscale_object_store_requests_total put']:.0f} puts",
            flush=True,
        )


def words_of(partitions, seconds, rate):
    return [
        f"{BIN}/kafscale-bench", "--bootstrap", f"127.0.0.1:{KAFKA}", "--topic", f"p{partitions}", "--partitions", str(partitions),
        "--rate", str(rate), "--seconds", str(seconds), "--warmup-s", "5", "--producers", "2", "--consumers", "0", "--json",
    ]  # fmt: skip


def bench(partitions, seconds, rate):
    done = subprocess.run(words_of(partitions, seconds, rate), capture_output=True, text=True, timeout=seconds + 120)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def owned(topic):
    """How many partitions have a leader, as kcat sees it."""
    listed = subprocess.run(
        ["kcat", "-b", f"127.0.0.1:{KAFKA}", "-L", "-J", "-t", topic], capture_output=True, text=True, timeout=60, check=True
    )
    return sum(partition["leader"] >= 0 for partition in json.loads(listed.stdout)["topics"][0]["partitions"])


def objects(directory):
    """Objects in the bucket by what they are."""
    found = {}
    for name in os.listdir(f"{directory}/s3/records"):
        with open(f"{directory}/s3/records/{name}", "rb") as file:
            key = json.loads(file.readline())["key"]
        kind = f"{key.split('/')[1]} {'merged' if '/merged-' in key else key.rsplit('.', 1)[-1]}"
        found[kind] = found.get(kind, 0) + 1
    return found


def measure(partitions):
    with tempfile.TemporaryDirectory() as directory:
        parts = Parts(directory)
        try:
            parts.stores()
            broker, ready = parts.broker()
            print(f"== {partitions} partitions; an empty broker is ready after {ready:.2f} s, {resident_mib(broker):.0f} MiB")
            bench(partitions, 5, RATE)  # Creates the topic, and fills every partition.
            before, began = metrics(), time.monotonic()
            load = subprocess.Popen(words_of(partitions, SECONDS, RATE), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            watch(broker, load, 60)
            result = json.loads(load.communicate()[0])
            after, took = metrics(), time.monotonic() - began
            puts = {name: (after[name] - before.get(name, 0)) / took for name in after if name.startswith("kafscale_object_store_requests_total")}
            print(json.dumps(result))
            print(f"requests/s to the store over {took:.0f} s: " + ", ".join(f"{name.split()[-1]} {rate:.2f}" for name, rate in puts.items()))
            print(
                f"live write-ahead objects {after['kafscale_wal_live_objects']:.0f}, "
                f"tail {after['kafscale_tail_memory_bytes'] / 2**20:.0f} MiB, {resident_mib(broker):.0f} MiB resident"
            )
            broker.kill()
            broker.wait()
            broker, ready = parts.broker()
            print(f"killed and started again: ready after {ready:.2f} s, {resident_mib(broker):.0f} MiB")
            print(f"it leads {owned(f'p{partitions}')} of them then")
            print(objects(directory))
        finally:
            parts.end()


for count in [int(word) for word in sys.argv[1:]] or [10, 10_000]:
    measure(count)
