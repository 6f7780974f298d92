"""What the driver sends to a client on standard input, and what it reads back. For clients written in Python."""

import base64
import json
import sys
import threading
import time


def decode(text):
    """Base64 to bytes, null to None."""
    return None if text is None else base64.b64decode(text)


def encode(data):
    """Bytes to base64, None to null."""
    return None if data is None else base64.b64encode(bytes(data)).decode()


def now():
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def changed(event, partitions):
    """Prints what a member was given or has to give up: "assigned" or "revoked", and partition numbers."""
    print(json.dumps({"event": event, "partitions": sorted(partitions)}), flush=True)


def emit(topic, partition, offset, timestamp, key, value, headers, at=None):
    """Prints one record that was read, and when the client handed it over."""
    line = {
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "timestamp": timestamp,
        "key": encode(key),
        "value": encode(value),
        "headers": headers if isinstance(headers, str) else [[name, encode(data)] for name, data in headers or ()],
    }
    if at is not None:
        line["at"] = at
    print(json.dumps(line), flush=True)


def stdin_end():
    """An event that is set once standard input ends: then a member of a group commits and leaves."""
    ended = threading.Event()

    def wait():
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    return ended


def run(produce, consume):
    """Reads the task and gives it to `produce(bootstrap, job)`, once a job, or to `consume(task)`."""
    task = json.loads(sys.stdin.readline())
    if sys.argv[1] == "produce":
        for job in task["jobs"]:
            for record in job["records"]:
                record["key"], record["value"] = decode(record["key"]), decode(record["value"])
                record["headers"] = [(name, decode(data)) for name, data in record["headers"]]
            produce(task["bootstrap"], job)
    else:
        consume(task)
