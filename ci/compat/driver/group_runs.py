"""Groups whose members join, leave, are killed with SIGKILL and come back, while records keep coming."""

import base64
import collections
import os
import random
import threading
import time

from .broker import Broker, CommittedOffsets
from .clients import Failed

WRITER = "franz-go"
# kcat is librdkafka, as confluent is, and the old kafka-python knows older versions of the same requests.
LEFT_OUT = ("kcat", "kafka-python-2.0")
PARTITIONS = 12
RECORDS_PER_ROUND = 40
# Of a member that was killed: so long its partitions rest.
SESSION_MS = 8_000
# The consumer protocol's heartbeats come every 5 s.
CONSUMER_SESSION_MS = 12_000
MEMBERS_AT_FIRST = 3
# Nothing read for so long while records keep coming: the group is stuck. A rebalance waits for the session of a member
# that was killed, and the next one may too.
STUCK_SECONDS = 60
# From the end of the load until all records have been read.
END_SECONDS = 120
ASK_SECONDS = 0.2
EVENT_SECONDS = (0.3, 4.0)


class Load:
    """Writes a round of records to every partition, again and again, until `stop`."""

    def __init__(self, client, bootstrap, topic):
        self.client, self.bootstrap, self.topic = client, bootstrap, topic
        self.written = 0  # Records of each partition.
        self.error = None
        self._write()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _write(self):
        now = time.time_ns() // 1_000_000
        partitions = [
            [
                {
                    "partition": partition,
                    "timestamp": now,
                    "key": None,
                    "value": base64.b64encode(f"{partition}:{self.written + at}".encode()).decode(),
                    "headers": [],
                }
                for at in range(RECORDS_PER_ROUND)
            ]
            for partition in range(PARTITIONS)
        ]
        self.client.write(self.bootstrap, self.topic, "none", partitions)
        self.written += RECORDS_PER_ROUND

    def _run(self):
        try:
            while not self._stopped.wait(0.1):
                self._write()
        except Exception as error:  # Told by `check`, on the thread that waits for it.
            self.error = error

    def check(self):
        if self.error is not None:
            raise Failed(f"writing ended: {self.error}")

    def stop(self):
        self._stopped.set()
        self._thread.join()
        self.check()


class Commits:
    """What the group has committed, as the broker tells it, with the times at which it was known."""

    def __init__(self, bootstrap, group):
        self.known = collections.defaultdict(list)  # Partition to (ms since 1970, offset), both rising.
        self.regressed = []
        self._source = CommittedOffsets(bootstrap, group)
        self._stopped = threading.Event()
        self.error = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            while not self._stopped.wait(ASK_SECONDS):
                self._take(self._source.get())
        except (OSError, RuntimeError) as error:
            self.error = error

    def _take(self, offsets):
        now = time.time_ns() // 1_000_000
        for partition, offset in (offsets or {}).items():
            known = self.known[partition]
            last = known[-1][1] if known else -1
            if offset < last:
                self.regressed.append(f"partition {partition} went back from {last} to {offset}")
            elif offset > last:
                known.append((now, offset))

    def stop(self):
        self._stopped.set()
        self._thread.join()
        if self.error is not None:
            raise Failed(f"committed offsets cannot be had: {self.error}")


class GroupRun:
    """One group, and what happens to its members."""

    def __init__(self, client, protocol, bootstrap, topic, most_members, seed):
        self.client, self.protocol, self.bootstrap, self.topic = client, protocol, bootstrap, topic
        self.group = f"{topic}-{protocol or 'classic'}"
        self.most_members = most_members
        self.chance = random.Random(f"{self.group} {seed}")
        self.live, self.leaving, self.killed = [], [], []
        self.happened = collections.Counter()
        self.last_count, self.last_progress = 0, time.monotonic()
        self.longest_rest = 0.0
        self.next_event = time.monotonic() + 5
        self.commits = Commits(bootstrap, self.group)

    def start(self):
        for _ in range(MEMBERS_AT_FIRST):
            self.join()

    def join(self):
        session = None if self.protocol else SESSION_MS
        member = self.client.join(self.bootstrap, self.group, [self.topic], self.protocol, session_ms=session)
        self.live.append(member)
        self.happened["joined"] += 1

    def step(self):
        """Looks at the members, and may let something happen to one."""
        count = self.count()
        now = time.monotonic()
        rest = now - self.last_progress
        self.longest_rest = max(self.longest_rest, rest)
        if count != self.last_count:
            self.last_count, self.last_progress = count, now
        elif rest > STUCK_SECONDS:
            raise Failed(f"{self.group} is stuck: nothing was read for {rest:.0f} s\n{self.told()}")
        if now > self.next_event:
            self.next_event = now + self.chance.uniform(*EVENT_SECONDS)
            self._happen()

    def count(self):
        """Takes in what the members have read. Gives the number of records."""
        for member in self.live + self.leaving:
            member.poll()
        return sum(len(member.records) for member in self.members())

    def members(self):
        """All that there have been."""
        return self.live + self.leaving + self.killed

    def _happen(self):
        what = self.chance.choice(["join", "join", "leave", "kill", "restart"])
        if what == "join" and len(self.live) >= self.most_members or len(self.live) < 2:
            what = "restart" if len(self.live) >= 2 else "join"
        if what != "join":
            member = self.live.pop(self.chance.randrange(len(self.live)))
            if what == "leave":
                self.happened["left"] += 1
                self.leaving.append(member)
                member.process.stdin.close()  # It goes while other things happen.
            else:
                self.happened["killed"] += 1
                member.kill()
                self.killed.append(member)
        if what in ("join", "restart"):
            self.join()

    def unread(self, written):
        """The positions that no member has read."""
        seen = {(record["partition"], record["offset"]) for member in self.members() for record in member.records}
        return [
            (partition, offset)
            for partition in range(PARTITIONS)
            for offset in range(written)
            if (partition, offset) not in seen
        ]

    def unread_told(self, missing, written):
        """What is missing, and what is known of it."""
        lines = [f"{self.group}: {len(missing)} records of {written * PARTITIONS} reached no member"]
        for partition in sorted({partition for partition, _ in missing}):
            offsets = [offset for at, offset in missing if at == partition]
            known = [(at, offset) for at, offset in self.commits.known[partition] if offset > offsets[0]]
            what = f"committed beyond it at {known[0][0]}, last {known[-1]}" if known else "never committed beyond it"
            lines.append(f"partition {partition}: {len(offsets)} from {offsets[0]} to {offsets[-1]} of {written}, {what}")
        for number, member in enumerate(self.members()):
            state = "lives" if member in self.live else "was killed" if member in self.killed else "left"
            last = max((record["at"] for record in member.records), default=None)
            lines.append(f"member {number} {state}, read {len(member.records)}, last at {last}: {member.events[-3:]}")
        return "\n".join([*lines, self.told()])

    def finish(self):
        """Has all leave, and looks at what was read and committed."""
        for member in self.live + self.leaving:
            member.leave()
        self.commits.stop()
        if self.commits.regressed:
            raise Failed(f"{self.group}: commits went back: {self.commits.regressed[:3]}")
        again = self.read_after_commit()
        if again:
            raise Failed(f"{self.group}: {len(again)} records were read again after their commit: {again[:3]}")

    def read_after_commit(self):
        """Records read for the second time when a commit beyond them was known already."""
        readings = collections.defaultdict(list)
        for number, member in enumerate(self.members()):
            for record in member.records:
                readings[record["partition"], record["offset"]].append((record["at"], number))
        again = []
        for (partition, offset), times in readings.items():
            if len(times) < 2:
                continue
            self.happened["read again"] += len(times) - 1
            committed = next((at for at, known in self.commits.known[partition] if known > offset), None)
            late = max(times)
            if committed is not None and late[0] > committed:
                again.append(f"partition {partition} offset {offset}: {sorted(times)}, committed by {committed}")
        return again

    def clean(self):
        self.commits._stopped.set()
        for member in self.members():
            member.kill()

    def told(self):
        return "\n".join(member.errors() for member in self.live)

    def summary(self):
        happened = ", ".join(f"{count} {what}" for what, count in self.happened.items())
        name = self.protocol or "classic"
        return f"{name}: {self.last_count} records read, {happened}, longest rest {self.longest_rest:.1f} s"


def run(client, writer, seconds, most_members, use_kafka):
    """Groups of all protocols that the client speaks, side by side, with a broker of their own. Gives figures.

    Every record is read by some member, no commit goes back, nothing is read for the second time after it was committed, and
    no group stops for long. SEED is the number of another course of events.
    """
    broker = Broker(use_kafka, PARTITIONS, CONSUMER_SESSION_MS)
    groups, load = [], None
    try:
        topic = f"{client.name}-crash"
        load = Load(writer, broker.bootstrap, topic)
        protocols = [None, "consumer"] if client.consumer_protocol else [None]
        seed = os.environ.get("SEED", "0")
        for protocol in protocols:
            groups.append(GroupRun(client, protocol, broker.bootstrap, topic, most_members, seed))
            groups[-1].start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for group in groups:
                group.step()
            load.check()
            time.sleep(0.05)
        load.stop()
        until = time.monotonic() + END_SECONDS
        for group in groups:
            while missing := group.unread(load.written):
                group.last_count = group.count()
                if time.monotonic() > until:
                    raise Failed(group.unread_told(missing, load.written))
                time.sleep(0.5)
            group.finish()
        return f"{load.written * PARTITIONS} records; " + "; ".join(group.summary() for group in groups)
    except Failed as failure:
        raise Failed(f"{failure}\n--- the broker's log ends with:\n{broker.log_tail()}") from None
    finally:
        if load is not None:
            load._stopped.set()
            load._thread.join()
        for group in groups:
            group.clean()
        broker.stop()
