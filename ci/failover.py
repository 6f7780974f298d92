#!/usr/bin/env python3
"""How long do clients with their defaults wait when a broker is killed, and when brokers are restarted one by one?

ci/failover.py, from the top of the repository, after `make compat` has installed its clients. It starts `make cluster` with a
lease of LEASE_MS (3000), and puts Java's kafka-producer-perf-test and kafka-console-consumer and a librdkafka producer and
consumer on it, all with their defaults. A consumer's pause is the longest time that it got nothing from one partition, to
which records are sent all the time. Prints what each saw; asserts nothing.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

LEASE_MS = int(os.environ.get("LEASE_MS", "3000"))
CACHE = ".cache/compat"
BOOTSTRAP = "127.0.0.1:9092,127.0.0.1:9192,127.0.0.1:9292"
RATE = 500
BROKERS = 3
PARTITIONS = 12

CLIENT = r"""
import json, sys, threading, time
from confluent_kafka import Consumer, Producer
bootstrap, topic, seconds, rate, partitions = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
latencies, failed = [], []
def delivered(sent):
    def done(error, message):
        (failed if error else latencies).append(str(error) if error else time.monotonic() - sent)
    return done
producer = Producer({"bootstrap.servers": bootstrap})
gaps, stop = [], threading.Event()
def consume():
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    last = {}
    while not stop.is_set():
        message = consumer.poll(0.05)
        if message is None or message.error():
            continue
        now = time.monotonic()
        partition = message.partition()
        if partition in last:
            gaps.append(now - last[partition])
        last[partition] = now
    consumer.close()
thread = threading.Thread(target=consume)
thread.start()
began = time.monotonic()
sent = 0
while time.monotonic() - began < seconds:
    while sent < (time.monotonic() - began) * rate:
        producer.produce(topic, b"x" * 100, partition=sent % partitions, callback=delivered(time.monotonic()))
        sent += 1
    producer.poll(0.005)
producer.flush(60)
stop.set()
thread.join()
latencies.sort()
at = lambda part: latencies[min(len(latencies) - 1, int(len(latencies) * part))] * 1000
print(json.dumps({"sent": sent, "acknowledged": len(latencies), "failed": len(failed), "p50_ms": round(at(0.5), 1),
                  "p99_ms": round(at(0.99), 1), "max_ms": round(latencies[-1] * 1000, 1),
                  "longest_consumer_pause_ms": round(max(gaps) * 1000, 1)}))
"""


def start_cluster(directory):
    environment = {**os.environ, "CLUSTER_DIR": directory, "FLAGS": f"--broker-lease-ttl-ms {LEASE_MS}", "ETCD_MEMBERS": "3"}
    cluster = subprocess.Popen(["ci/cluster.sh"], env=environment, stdout=subprocess.PIPE, text=True)
    for line in cluster.stdout:
        if "cluster is up" in line:
            return cluster
    sys.exit("the cluster did not start")


def pid_of(directory, broker):
    with open(f"{directory}/broker-{broker}.pid") as file:
        return int(file.read())


def restart(directory, broker, by):
    """Ends a broker and starts it again with the arguments that it had."""
    pid = pid_of(directory, broker)
    with open(f"/proc/{pid}/cmdline") as file:
        arguments = file.read().split("\0")[:-1]
    log = f"{directory}/broker-{broker}.log"
    os.kill(pid, by)
    while os.path.exists(f"/proc/{pid}") and open(f"/proc/{pid}/stat").read().split()[2] != "Z":
        time.sleep(0.01)
    if by == signal.SIGKILL:
        # Whoever takes over does so while this one is away.
        time.sleep(2 * LEASE_MS / 1000 + 2)
    before = os.path.getsize(log)
    with open(log, "a") as out:
        process = subprocess.Popen(arguments, stdout=out, stderr=out)
    with open(f"{directory}/broker-{broker}.pid", "w") as file:
        file.write(str(process.pid))
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with open(log) as file:
            file.seek(before)
            if "broker listening on" in file.read():
                return process
        time.sleep(0.02)
    sys.exit(f"broker {broker} does not serve again")


def java(tool, *arguments):
    classes = {
        "topics": "org.apache.kafka.tools.TopicCommand",
        "perf": "org.apache.kafka.tools.ProducerPerformance",
        "consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    }
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
    return ["java", quiet, "-cp", f"{CACHE}/java/kafka/*", classes[tool], "--bootstrap-server", BOOTSTRAP, *arguments]


def longest_pause(lines, pauses):
    """The longest time, in seconds, between two records of one partition, as kafka-console-consumer prints them."""
    last = {}
    for line in lines:
        partition, now = line.split("\t", 1)[0], time.monotonic()
        if partition in last:
            pauses.append(now - last[partition])
        last[partition] = now


def measure(directory, name, topic, seconds, act, started):
    subprocess.run(java("topics", "--create", "--topic", topic, "--partitions", str(PARTITIONS)), check=True, capture_output=True)
    perf = ["--topic", topic, "--num-records", str(int(RATE * seconds)), "--record-size", "100", "--throughput", str(RATE)]
    python = subprocess.Popen(
        [f"{CACHE}/confluent/bin/python", "-c", CLIENT, BOOTSTRAP, topic, str(seconds), str(RATE), str(PARTITIONS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # librdkafka tells of each connection that it loses, as it should.
        text=True,
    )
    printing = ["--topic", topic, "--from-beginning", "--formatter-property", "print.partition=true"]
    consumer = subprocess.Popen(
        java("consumer", *printing), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    pauses: list[float] = []
    reader = threading.Thread(target=longest_pause, args=(consumer.stdout, pauses))
    reader.start()
    producer = subprocess.Popen(java("perf", *perf), stdout=subprocess.PIPE, text=True)
    time.sleep(6)
    act(directory, started)
    last = producer.communicate(timeout=seconds + 90)[0].strip().splitlines()[-1]
    librdkafka = json.loads(python.communicate(timeout=seconds + 90)[0])
    consumer.terminate()
    consumer.wait()
    reader.join()
    print(f"{name}: Java producer: {last}")
    print(f"{name}: Java consumer: {len(pauses)} records, longest pause of a partition {max(pauses) * 1000:.0f} ms")
    print(f"{name}: librdkafka: {librdkafka}", flush=True)


def kill_one(directory, started):
    started.append(restart(directory, 2, signal.SIGKILL))


def roll_all(directory, started):
    for broker in range(1, BROKERS + 1):
        started.append(restart(directory, broker, signal.SIGTERM))
        time.sleep(2)


def main():
    started = []
    with tempfile.TemporaryDirectory() as directory:
        cluster = start_cluster(directory)
        try:
            print(f"lease {LEASE_MS} ms, {RATE} records/s of 100 bytes from each producer, {PARTITIONS} partitions, {BROKERS} brokers")
            measure(directory, "nothing happens", "calm", 15, lambda *_: None, started)
            measure(directory, "SIGKILL of one", "killed", 25 + 2 * LEASE_MS / 1000, kill_one, started)
            measure(directory, "rolling restart by SIGTERM", "rolled", 40, roll_all, started)
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait()
            cluster.terminate()
            cluster.wait()


if __name__ == "__main__":
    main()
