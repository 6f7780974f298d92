"""The tools that come with Apache Kafka, with the options that their users give them."""

import json
import subprocess
import tempfile
import time

from .broker import DESCRIBE_CONFIGS
from .clients import CACHE, RUN_SECONDS, Failed, text

PARTITIONS = 3
LINES = 500
PERF_RECORDS = 50_000
# Generations of the tools to the directories of their jars.
JARS = {"4": "kafka", "3": "tools-3"}

CLASSES = {
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "kafka-broker-api-versions": "org.apache.kafka.tools.BrokerApiVersionsCommand",
    "kafka-console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-producer-perf-test": "org.apache.kafka.tools.ProducerPerformance",
    "kafka-consumer-perf-test": "org.apache.kafka.tools.ConsumerPerformance",
    "kafka-delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
    "kafka-log-dirs": "org.apache.kafka.tools.LogDirsCommand",
    "kafka-transactions": "org.apache.kafka.tools.TransactionsCommand",
    "kafka-verifiable-producer": "org.apache.kafka.tools.VerifiableProducer",
    "kafka-verifiable-consumer": "org.apache.kafka.tools.VerifiableConsumer",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
}


# Where generation 3 has another class, or another name for an option (the producer's --num-records is no such one).
CLASSES_3 = {
    "kafka-broker-api-versions": "kafka.admin.BrokerApiVersionsCommand",
    "kafka-console-producer": "kafka.tools.ConsoleProducer",
}
OPTIONS_3 = {
    "--reader-property": "--property",
    "--formatter-property": "--property",
    "--num-records": "--messages",
}


def all_cases(suite):
    """(name, title, function) of both generations."""
    return [(f"tools-{name}", title, case) for name in JARS for title, case in cases_of(Tools(suite, name))]


def cases_of(tools):
    """In the order they have to run in: later ones use what earlier ones made."""
    return [
        ("kafka-broker-api-versions", tools.api_versions),
        ("kafka-topics --create", tools.create),
        ("kafka-topics --list", tools.list),
        ("kafka-topics --describe", tools.describe),
        ("kafka-configs --describe", tools.describe_configs),
        ("kafka-configs --alter, --add-config, --delete-config", tools.alter_configs),
        ("kafka-configs --describe --all of the broker", tools.describe_broker),
        ("kafka-topics --alter --partitions", tools.add_partitions),
        ("kafka-console-producer and kafka-console-consumer --partition", tools.console),
        ("kafka-producer-perf-test and kafka-get-offsets", tools.perf),
        ("kafka-get-offsets --time of all kinds", tools.offsets_by_time),
        ("kafka-log-dirs --describe", tools.log_dirs),
        ("kafka-transactions list, describe-producers", tools.transactions),
        ("kafka-verifiable-producer and kafka-verifiable-consumer", tools.verifiable),
        ("kafka-console-consumer --from-beginning --group", tools.console_group),
        ("kafka-consumer-groups --list, --describe", tools.describe_group),
        ("kafka-consumer-groups --describe --members, --state, --all-groups", tools.describe_group_otherwise),
        ("kafka-consumer-groups of live members, classic protocol", lambda: tools.live_group("classic")),
        ("kafka-consumer-groups of live members, consumer protocol", lambda: tools.live_group("consumer")),
        ("kafka-consumer-groups --reset-offsets", tools.reset_offsets),
        ("kafka-consumer-groups --reset-offsets in all forms", tools.reset_offsets_in_all_forms),
        ("kafka-consumer-groups --reset-offsets --dry-run, --export, --from-file, --all-topics", tools.reset_offsets_by_file),
        ("kafka-consumer-groups --delete-offsets", tools.delete_offsets),
        ("kafka-consumer-groups --delete", tools.delete_group),
        ("kafka-consumer-perf-test", tools.consumer_perf),
        ("kafka-delete-records", tools.delete_records),
        ("kafka-topics --delete", tools.delete),
    ]


class Tools:
    """The cases of one generation. Its topics and groups bear its number."""

    def __init__(self, suite, generation):
        self.suite = suite
        self.generation = generation
        self.jars = f"{CACHE}/java/{JARS[generation]}/*"
        self.made = f"tools-{generation}-made"
        self.perf_topic = f"tools-{generation}-perf"
        self.console_topic = f"tools-{generation}-console"
        self.group = f"tools-{generation}-group"

    def option(self, name):
        """What this generation calls an option of OPTIONS_3."""
        return OPTIONS_3[name] if self.generation == "3" else name

    def command(self, tool, *arguments):
        """How the tool is started."""
        command = ["java", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        old = self.generation == "3"
        command += ["-cp", self.jars, (old and CLASSES_3.get(tool)) or CLASSES[tool]]
        if old and tool == "kafka-producer-perf-test":
            command += ["--producer-props", f"bootstrap.servers={self.suite.bootstrap}"]
        else:
            command += ["--bootstrap-server", self.suite.bootstrap]
        return [*command, *arguments]

    def run(self, tool, *arguments, stdin=b""):
        """The tool's standard output."""
        command = self.command(tool, *arguments)
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{tool} took longer than {RUN_SECONDS} s\n{text(error.stderr)}") from None
        output = done.stdout.decode()
        # Some tools end with 0 although they could not do what they were asked.
        if done.returncode != 0 or "Exception" in output:
            raise Failed(f"{tool} {' '.join(arguments)} ended with {done.returncode}\n{output}\n{text(done.stderr)}")
        return output

    def refused(self, tool, *arguments):
        """What the tool says when it fails, as it must here."""
        try:
            output = self.run(tool, *arguments)
        except Failed as failure:
            return str(failure)
        raise Failed(f"{tool} {' '.join(arguments)} was not refused: {output}")

    def api_versions(self):
        expect("Produce(0)", self.run("kafka-broker-api-versions"))

    def create(self):
        for topic in (self.made, self.perf_topic):
            arguments = ["--create", "--topic", topic, "--partitions", str(PARTITIONS)]
            arguments += ["--replication-factor", "1", "--config", "retention.ms=86400000"]
            expect(f"Created topic {topic}.", self.run("kafka-topics", *arguments))

    def list(self):
        for topic in (self.made, self.perf_topic):
            expect(topic, self.run("kafka-topics", "--list").splitlines())

    def describe(self):
        self.suite.need(DESCRIBE_CONFIGS, "DescribeConfigs, which the tool asks for")
        described = self.run("kafka-topics", "--describe", "--topic", self.made)
        expect(f"PartitionCount: {PARTITIONS}", described)
        expect("retention.ms=86400000", described)
        expect(f"Partition: {PARTITIONS - 1}\tLeader: 1", described)

    def describe_configs(self):
        self.suite.need(DESCRIBE_CONFIGS, "DescribeConfigs")
        described = self.run("kafka-configs", "--describe", "--entity-type", "topics", "--entity-name", self.made)
        expect("retention.ms=86400000", described)

    def topic_configs(self):
        entity = ["--entity-type", "topics", "--entity-name", self.made]
        return self.run("kafka-configs", "--describe", *entity)

    def alter_configs(self):
        entity = ["--alter", "--entity-type", "topics", "--entity-name", self.made]
        self.run("kafka-configs", *entity, "--add-config", "retention.ms=3600000,cleanup.policy=[compact,delete]")
        described = self.topic_configs()
        expect("retention.ms=3600000", described)
        expect("cleanup.policy=compact,delete", described)
        self.run("kafka-configs", *entity, "--delete-config", "retention.ms,cleanup.policy")
        if "retention.ms" in self.topic_configs():
            raise Failed("the deleted setting is still described")
        refused = self.refused("kafka-configs", *entity, "--add-config", "retention.ms=-7")
        expect("Invalid value -7 for configuration retention.ms", refused)
        expect("no.such.setting", self.refused("kafka-configs", *entity, "--add-config", "no.such.setting=1"))

    def describe_broker(self):
        entity = ["--entity-type", "brokers", "--entity-name", "1"]
        described = self.run("kafka-configs", "--describe", "--all", *entity)
        expect("num.partitions=", described)
        expect("STATIC_BROKER_CONFIG", described)

    def add_partitions(self):
        self.run("kafka-topics", "--alter", "--topic", self.made, "--partitions", str(PARTITIONS + 2))
        expect(f"PartitionCount: {PARTITIONS + 2}", self.run("kafka-topics", "--describe", "--topic", self.made))
        refused = self.refused("kafka-topics", "--alter", "--topic", self.made, "--partitions", "1")
        expect("would not be an increase", refused)

    def console(self):
        """Keys and headers go in as text and come out as the same text."""
        topic = self.console_topic
        self.run("kafka-topics", "--create", "--topic", topic, "--partitions", "1")
        lines = [f"trace:{index},lang:en\tkey-{index}\tvalue {index}" for index in range(LINES)]
        properties = ("parse.headers=true", "parse.key=true")
        self.run(
            "kafka-console-producer",
            "--topic",
            topic,
            *(word for one in properties for word in (self.option("--reader-property"), one)),
            stdin="\n".join(lines).encode(),
        )
        shown = ("print.headers=true", "print.key=true")
        output = self.run(
            "kafka-console-consumer",
            *("--topic", topic, "--partition", "0", "--offset", "earliest", "--max-messages", str(LINES)),
            *(word for one in shown for word in (self.option("--formatter-property"), one)),
        )
        expect_equal(output.splitlines(), lines)

    def perf(self):
        arguments = ["--topic", self.perf_topic, "--num-records", str(PERF_RECORDS), "--record-size", "200"]
        expect(f"{PERF_RECORDS} records sent", self.run("kafka-producer-perf-test", *arguments, "--throughput", "-1"))
        ends = self.run("kafka-get-offsets", "--topic", self.perf_topic).split()
        expect_equal(sum(int(end.split(":")[2]) for end in ends), PERF_RECORDS)
        expect_equal(len(ends), PARTITIONS)

    def offsets_by_time(self):
        for time, count in (("latest", PERF_RECORDS), ("earliest", 0), ("-1", PERF_RECORDS), ("-2", 0), ("0", 0)):
            offsets = self.run("kafka-get-offsets", "--topic", self.perf_topic, "--time", time).split()
            expect_equal((time, sum(int(offset.split(":")[2]) for offset in offsets)), (time, count))
        newest = self.run("kafka-get-offsets", "--topic", self.perf_topic, "--time", "max-timestamp").split()
        expect_equal(len(newest), PARTITIONS)

    def log_dirs(self):
        described = json.loads(self.run("kafka-log-dirs", "--describe", "--topic-list", self.perf_topic).splitlines()[-1])
        partitions = [part for broker in described["brokers"] for place in broker["logDirs"] for part in place["partitions"]]
        expect_equal(len(partitions), PARTITIONS)
        if sum(part["size"] for part in partitions) < PERF_RECORDS * 200:
            raise Failed(f"the sizes are too small: {partitions}")

    def transactions(self):
        self.run("kafka-transactions", "list")
        found = self.run("kafka-transactions", "describe-producers", "--topic", self.perf_topic, "--partition", "0")
        expect("LastSequence", found)
        # A line for the one producer that has written there.
        expect_equal(len(found.splitlines()), 2)

    def verifiable(self):
        arguments = ["--topic", f"tools-{self.generation}-verifiable", "--max-messages", "1000"]
        sent = [json.loads(line) for line in self.run("kafka-verifiable-producer", *arguments).splitlines()]
        expect_equal(sum(line["name"] == "producer_send_success" for line in sent), 1000)
        arguments += ["--group-id", f"tools-{self.generation}-verifiable", "--reset-policy", "earliest"]
        got = [json.loads(line) for line in self.run("kafka-verifiable-consumer", *arguments).splitlines()]
        expect_equal(sum(line["count"] for line in got if line["name"] == "records_consumed"), 1000)
        expect(True, [line["success"] for line in got if line["name"] == "offsets_committed"])

    def console_group(self):
        self.suite.need_groups()
        arguments = ["--topic", self.console_topic, "--group", self.group, "--from-beginning"]
        output = self.run("kafka-console-consumer", *arguments, "--max-messages", str(LINES))
        expect_equal(output.splitlines(), [f"value {index}" for index in range(LINES)])

    def describe_group(self):
        self.suite.need_groups()
        expect(self.group, self.run("kafka-consumer-groups", "--list").splitlines())
        # GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG and more.
        expect([self.group, self.console_topic, "0", str(LINES), str(LINES), "0"], self.offsets())

    def offsets(self):
        described = self.run("kafka-consumer-groups", "--describe", "--group", self.group)
        return [line.split()[:6] for line in described.splitlines()]

    def reset_offsets(self):
        self.suite.need_groups()
        arguments = ["--reset-offsets", "--group", self.group, "--topic", self.console_topic, "--to-offset", "100"]
        self.run("kafka-consumer-groups", *arguments, "--execute")
        expect([self.group, self.console_topic, "0", "100", str(LINES), str(LINES - 100)], self.offsets())

    def describe_group_otherwise(self):
        self.suite.need_groups()
        state = self.run("kafka-consumer-groups", "--describe", "--group", self.group, "--state")
        expect("Empty", state.split())
        self.run("kafka-consumer-groups", "--describe", "--group", self.group, "--members", "--verbose")
        expect(self.console_topic, self.run("kafka-consumer-groups", "--describe", "--all-groups").split())
        expect("Empty", self.run("kafka-consumer-groups", "--list", "--state").split())

    def live_group(self, protocol):
        """What is told of a group with a member at work, and that nobody may touch it meanwhile."""
        self.suite.need_groups(protocol)
        group = f"tools-{self.generation}-live-{protocol}"
        arguments = ["--topic", self.perf_topic, "--group-id", group, "--reset-policy", "earliest"]
        arguments += ["--group-protocol", protocol]
        with tempfile.TemporaryFile() as output:
            command = self.command("kafka-verifiable-consumer", *arguments)
            member = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            try:
                self.describe_live_group(group, protocol)
            except Failed as failure:
                output.seek(0)
                raise Failed(f"{failure}\n{text(output.read())[-2000:]}") from None
            finally:
                member.terminate()
                member.wait(RUN_SECONDS)
        done = self.run("kafka-consumer-groups", "--delete", "--group", group)
        expect("was successful", done)

    def describe_live_group(self, group, protocol):
        def groups(*arguments):
            return self.run("kafka-consumer-groups", *arguments)

        until = time.monotonic() + RUN_SECONDS
        # All is read and committed. GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID HOST CLIENT-ID
        while True:
            # Before the member has come, the tool says that there is no such group.
            described = self.said("kafka-consumer-groups", "--describe", "--group", group, "--offsets")
            rows = [line.split() for line in described.splitlines() if self.perf_topic in line.split()]
            if len(rows) == PARTITIONS and all(row[5] == "0" for row in rows):
                break
            if time.monotonic() > until:
                raise Failed(f"the group has not read all: {described}")
        expect_equal(sum(int(row[3]) for row in rows), PERF_RECORDS)
        expect_equal({row[7].startswith("/127.") for row in rows}, {True})
        member_id = rows[0][6]
        # The verbose form has a column more, the leader's epoch.
        expect(member_id, groups("--describe", "--group", group, "--offsets", "--verbose").split())
        for verbose in ([], ["--verbose"]):
            members = [line.split() for line in groups("--describe", "--group", group, "--members", *verbose).splitlines()]
            row = next((row for row in members if member_id in row), None)
            expect(str(PARTITIONS), row or [])
            if verbose:
                owned = "0,1,2" if protocol == "classic" or self.generation == "3" else self.perf_topic
                expect(owned, " ".join(row))
            state = groups("--describe", "--group", group, "--state", *verbose)
            expect("Stable", state.split())
            expect("range" if protocol == "classic" else "uniform", state.split())
        expect(group, groups("--list", "--state", "Stable").split())
        expect(group, groups("--list", "--type", protocol).split())
        other = "consumer" if protocol == "classic" else "classic"
        if group in groups("--list", "--type", other).split():
            raise Failed(f"{group} is listed as a group of the {other} protocol")
        expect("not empty", self.said("kafka-consumer-groups", "--delete", "--group", group))
        reset = ["--reset-offsets", "--group", group, "--topic", self.perf_topic, "--to-earliest", "--execute"]
        expect("inactive", self.said("kafka-consumer-groups", *reset))
        again = groups("--describe", "--group", group, "--offsets").splitlines()
        again = [line.split()[:8] for line in again if self.perf_topic in line.split()]
        expect_equal(sorted(again), sorted(row[:8] for row in rows))

    def said(self, tool, *arguments):
        """All that the tool says, whether or not it tells of the failure by its status."""
        done = subprocess.run(self.command(tool, *arguments), capture_output=True, timeout=RUN_SECONDS)
        return text(done.stdout) + "\n" + text(done.stderr)

    def reset_offsets_by_file(self):
        """What --export writes --from-file reads; a dry run changes nothing."""
        arguments = ["--reset-offsets", "--group", self.group]
        before = self.offsets()
        self.run("kafka-consumer-groups", *arguments, "--topic", self.console_topic, "--to-offset", "7", "--dry-run")
        expect_equal(self.offsets(), before)
        exported = self.run(
            "kafka-consumer-groups", *arguments, "--topic", f"{self.console_topic}:0", "--to-offset", "42", "--export"
        )
        row = next((line for line in exported.splitlines() if self.console_topic in line), "")
        expect_equal(row.replace('"', "").split(",")[-3:], [self.console_topic, "0", "42"])
        with tempfile.NamedTemporaryFile("w", suffix=".csv") as plan:
            plan.write(row + "\n")
            plan.flush()
            self.run("kafka-consumer-groups", *arguments, "--from-file", plan.name, "--execute")
        expect([self.group, self.console_topic, "0", "42", str(LINES), str(LINES - 42)], self.offsets())
        self.run("kafka-consumer-groups", *arguments, "--all-topics", "--to-offset", "300", "--execute")
        expect([self.group, self.console_topic, "0", "300", str(LINES), str(LINES - 300)], self.offsets())

    def reset_offsets_in_all_forms(self):
        forms = [
            (["--to-earliest"], 0),
            (["--to-latest"], LINES),
            (["--shift-by", "-200"], LINES - 200),
            (["--to-current"], LINES - 200),
            (["--to-datetime", "2001-01-01T00:00:00.000"], 0),
            (["--by-duration", "P1D"], 0),
        ]
        arguments = ["--reset-offsets", "--group", self.group, "--topic", self.console_topic]
        for form, offset in forms:
            self.run("kafka-consumer-groups", *arguments, *form, "--execute")
            expect([self.group, self.console_topic, "0", str(offset), str(LINES), str(LINES - offset)], self.offsets())

    def delete_offsets(self):
        arguments = ["--delete-offsets", "--group", self.group, "--topic", self.console_topic]
        expect("Successful", self.run("kafka-consumer-groups", *arguments))

    def delete_records(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as wanted:
            partition = {"topic": self.console_topic, "partition": 0, "offset": 120}
            json.dump({"partitions": [partition], "version": 1}, wanted)
            wanted.flush()
            done = self.run("kafka-delete-records", "--offset-json-file", wanted.name)
        expect("low_watermark: 120", done)
        earliest = self.run("kafka-get-offsets", "--topic", self.console_topic, "--time", "earliest")
        expect_equal(earliest.strip(), f"{self.console_topic}:0:120")
        arguments = ["--topic", self.console_topic, "--partition", "0", "--offset", "earliest"]
        output = self.run("kafka-console-consumer", *arguments, "--max-messages", str(LINES - 120))
        expect_equal(output.splitlines()[0], "value 120")

    def delete_group(self):
        self.suite.need_groups()
        self.run("kafka-consumer-groups", "--delete", "--group", self.group)
        if self.group in self.run("kafka-consumer-groups", "--list").splitlines():
            raise Failed("the deleted group is still listed")

    def consumer_perf(self):
        self.suite.need_groups()
        arguments = ["--topic", self.perf_topic, self.option("--num-records"), str(PERF_RECORDS)]
        arguments += ["--timeout", "20000"]
        last = self.run("kafka-consumer-perf-test", *arguments).splitlines()[-1]
        # start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg and more.
        expect_equal(int(last.split(", ")[4]), PERF_RECORDS)

    def delete(self):
        self.run("kafka-topics", "--delete", "--topic", self.made)
        if self.made in self.run("kafka-topics", "--list").splitlines():
            raise Failed("the deleted topic is still listed")


def expect(part, whole):
    if part not in whole:
        raise Failed(f"no {part!r} in {whole if isinstance(whole, str) else chr(10).join(map(str, whole))}")


def expect_equal(have, wanted):
    if have != wanted:
        raise Failed(f"not as expected: {str(have)[:500]}; expected was {str(wanted)[:500]}")
