"""Kafka Streams and Kafka Connect, as their users run them."""

import collections
import contextlib
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

from .broker import free_port
from .clients import CACHE, Failed
from .tools import Tools

NAMES = ("streams", "connect")
PARTITIONS = 3
WAIT_SECONDS = 90
WORDS = "durable pipes carry every record once and in order from producers to consumers".split()
LINES = [" ".join(WORDS[at % 5 :: 1 + at % 3]) for at in range(300)]


def all_cases(suite):
    """(name, title, function)"""
    return [
        ("streams", "word count: exact, restored from its changelog, complete after SIGKILL", lambda: word_count(suite)),
        ("connect", "distributed: file to topic to file, a worker killed", lambda: file_streams(suite)),
    ]


class Process:
    """A Java program; its output goes to a file, and its lines to whoever waits for one."""

    def __init__(self, directory, name, command):
        self.log_path = os.path.join(directory, f"{name}.log")
        self.lines = queue.Queue()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        threading.Thread(target=self._keep, daemon=True).start()

    def _keep(self):
        with open(self.log_path, "wb") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                self.lines.put(line.decode(errors="replace").strip())

    def wait_for(self, wanted):
        until = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(queue.Empty):
                if self.lines.get(timeout=1) == wanted:
                    return
        raise Failed(f"it does not say '{wanted}'\n{self.tail()}")

    def tail(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-25:])

    def end(self):
        """By the end of its input."""
        self.process.stdin.close()
        if self.process.wait(WAIT_SECONDS) != 0:
            raise Failed(f"it ended with {self.process.returncode}\n{self.tail()}")

    def kill(self):
        self.process.kill()
        self.process.wait()


def java(jars, *arguments):
    return ["java", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", jars, *arguments]


def wait_until(condition, what):
    """`condition` gives nothing once it holds, else what is missing."""
    until = time.monotonic() + WAIT_SECONDS
    while (missing := condition()) is not None:
        if time.monotonic() > until:
            raise Failed(f"{what}: {missing}")
        time.sleep(0.5)


def word_count(suite):
    tools = Tools(suite, "4")
    app = "word-count"
    for topic in ("lines", "upper", "counts"):
        tools.run("kafka-topics", "--create", "--topic", f"{app}-{topic}", "--partitions", str(PARTITIONS))

    def write():
        tools.run("kafka-console-producer", "--topic", f"{app}-lines", stdin="\n".join(LINES).encode())

    def read(topic, *options):
        arguments = ["--topic", topic, "--from-beginning", "--timeout-ms", "4000"]
        return tools.run("kafka-console-consumer", *arguments, *options).splitlines()

    def counts():
        long = "org.apache.kafka.common.serialization.LongDeserializer"
        options = ["--formatter-property", "print.key=true", "--formatter-property", f"value.deserializer={long}"]
        return {word: int(count) for word, count in (line.split("\t") for line in read(f"{app}-counts", *options))}

    def times(rounds):
        words = collections.Counter(word for line in LINES for word in line.split())
        return {word: rounds * count for word, count in words.items()}

    def expect_counts(rounds):
        def differs():
            found = counts()
            return None if found == times(rounds) else f"{found} instead of {times(rounds)}"

        wait_until(differs, f"counts of {rounds} rounds")

    with tempfile.TemporaryDirectory(prefix="kafscale-streams-") as directory:
        state = os.path.join(directory, "state")
        running = []

        def start():
            jars = f"{CACHE}/streams:{CACHE}/java/streams/*"
            command = java(jars, "WordCount", suite.bootstrap, app, state)
            running.append(Process(directory, f"{app}-{len(running)}", command))
            running[-1].wait_for("running")
            return running[-1]

        try:
            first = start()
            write()
            expect_counts(1)
            first.end()
            shutil.rmtree(state)
            second = start()
            write()
            expect_counts(2)
            write()
            second.kill()
            start()

            def lacks():
                # At least once: what was not committed is counted again.
                found = counts()
                short = {word: count for word, count in times(3).items() if found.get(word, 0) < count}
                return f"{found} lacks some of {short}" if short else None

            wait_until(lacks, "counts after SIGKILL")
            upper = collections.Counter(read(f"{app}-upper"))
            missing = collections.Counter({line.upper(): 3 * count for line, count in collections.Counter(LINES).items()})
            missing -= upper
            if missing:
                raise Failed(f"{sum(missing.values())} lines are missing: {list(missing)[:3]}")
            running[-1].end()
        finally:
            for process in running:
                process.kill()


class Worker(Process):
    """A worker of Connect in distributed mode."""

    def __init__(self, suite, directory, number):
        self.url = f"http://127.0.0.1:{free_port()}"
        settings = {
            "bootstrap.servers": suite.bootstrap,
            "group.id": "connect-cluster",
            "listeners": self.url,
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.storage.StringConverter",
            "offset.flush.interval.ms": 1000,
            "scheduled.rebalance.max.delay.ms": 1000,
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 2000,
        }
        for kind in ("config", "offset", "status"):
            settings[f"{kind}.storage.topic"] = f"connect-{kind}s"
            settings[f"{kind}.storage.replication.factor"] = 1
        path = os.path.join(directory, f"worker-{number}.properties")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in settings.items())
        main = "org.apache.kafka.connect.cli.ConnectDistributed"
        super().__init__(directory, f"worker-{number}", java(f"{CACHE}/java/connect/*", main, path))

    def ask(self, path, body=None):
        """Tries again while workers agree on who does what."""
        request = urllib.request.Request(self.url + path, headers={"Content-Type": "application/json"})
        if body is not None:
            request.data = json.dumps(body).encode()
        until = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return json.load(answer)
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                if time.monotonic() > until or self.process.poll() is not None:
                    said = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
                    raise Failed(f"{path}: {error} {said}\n{self.tail()}") from None
                time.sleep(0.5)


def file_streams(suite):
    with tempfile.TemporaryDirectory(prefix="kafscale-connect-") as directory:
        source, sink = os.path.join(directory, "source"), os.path.join(directory, "sink")
        workers = []

        def append(first, count):
            with open(source, "a", encoding="utf-8") as file:
                file.writelines(f"line {number}\n" for number in range(first, first + count))

        def expect_lines(count, exactly):
            wanted = [f"line {number}" for number in range(count)]

            def differs():
                if not os.path.exists(sink):
                    return "there is no file"
                with open(sink, encoding="utf-8") as file:
                    found = file.read().splitlines()
                if exactly:
                    return None if found == wanted else f"{len(found)} lines instead of {count}"
                missing = set(wanted) - set(found)
                return f"{len(missing)} of {count} lines are missing" if missing else None

            wait_until(differs, f"lines of the sink\n{workers[-1].tail()}")

        try:
            workers.append(Worker(suite, directory, 0))
            append(0, 500)
            name = "org.apache.kafka.connect.file.FileStream"
            topic = "connect-lines"
            for kind, config in (
                ("source", {"file": source, "topic": topic}),
                ("sink", {"file": sink, "topics": topic}),
            ):
                config |= {"connector.class": f"{name}{kind.capitalize()}Connector", "tasks.max": "1"}
                workers[0].ask("/connectors", {"name": kind, "config": config})
            expect_lines(500, exactly=True)
            workers.append(Worker(suite, directory, 1))
            workers[1].ask("/connectors")
            append(500, 500)
            workers[0].kill()
            append(1000, 500)
            expect_lines(1500, exactly=False)
            states = [workers[1].ask(f"/connectors/{kind}/status") for kind in ("source", "sink")]
            if any(task["state"] != "RUNNING" for state in states for task in state["tasks"]):
                raise Failed(f"tasks do not run: {states}")
        finally:
            for worker in workers:
                worker.kill()
