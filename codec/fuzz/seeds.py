#!/usr/bin/env python3
"""Gives the fuzz targets the golden frames (tests/golden) to start from: codec/fuzz/seeds.py. Run by ci/fuzz.sh.

Where a body begins, and where record batches lie, is guessed: a wrong guess is one more seed.
"""

import hashlib
import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent
BATCH_HEADER, MESSAGE_HEADER, LENGTH_PREFIX = 61, 26, 12


def keep(target, seed):
    directory = HERE / "corpus" / target
    directory.mkdir(parents=True, exist_ok=True)
    (directory / hashlib.sha1(seed).hexdigest()).write_bytes(seed)


def frames():
    """(API, version, side, frame); a response's API is the one of the request in the same file."""
    for path in sorted((HERE.parent / "tests" / "golden").glob("*.txt")):
        lines = [line.split() for line in path.read_text().splitlines()]
        request = next(bytes.fromhex(line[3]) for line in lines if line[1] == "request")
        (api,) = struct.unpack_from(">h", request)
        for version, side, _, text in lines:
            yield api, int(version), side, bytes.fromhex(text)


def bodies(side, frame):
    """With and without the tags that end a flexible header."""
    start = 4
    if side == "request":
        (client_id,) = struct.unpack_from(">h", frame, 8)
        start = 10 + max(client_id, 0)
    return frame[start:], frame[start + 1 :]


def batches(frame):
    for at in range(len(frame) - BATCH_HEADER):
        (length,) = struct.unpack_from(">i", frame, at + 8)
        if frame[at + 16] == 2 and BATCH_HEADER - LENGTH_PREFIX <= length <= len(frame) - at - LENGTH_PREFIX:
            yield frame[at : at + LENGTH_PREFIX + length]


def message_sets(frame):
    for at in range(4, len(frame) - MESSAGE_HEADER):
        (length,) = struct.unpack_from(">i", frame, at - 4)
        if frame[at + 16] in (0, 1) and MESSAGE_HEADER <= length <= len(frame) - at:
            yield frame[at : at + length]


for api, version, side, frame in frames():
    for body in bodies(side, frame):
        keep("frames", bytes([api, version]) + body)
    if side == "request":
        keep("frames", b"\xff" + struct.pack(">i", len(frame)) + frame)
    for batch in batches(frame):
        keep("record_batches", batch)
    if api == 0 and side == "request" and version < 3:
        for message_set in message_sets(frame):
            keep("message_sets", message_set)
