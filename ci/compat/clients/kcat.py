"""kcat (librdkafka as Debian ships it) for the suite. See README.md for what goes in and out.

kcat sets partition, headers and whether an empty value is null once per run, so records that share them are sent
together. It cannot set timestamps, and it prints headers as text, so that is what it is compared by.
"""

import io
import itertools
import subprocess
import threading

import task

KEY_END, RECORD_END = b"\x1f", b"\x1e"
HEADERS_END = b"\x1d\x1e"
FORMAT = r"%t %p %o %T %K %S %h\x1d\x1e%k%s\n"


def kcat(arguments, stdin=b""):
    return subprocess.run(["kcat", *arguments], input=stdin, stdout=subprocess.PIPE, check=True).stdout


def produce(bootstrap, job):
    def together(record):
        return record["partition"], record["headers"], record["value"] is None

    for (partition, headers, is_null), records in itertools.groupby(job["records"], key=together):
        arguments = ["-P", "-b", bootstrap, "-t", job["topic"], "-p", str(partition), "-z", job["compression"]]
        arguments += ["-K", r"\x1f", "-D", r"\x1e"]
        if job.get("variant") == "idempotent":
            arguments += ["-X", "enable.idempotence=true"]
        if is_null:
            arguments.append("-Z")
        for name, value in headers:
            # A name alone has a null value.
            arguments += ["-H", name.encode() if value is None else name.encode() + b"=" + value]
        lines = []
        for record in records:
            key = b"" if record["key"] is None else record["key"] + KEY_END
            lines.append(key + (record["value"] or b""))
        # No delimiter after the last record: it would be an empty record of its own.
        kcat(arguments, RECORD_END.join(lines))


def consume(job):
    topics = [topic["topic"] for topic in job["topics"]]
    common = ["-b", job["bootstrap"], "-q", "-u", "-f", FORMAT]
    if job.get("group"):
        arguments = ["-G", job["group"], "-X", "auto.offset.reset=earliest", *topics]
        with subprocess.Popen(["kcat", *common, *arguments], stdout=subprocess.PIPE) as reader:
            ended = task.stdin_end()
            # SIGTERM makes kcat commit what it printed and leave the group.
            threading.Thread(target=lambda: ended.wait() and reader.terminate(), daemon=True).start()
            show(reader.stdout)
        if reader.returncode != 0:
            raise RuntimeError(f"kcat ended with {reader.returncode}")
        return
    for topic in topics:
        show(io.BytesIO(kcat([*common, "-C", "-o", "beginning", "-e", "-t", topic])))


def show(output):
    """Prints the records in kcat's output, each as soon as it is whole."""
    while head := read_until(output, HEADERS_END):
        topic, partition, offset, timestamp, key_length, value_length, headers = head.split(b" ", 6)
        key = take(output, int(key_length))
        value = take(output, int(value_length))
        if output.read(1) != b"\n":
            raise RuntimeError(f"no end of line after {head}")
        task.emit(topic.decode(), int(partition), int(offset), int(timestamp), key, value, headers.decode("latin-1"))


def read_until(output, end):
    data = b""
    while not data.endswith(end):
        byte = output.read(1)
        if not byte:
            if data:
                raise RuntimeError(f"kcat ended within a record: {data}")
            return b""
        data += byte
    return data[: -len(end)]


def take(output, length):
    return None if length < 0 else output.read(length)


task.run(produce, consume)
