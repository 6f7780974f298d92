"""The records that every client writes, and how they are compared with what comes back."""

import base64
import itertools
import random
import time

PARTITIONS = 4
# With these a topic holds a few thousand records, in several batches for each partition and client.
RECORDS_PER_PARTITION = 600

# Recent, so that no retention applies, yet not the present: a broker that stamps records itself is found out.
FIRST_TIMESTAMP = int(time.time()) * 1000 - 3_600_000

# Each name's values are side by side: KafkaJS keeps headers by name.
HEADER_SETS = [
    [],
    [["trace", b"0af7651916cd43dd"]],
    [["twice", b"1"], ["twice", b"2"], ["empty", b""], ["null", None], ["gr\u00f6\u00dfe", b"\xff\xfe\x01"]],
]


def encode(data):
    return None if data is None else base64.b64encode(data).decode()


def make(seed):
    """A list of records for each partition: {"partition", "timestamp", "key", "value", "headers"}, bytes in base64.

    Records with the same headers, and with null values, are side by side, because kcat needs a run for each such
    stretch.
    """
    chance = random.Random(seed)
    partitions = []
    for partition in range(PARTITIONS):
        records = []
        for headers in HEADER_SETS:
            stretch = RECORDS_PER_PARTITION // len(HEADER_SETS)
            for index in range(stretch):
                is_null = index >= stretch - 10
                key = chance.choice([None, b"", f"key-{chance.randrange(100)}".encode()])
                if is_null:  # Where kcat makes null of empty values, it does so of empty keys too.
                    key = key or chance.choice([None, b"tombstone"])
                records.append(
                    {
                        "partition": partition,
                        # Not in order: a broker or client that sorts or clamps them is found out.
                        "timestamp": FIRST_TIMESTAMP + len(records) * 100 + chance.randrange(1000),
                        "key": encode(key),
                        "value": None if is_null else encode(value(chance, index)),
                        "headers": [[name, encode(data)] for name, data in headers],
                    }
                )
        partitions.append(records)
    return partitions


def value(chance, index):
    if index % 97 == 1:  # Larger than a read buffer, and nothing to compress.
        return printable(chance.randbytes(12_000))
    if index % 10 == 0:
        return b""
    return f"value {index} ".encode() * chance.randrange(1, 20)


def printable(data):
    """Random bytes without kcat's delimiters."""
    return data.translate(bytes(byte if byte >= 0x20 else byte + 0x40 for byte in range(256)))


def interleave(partitions):
    """One list with the partitions in turn, each in its order."""
    return [record for turn in itertools.zip_longest(*partitions) for record in turn if record is not None]


def change(partitions, how):
    """The records with the fields that `how(record)` gives anew."""
    return [[{**record, **how(record)} for record in part] for part in partitions]


def without_empty_records(record):
    """For kcat, which passes over a record with neither key nor value."""
    return {"key": encode(b"a key")} if record["key"] is None and not record["value"] else {}


def without_null_records(record):
    """For kafka-python, which refuses a record whose key and value are both null."""
    return {"key": encode(b"a key")} if record["key"] is None and record["value"] is None else {}


def without_null_headers(record):
    """For KafkaJS and kafka-python, which cannot write a header without a value."""
    return {"headers": [[name, data or ""] for name, data in record["headers"]]}


def without_headers(_):
    """For message formats before headers."""
    return {"headers": []}


def without_timestamps(_):
    """For what cannot set them: whatever is read is right."""
    return {"timestamp": None}


def headers_as_kcat_prints(headers):
    return ",".join(
        name.encode().decode("latin-1") + "=" + ("NULL" if data is None else base64.b64decode(data).decode("latin-1"))
        for name, data in headers
    )


def difference(sent, received, partitions=PARTITIONS):
    """What is wrong with the records received, or None. `sent` has a list for each partition.

    Where a sent record has no timestamp, its client could not set one, and any will do.
    """
    by_partition = {}
    for record in received:
        by_partition.setdefault(record["partition"], []).append(record)
    for partition in range(partitions):
        got = by_partition.pop(partition, [])
        wanted = sent[partition]
        for index, (want, have) in enumerate(zip(wanted, got)):
            if have["offset"] != want.get("offset", index):
                return f"partition {partition}: offset {have['offset']} where {want.get('offset', index)} should be"
            for field in ("timestamp", "key", "value", "headers"):
                expected = want[field]
                if field == "headers" and isinstance(have[field], str):
                    expected = headers_as_kcat_prints(expected)
                if have[field] != expected and not (field == "timestamp" and expected is None):
                    return (
                        f"partition {partition} offset {index}: {field} is {shorten(have[field])}, "
                        f"sent was {shorten(expected)}"
                    )
        if len(got) != len(wanted):
            return f"partition {partition}: {len(got)} records, sent were {len(wanted)}"
    if by_partition:
        return f"records of partitions that nothing was sent to: {sorted(by_partition)}"
    return None


def shorten(value):
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}... ({len(text)} characters)"
