#!/usr/bin/env python3
"""Captures what real clients and Apache Kafka say to each other: codec/tests/golden/capture/capture.py [KAFSCALE_BROKER].

A tap stands between the clients of the compatibility suite and one node of Apache Kafka. In a first round every client
writes, reads and reads in a group. In the rounds after it the tap takes one version after the other off what Kafka says
it serves, so that Java's clients speak the older ones too. With the path of a broker of ours, the oldest clients also
talk to it, for the versions that Apache Kafka 4 has dropped: of that only the requests are kept.

The fixtures beside this directory are written anew. README.md says what is in them.
"""

import base64
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(os.path.join(HERE, "../../../.."))
sys.path.insert(0, os.path.join(ROOT, "ci/compat"))
sys.dont_write_bytecode = True
os.chdir(ROOT)

from driver import records  # noqa: E402
from driver.clients import CACHE, CLIENTS, Failed, wait_until  # noqa: E402

from tap import Tap  # noqa: E402

PARTITIONS = 2
RECORDS_PER_PARTITION = 2
GROUP_SECONDS = 30
# With more taken off, Java's clients find versions of Metadata that they do not know.
ROUNDS = 10
RUN_SECONDS = 60
START_SECONDS = 60


def encode(data):
    return base64.b64encode(data).decode()


def few_records():
    """What every client can send. The values are worth compressing, or some clients do not."""
    return [
        [
            {
                "partition": partition,
                "timestamp": 1_700_000_000_000 + 1000 * partition + index,
                "key": encode(b"key" if index else b""),
                "value": encode(f"value {index} of partition {partition}".encode() + b" again" * 20),
                "headers": [["trace", encode(b"0af7")]] if index else [],
            }
            for index in range(RECORDS_PER_PARTITION)
        ]
        for partition in range(PARTITIONS)
    ]


def attempt(what, action):
    """A client may refuse to go on with so old a broker; what it has said until then counts."""
    try:
        action()
        print(f"done     {what}", flush=True)
    except Failed as error:
        print(f"ended    {what}: {str(error).splitlines()[-1]}", flush=True)


def write(tap, client, topic, compression, variant=None):
    tap.speaker = " ".join(part for part in (client.name, compression, variant) if part)
    attempt(f"{tap.speaker}: writes", lambda: client.write(tap.bootstrap, topic, compression, few_records(), variant))


def read(tap, client, topic, group):
    tap.speaker = client.name
    if not client.groups_only:
        attempt(f"{client.name}: reads", lambda: client.read(tap.bootstrap, [topic]))
    attempt(f"{client.name}: reads in a group", lambda: read_in_group(tap, client, topic, group))


def read_in_group(tap, client, topic, group):
    member = client.join(tap.bootstrap, group, [topic])
    try:
        everything = PARTITIONS * RECORDS_PER_PARTITION
        wait_until([member], lambda: len(member.records) >= everything, GROUP_SECONDS, "everything is read")
        member.leave()
    finally:
        member.kill()


def run(tap, speaker, command):
    tap.speaker = speaker
    try:
        done = subprocess.run(
            [*command, tap.bootstrap], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=RUN_SECONDS
        )
        print(f"done     {speaker}, status {done.returncode}\n{done.stdout.decode(errors='replace')}", flush=True)
    except subprocess.TimeoutExpired:
        print(f"ended    {speaker}: took longer than {RUN_SECONDS} s", flush=True)


def administer(tap, classes):
    path = f"{classes}:{CACHE}/java/kafka/*"
    options = ["-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"]
    run(tap, "java-4 admin", ["java", *options, "-cp", path, "Administer"])
    run(tap, "confluent admin", [f"{CACHE}/confluent/bin/python", f"{HERE}/administer.py"])


def of_kafka(tap):
    with tempfile.TemporaryDirectory() as directory:
        properties = os.path.join(directory, "kafka.properties")
        with open(properties, "w", encoding="utf-8") as file:
            file.write(f"num.partitions={PARTITIONS}\nadvertised.listeners=PLAINTEXT://{tap.bootstrap}\n")
        subprocess.run(
            ["javac", "-d", directory, "-cp", f"{CACHE}/java/kafka/*", f"{HERE}/Administer.java"], check=True
        )
        server = start(["ci/compat/kafka.sh"], {"KAFKA_PROPERTIES": properties})
        try:
            tap.upstream = listening(server)
            for client in CLIENTS:
                for compression in client.compressions:
                    write(tap, client, client.name, compression)
                for variant in client.variants:
                    if variant not in ("magic0", "magic1"):  # Apache Kafka 4 takes neither.
                        write(tap, client, client.name, "gzip", variant)
                read(tap, client, client.name, f"of-{client.name}")
            for tap.lowered in range(ROUNDS):
                if tap.lowered > 0:
                    write(tap, CLIENTS[0], f"round-{tap.lowered}", "none")
                    read(tap, CLIENTS[0], f"round-{tap.lowered}", f"round-{tap.lowered}")
                administer(tap, directory)
        finally:
            stop(server)


def of_kafscale(tap, binary):
    with tempfile.TemporaryDirectory() as directory:
        command = [binary, "--broker-addr", "127.0.0.1:0", "--broker-port", str(tap.port)]
        command += ["--metrics-addr", "127.0.0.1:0", "--data-dir", directory, "--auto-create-partitions", str(PARTITIONS)]
        server = start(command, {})
        try:
            tap.upstream = listening(server)
            tap.lowered = 0
            tap.keep_responses = False
            for client in CLIENTS:
                for variant in {"magic0", "magic1"} & set(client.variants):
                    for compression in ("none", "gzip", "snappy", "lz4"):
                        write(tap, client, f"{client.name}-{compression}-{variant}", compression, variant)
        finally:
            stop(server)


def start(command, environment):
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def listening(server):
    """The port that it says it listens on."""
    deadline = time.monotonic() + START_SECONDS
    for line in server.stdout:
        if b"broker listening on " in line:
            return int(line.split(b"broker listening on ", 1)[1].split()[0].rsplit(b":", 1)[1])
        if time.monotonic() > deadline:
            break
    raise RuntimeError("the broker did not start")


def stop(server):
    server.terminate()
    try:
        server.wait(30)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


records.PARTITIONS = PARTITIONS
tap = Tap()
of_kafka(tap)
if len(sys.argv) > 1:
    of_kafscale(tap, os.path.abspath(sys.argv[1]))
tap.save(os.path.join(HERE, ".."))
