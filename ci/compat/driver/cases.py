"""The cases of each client: a title and what to do. A case fails by an exception."""

import subprocess
import time
import uuid

from . import records
from .broker import CONSUMER_GROUP_HEARTBEAT, JOIN_GROUP
from .clients import Failed, wait_until

SCRIPT_SECONDS = 240
# A rebalance may have to wait for a member's heartbeat or, before a first generation, for the broker.
GROUP_SECONDS = 60
ROUND_PAUSE_SECONDS = 0.2
ROUND_RECORDS = 5


class Skipped(Exception):
    """The case cannot run here, and why."""


class Suite:
    """What the cases share: the broker, and what was written where."""

    def __init__(self, broker):
        self.broker = broker
        self.bootstrap = broker.bootstrap
        self.apis = broker.served_apis()
        # Client's name, then topic, to the records that readers should find.
        self.written = {}

    def need(self, api, what):
        """The case runs once the broker serves the API."""
        if api not in self.apis:
            raise Skipped(f"this broker serves no {what} yet")

    def need_groups(self, protocol=None):
        self.need(JOIN_GROUP, "consumer groups")
        if protocol:
            self.need(CONSUMER_GROUP_HEARTBEAT, f"groups of the {protocol} protocol")


def of_client(suite, client, hub):
    """(title, function) of every case of the client. `hub` has written before, and reads what the others wrote."""
    cases = []
    for compression in client.compressions:
        cases.append((f"writes {compression}", lambda c=compression: write(suite, client, c)))
    for variant in client.variants:
        cases.append((f"writes gzip, {variant}", lambda v=variant: write(suite, client, "gzip", v)))
    cases.append(("reads what it wrote", lambda: read(suite, client, client)))
    if client is not hub:
        cases.append((f"reads what {hub.name} wrote", lambda: read(suite, client, hub)))
        cases.append((f"{hub.name} reads what it wrote", lambda: read(suite, hub, client)))
    cases.append(("a group goes on where it was", lambda: group_resumes(suite, client)))
    cases.append(("two members share a topic", lambda: group_shares(suite, client)))
    if client.cooperative is not None:
        cases.append(("a new member stops nobody, cooperative assignor", lambda: group_cooperates(suite, client)))
    if client.static:
        cases.append(("a static member restarts without a rebalance", lambda: group_is_static(suite, client)))
    if client.consumer_protocol:
        protocol = "consumer"
        cases.append((f"a group goes on where it was, {protocol} protocol", lambda: group_resumes(suite, client, protocol)))
        cases.append((f"two members share a topic, {protocol} protocol", lambda: group_shares(suite, client, protocol)))
        cases.append((f"a new member stops nobody, {protocol} protocol", lambda: group_cooperates(suite, client, protocol)))
        cases.append((f"a group moves to the {protocol} protocol and back", lambda: group_migrates(suite, client, protocol)))
    return cases


def topic_name(client, *parts):
    return "-".join((client.name, *(part for part in parts if part)))


def write(suite, client, compression, variant=None):
    topic = topic_name(client, compression, variant)
    sent = client.write(suite.bootstrap, topic, compression, records.make(topic), variant)
    suite.written.setdefault(client.name, {})[topic] = sent


def read(suite, reader, writer):
    written = suite.written.get(writer.name)
    if not written:
        raise Failed("nothing was written")
    if reader.groups_only:
        suite.need_groups()
        received = read_in_new_group(suite, reader, written)
    else:
        received = reader.read(suite.bootstrap, written)
    for topic, sent in written.items():
        wrong = records.difference(sent, received[topic])
        if wrong:
            raise Failed(f"{topic}: {wrong}")


def read_in_new_group(suite, client, written):
    wanted = sum(len(part) for sent in written.values() for part in sent)
    member = client.join(suite.bootstrap, f"reader-{uuid.uuid4()}", written)
    try:
        wait_until([member], lambda: len(member.records) >= wanted, GROUP_SECONDS, f"{wanted} records")
        member.leave()
    finally:
        member.kill()
    by_topic = {topic: [] for topic in written}
    for record in member.records:
        by_topic[record["topic"]].append(record)
    return by_topic


def group_resumes(suite, client, protocol=None):
    """What one member committed, the next one does not read again."""
    suite.need_groups(protocol)
    topic = group = topic_name(client, "resume", protocol)
    for turn in range(2):
        partitions = [part[:100] for part in records.make(f"{topic}-{turn}")]
        sent = client.write(suite.bootstrap, topic, "none", partitions)
        numbered = [[{**record, "offset": turn * 100 + n} for n, record in enumerate(part)] for part in sent]
        member = client.join(suite.bootstrap, group, [topic], protocol)
        try:
            count = sum(map(len, numbered))
            wait_until([member], lambda m=member, c=count: len(m.records) >= c, GROUP_SECONDS, f"{count} records")
            member.leave()
        finally:
            member.kill()
        wrong = records.difference(numbered, member.records)
        if wrong:
            raise Failed(f"turn {turn + 1}: {wrong}")


def group_shares(suite, client, protocol=None):
    """Two members split the partitions; when one leaves, the other has all. Nothing is lost on the way."""
    suite.need_groups(protocol)
    topic = topic_name(client, "shared", protocol)
    sent = Rounds(suite, client, topic)
    sent.send()
    members = [client.join(suite.bootstrap, topic, [topic], protocol) for _ in range(2)]
    try:
        until_split(sent, members, lambda owners: len(set(owners.values())) == 2)
        members[0].leave()
        until_split(sent, members[1:], lambda owners: set(owners.values()) == {0})
        members[1].leave()
    finally:
        for member in members:
            member.kill()
    seen = {(record["partition"], record["offset"]) for member in members for record in member.records}
    missing = sent.all_positions() - seen
    if missing:
        raise Failed(f"{len(missing)} records reached no member, such as {sorted(missing)[:3]}")


def group_cooperates(suite, client, protocol=None):
    """A third member is given its share by those who had more, and they give up nothing else."""
    suite.need_groups(protocol)
    topic = topic_name(client, "cooperates", protocol)
    assignor = None if protocol else client.cooperative
    sent = Rounds(suite, client, topic)
    sent.send()
    members = []

    def join():
        members.append(client.join(suite.bootstrap, topic, [topic], protocol, assignor=assignor))
        return until_split(sent, members, lambda owners: len(set(owners.values())) == len(members))

    try:
        join()
        before = join()
        told = [len(member.events) for member in members]
        after = join()
        for index, first in enumerate(told):
            gave_up = partitions_of(members[index].events[first:], "revoked")
            moved = {partition for partition, owner in before.items() if owner == index != after[partition]}
            if gave_up != moved:
                raise Failed(f"member {index} gave up {gave_up} for {moved}: {members[index].events}")
        for member in members:
            member.leave()
    finally:
        for member in members:
            member.kill()


def group_is_static(suite, client):
    """One of three static members is killed and comes back within its session: the others do not notice."""
    suite.need_groups()
    topic = topic_name(client, "static")
    sent = Rounds(suite, client, topic)
    sent.send()

    def join(index):
        return client.join(suite.bootstrap, topic, [topic], instance=f"instance-{index}", session_ms=30_000)

    def split():
        return until_split(sent, members, lambda owners: len(set(owners.values())) == len(members))

    members = [join(index) for index in range(3)]
    killed = []
    try:
        before = split()
        told = [len(member.events) for member in members]
        killed.append(members[1])
        members[1].kill()
        members[1] = join(1)
        after = split()
        if before != after:
            raise Failed(f"partitions moved: {before} became {after}")
        for index in (0, 2):
            if len(members[index].events) != told[index]:
                raise Failed(f"member {index} was told of a rebalance: {members[index].events}")
        for member in members:
            member.leave()
    finally:
        for member in [*members, *killed]:
            member.kill()


def partitions_of(events, name):
    return {partition for event in events if event["event"] == name for partition in event["partitions"]}


def group_migrates(suite, client, protocol):
    """Members are replaced one by one by members of the other protocol, and back. Nothing is lost on the way."""
    suite.need_groups(protocol)
    topic = topic_name(client, "migrates", protocol)
    sent = Rounds(suite, client, topic)
    sent.send()
    members = []

    def join(spoken):
        members.append(client.join(suite.bootstrap, topic, [topic], spoken))

    def until_only(*indexes):
        until_split(sent, [members[index] for index in indexes], lambda owners: len(set(owners.values())) == len(indexes))

    try:
        join(None)
        until_only(0)
        join(protocol)
        until_only(0, 1)
        members[0].leave()
        until_only(1)
        join(None)
        until_only(1, 2)
        members[1].leave()
        until_only(2)
        members[2].leave()
    finally:
        for member in members:
            member.kill()
    seen = {(record["partition"], record["offset"]) for member in members for record in member.records}
    missing = sent.all_positions() - seen
    if missing:
        raise Failed(f"{len(missing)} records reached no member, such as {sorted(missing)[:3]}")


def until_split(sent, members, is_good):
    """Sends rounds of records until one round is read exactly once, by members such as `is_good` wants them.

    Gives the index of each partition's member.
    """
    deadline = time.monotonic() + GROUP_SECONDS
    while time.monotonic() < deadline:
        before = [len(member.records) for member in members]
        first = sent.send()
        wait_until(members, lambda: sent.is_read(members), GROUP_SECONDS, "all records to reach some member")
        readers = {}
        for index, member in enumerate(members):
            for record in member.records[before[index] :]:
                if record["offset"] >= first:
                    readers.setdefault((record["partition"], record["offset"]), []).append(index)
        owners = {}
        for (partition, _), by in readers.items():
            owners.setdefault(partition, set()).update(by)
        read_once = all(len(by) == 1 for by in readers.values())
        if read_once and all(len(by) == 1 for by in owners.values()):
            found = {partition: min(by) for partition, by in owners.items()}
            if is_good(found):
                return found
        time.sleep(ROUND_PAUSE_SECONDS)
    raise Failed(f"after {GROUP_SECONDS} s the partitions still were not divided: {owners}")


class Rounds:
    """Small rounds of records, the same number to each partition."""

    def __init__(self, suite, client, topic):
        self.suite, self.client, self.topic = suite, client, topic
        self.count = 0
        self.read_before = set()

    def send(self):
        """Gives the first offset of this round, in every partition."""
        first = self.count * ROUND_RECORDS
        partitions = [part[:ROUND_RECORDS] for part in records.make(self.topic)]
        self.client.write(self.suite.bootstrap, self.topic, "none", partitions)
        self.count += 1
        return first

    def all_positions(self):
        return {
            (partition, offset)
            for partition in range(records.PARTITIONS)
            for offset in range(self.count * ROUND_RECORDS)
        }

    def is_read(self, members):
        """Whether the members have read all, those that have left included."""
        for member in members:
            self.read_before.update((record["partition"], record["offset"]) for record in member.records)
        return self.read_before >= self.all_positions()


def script(suite, name):
    """A case that is a shell script of its own in ci/compat/, with a broker of its own."""
    if name == "consumer-group":
        suite.need_groups()
    try:
        done = subprocess.run(
            [f"ci/compat/{name}.sh"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SCRIPT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"longer than {SCRIPT_SECONDS} s\n{(error.stdout or b'').decode(errors='replace')}") from None
    if done.returncode != 0:
        raise Failed(done.stdout.decode(errors="replace"))
