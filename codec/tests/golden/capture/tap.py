"""A proxy that keeps the frames that pass through it, and can make a broker look older than it is."""

import os
import socket
import struct
import threading

API_VERSIONS = 18

# Name, and last version that the codec declares.
APIS = {
    0: ("Produce", 13),
    1: ("Fetch", 17),
    2: ("ListOffsets", 10),
    3: ("Metadata", 13),
    8: ("OffsetCommit", 9),
    9: ("OffsetFetch", 9),
    10: ("FindCoordinator", 6),
    11: ("JoinGroup", 9),
    12: ("Heartbeat", 4),
    13: ("LeaveGroup", 5),
    14: ("SyncGroup", 5),
    15: ("DescribeGroups", 6),
    16: ("ListGroups", 5),
    18: ("ApiVersions", 4),
    19: ("CreateTopics", 7),
    20: ("DeleteTopics", 6),
    21: ("DeleteRecords", 2),
    22: ("InitProducerId", 5),
    23: ("OffsetForLeaderEpoch", 4),
    32: ("DescribeConfigs", 4),
    33: ("AlterConfigs", 2),
    35: ("DescribeLogDirs", 4),
    37: ("CreatePartitions", 3),
    42: ("DeleteGroups", 2),
    44: ("IncrementalAlterConfigs", 1),
    47: ("OffsetDelete", 0),
    48: ("DescribeClientQuotas", 1),
    60: ("DescribeCluster", 2),
    61: ("DescribeProducers", 0),
    66: ("ListTransactions", 2),
    68: ("ConsumerGroupHeartbeat", 1),
    69: ("ConsumerGroupDescribe", 1),
    75: ("DescribeTopicPartitions", 0),
}
PRODUCE = 0
FRAME_BYTES_MAX = 900
# Of each version: so many requests, each of another client, and so many responses (all are Apache Kafka's).
REQUESTS, RESPONSES = 3, 1


class Tap:
    """Listens on a port of its own and passes everything on to `upstream`.

    `speaker` names whoever connects next; `lowered` is how many versions are taken off what the broker says it serves.
    """

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.upstream = None
        self.speaker = None
        self.lowered = 0
        self.keep_responses = True
        # (API, version, "request" or "response") to speaker to a frame.
        self.frames = {}
        self.lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            client, _ = self.listener.accept()
            try:
                broker = socket.create_connection(("127.0.0.1", self.upstream), 5)
            except OSError:
                client.close()
                continue
            broker.settimeout(None)
            asked = {}
            for source, sink, seen in (
                (client, broker, self._request(asked, self.speaker)),
                (broker, client, self._response(asked, self.speaker)),
            ):
                threading.Thread(target=pass_on, args=(source, sink, seen), daemon=True).start()

    def _request(self, asked, speaker):
        def seen(frame):
            api, version, correlation_id = struct.unpack_from(">hhi", frame)
            asked[correlation_id] = (api, version)
            self._keep(api, version, "request", speaker, frame)
            return frame

        return seen

    def _response(self, asked, speaker):
        def seen(frame):
            (correlation_id,) = struct.unpack_from(">i", frame)
            api, version = asked.pop(correlation_id)
            (error,) = struct.unpack_from(">h", frame, 4) if api == API_VERSIONS else (0,)
            if error != 0:
                version = 0
            if self.keep_responses:
                self._keep(api, version, "response", speaker, frame)
            return self._older(frame, version) if api == API_VERSIONS else frame

        return seen

    def _keep(self, api, version, side, speaker, frame):
        if api not in APIS or version > APIS[api][1]:
            return
        with self.lock:
            of_version = self.frames.setdefault((api, version, side), {})
            if says_more(frame) > says_more(of_version.get(speaker)):
                of_version[speaker] = frame

    def _older(self, frame, version):
        """The ApiVersions response, with last versions that the codec declares less `lowered`."""
        frame = bytearray(frame)
        if version >= 3:  # A compact array with tags after each element.
            count, at = unsigned_varint(frame, 6)
            count, size = count - 1, 7
        else:
            (count,), at, size = struct.unpack_from(">i", frame, 6), 10, 6
        for index in range(count):
            api, first, last = struct.unpack_from(">hhh", frame, at + size * index)
            if api in APIS:
                last = max(first, min(last, APIS[api][1]) - self.lowered)
                struct.pack_into(">h", frame, at + size * index + 4, last)
        return bytes(frame)

    def save(self, directory):
        """A file for each API: `version side speaker hex`, in order."""
        lines = {}
        for (api, version, side), speakers in sorted(self.frames.items()):
            chosen = sorted(speakers.items(), key=lambda item: (says_more(item[1]), item[0]), reverse=True)
            # Of Produce, every client's records in every compression.
            if api != PRODUCE or side == "response":
                chosen = different_clients(chosen)[: REQUESTS if side == "request" else RESPONSES]
            for speaker, frame in sorted(chosen):
                lines.setdefault(api, []).append(f"{version} {side} {speaker.replace(' ', '/')} {frame.hex()}\n")
        for api, of_api in lines.items():
            with open(os.path.join(directory, f"{APIS[api][0]}.txt"), "w", encoding="ascii") as file:
                file.writelines(of_api)
        print("no frame of", [name for api, (name, _) in APIS.items() if api not in lines])


def says_more(frame):
    """Orders frames: none, too large (the smaller the better), small enough (the larger the better)."""
    if frame is None:
        return (0, 0)
    return (1, -len(frame)) if len(frame) > FRAME_BYTES_MAX else (2, len(frame))


def different_clients(chosen):
    """The first of each client, whatever it was doing."""
    first = {}
    for speaker, frame in chosen:
        first.setdefault(speaker.split()[0], (speaker, frame))
    return list(first.values())


def unsigned_varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def pass_on(source, sink, seen):
    try:
        while (size := read_exactly(source, 4)) is not None:
            frame = read_exactly(source, struct.unpack(">i", size)[0])
            if frame is None:
                break
            frame = seen(frame)
            sink.sendall(struct.pack(">i", len(frame)) + frame)
    except OSError:
        pass  # One of the two has hung up.
    finally:
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # It is closed already.


def read_exactly(connection, length):
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            return None
        data += part
    return data
