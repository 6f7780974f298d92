#!/usr/bin/env python3
"""Reads segments (.kfs, .index, .kfst) by docs/storage.md alone, and says what does not agree with it.

    segment_reader.py FILE.kfs...

Its neighbours with the endings .index and .kfst are read with it. It shares no code with the broker and needs nothing but
Python, so it is a second opinion on what the broker writes. Ends with 0 if all agrees, with 1 otherwise.
"""

import json
import struct
import sys
from pathlib import Path


def make_table():
    """CRC-32C (Castagnoli), reflected."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = make_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class Wrong(Exception):
    """What the bytes say is not what the description says."""


def expect(condition, why):
    if not condition:
        raise Wrong(why)


def read_batches(body):
    """Kafka's record batches of version 2: (base offset, last offset, position in the body, records, timestamps)."""
    at, batches = 0, []
    while at < len(body):
        expect(len(body) - at >= 61, f"a batch header is cut off at {at}")
        base, length, _epoch, magic, crc = struct.unpack_from(">qiibI", body, at)
        end = at + 12 + length
        expect(magic == 2, f"magic {magic} at {at}")
        expect(length >= 49 and end <= len(body), f"a batch of {length} bytes at {at}")
        expect(crc32c(body[at + 21:end]) == crc, f"CRC-32C of the batch at {at}")
        _attributes, delta, first, largest = struct.unpack_from(">hiqq", body, at + 21)
        (records,) = struct.unpack_from(">i", body, at + 57)
        batches.append((base, base + delta, at, records, first, largest))
        at = end
    return batches


def read_segment(kfs_path):
    kfs = kfs_path.read_bytes()
    expect(len(kfs) >= 48, "too short")
    magic, version, flags, base, records, created, reserved = struct.unpack(">4sHHqiqI", kfs[:32])
    expect((magic, version, flags, reserved) == (b"KAFS", 1, 0, 0), "header")
    crc, last, end = struct.unpack(">Iq4s", kfs[-16:])
    expect(end == b"END!", "footer")
    body = kfs[32:-16]
    expect(crc32c(body) == crc, "CRC-32C of the body")
    batches = read_batches(body)
    expect(batches, "no batches")
    expect(batches[0][0] == base, "base offset")
    expect(batches[-1][1] == last, "last offset")
    expect(sum(batch[3] for batch in batches) == records, "record count")
    for before, after in zip(batches, batches[1:]):
        expect(before[1] + 1 == after[0], f"offset {after[0]} follows {before[1]}")
    expect(kfs_path.name == f"segment-{base:020}.kfs", "name")

    index = kfs_path.with_suffix(".index").read_bytes()
    magic, version, count, interval, reserved = struct.unpack(">4sHiiH", index[:16])
    expect((magic, version, reserved) == (b"IDX\0", 1, 0) and interval > 0, "index header")
    expect(len(index) == 16 + 12 * count and count > 0, "index length")
    entries = [struct.unpack_from(">qi", index, 16 + 12 * at) for at in range(count)]
    expect(entries[0] == (base, 32), "the first index entry")
    expect(entries == sorted(entries), "order of the index")
    places = {(batch[0], batch[2] + 32) for batch in batches}
    expect(all(entry in places for entry in entries), "an index entry where no batch begins")

    times_path = kfs_path.with_suffix(".kfst")
    if times_path.exists():
        magic, version, smallest, largest, first, final = struct.unpack(">4sIqqqq", times_path.read_bytes())
        expect((magic, version) == (b"KFTF", 1), "times header")
        expect((first, final) == (base, last), "offsets of the times")
        expect(smallest == min(batch[4] for batch in batches), "smallest timestamp")
        expect(largest == max(batch[5] for batch in batches), "largest timestamp")
    return {"base_offset": base, "last_offset": last, "records": records, "batches": len(batches),
            "index_entries": count, "created_ms": created, "bytes": len(kfs)}


def main(paths):
    failed = not paths
    for path in map(Path, paths):
        try:
            print(json.dumps({"file": path.name, **read_segment(path)}))
        except (Wrong, OSError, struct.error) as error:
            print(json.dumps({"file": path.name, "wrong": str(error)}))
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
