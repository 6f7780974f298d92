"""The tools that come with Apache Kafka, with the options that their users give them."""

import subprocess

from .broker import DESCRIBE_CONFIGS
from .clients import CACHE, RUN_SECONDS, Failed, text

PARTITIONS = 3
LINES = 500
PERF_RECORDS = 50_000

CLASSES = {
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "kafka-broker-api-versions": "org.apache.kafka.tools.BrokerApiVersionsCommand",
    "kafka-console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-producer-perf-test": "org.apache.kafka.tools.ProducerPerformance",
    "kafka-consumer-perf-test": "org.apache.kafka.tools.ConsumerPerformance",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
}


def all_cases(suite):
    """(title, function) in the order they have to run in: later ones use what earlier ones made."""
    tools = Tools(suite)
    return [
        ("kafka-broker-api-versions", tools.api_versions),
        ("kafka-topics --create", tools.create),
        ("kafka-topics --list", tools.list),
        ("kafka-topics --describe", tools.describe),
        ("kafka-configs --describe", tools.describe_configs),
        ("kafka-console-producer and kafka-console-consumer --partition", tools.console),
        ("kafka-producer-perf-test and kafka-get-offsets", tools.perf),
        ("kafka-console-consumer --from-beginning --group", tools.console_group),
        ("kafka-consumer-groups --list, --describe", tools.describe_group),
        ("kafka-consumer-groups --reset-offsets", tools.reset_offsets),
        ("kafka-consumer-groups --delete", tools.delete_group),
        ("kafka-consumer-perf-test", tools.consumer_perf),
        ("kafka-topics --delete", tools.delete),
    ]


class Tools:
    """The cases. Each names the topics and groups it uses."""

    def __init__(self, suite):
        self.suite = suite

    def run(self, tool, *arguments, stdin=b""):
        """The tool's standard output."""
        command = ["java", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        command += ["-cp", f"{CACHE}/java/kafka/*", CLASSES[tool], "--bootstrap-server", self.suite.bootstrap]
        try:
            done = subprocess.run([*command, *arguments], input=stdin, capture_output=True, timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{tool} took longer than {RUN_SECONDS} s\n{text(error.stderr)}") from None
        output = done.stdout.decode()
        # Some tools end with 0 although they could not do what they were asked.
        if done.returncode != 0 or "Exception" in output:
            raise Failed(f"{tool} {' '.join(arguments)} ended with {done.returncode}\n{output}\n{text(done.stderr)}")
        return output

    def api_versions(self):
        expect("Produce(0)", self.run("kafka-broker-api-versions"))

    def create(self):
        for topic in ("tools-made", "tools-perf"):
            arguments = ["--create", "--topic", topic, "--partitions", str(PARTITIONS)]
            arguments += ["--replication-factor", "1", "--config", "retention.ms=86400000"]
            expect(f"Created topic {topic}.", self.run("kafka-topics", *arguments))

    def list(self):
        for topic in ("tools-made", "tools-perf"):
            expect(topic, self.run("kafka-topics", "--list").splitlines())

    def describe(self):
        self.suite.need(DESCRIBE_CONFIGS, "DescribeConfigs, which the tool asks for")
        described = self.run("kafka-topics", "--describe", "--topic", "tools-made")
        expect(f"PartitionCount: {PARTITIONS}", described)
        expect("retention.ms=86400000", described)
        expect(f"Partition: {PARTITIONS - 1}\tLeader: 1", described)

    def describe_configs(self):
        self.suite.need(DESCRIBE_CONFIGS, "DescribeConfigs")
        described = self.run("kafka-configs", "--describe", "--entity-type", "topics", "--entity-name", "tools-made")
        expect("retention.ms=86400000", described)

    def console(self):
        """Keys and headers go in as text and come out as the same text."""
        topic = "tools-console"
        self.run("kafka-topics", "--create", "--topic", topic, "--partitions", "1")
        lines = [f"trace:{index},lang:en\tkey-{index}\tvalue {index}" for index in range(LINES)]
        properties = ("parse.headers=true", "parse.key=true")
        self.run(
            "kafka-console-producer",
            "--topic",
            topic,
            *(word for one in properties for word in ("--reader-property", one)),
            stdin="\n".join(lines).encode(),
        )
        shown = ("print.headers=true", "print.key=true")
        output = self.run(
            "kafka-console-consumer",
            *("--topic", topic, "--partition", "0", "--offset", "earliest", "--max-messages", str(LINES)),
            *(word for one in shown for word in ("--formatter-property", one)),
        )
        expect_equal(output.splitlines(), lines)

    def perf(self):
        arguments = ["--topic", "tools-perf", "--num-records", str(PERF_RECORDS), "--record-size", "200"]
        expect(f"{PERF_RECORDS} records sent", self.run("kafka-producer-perf-test", *arguments, "--throughput", "-1"))
        ends = self.run("kafka-get-offsets", "--topic", "tools-perf").split()
        expect_equal(sum(int(end.split(":")[2]) for end in ends), PERF_RECORDS)
        expect_equal(len(ends), PARTITIONS)

    def console_group(self):
        self.suite.need_groups()
        arguments = ["--topic", "tools-console", "--group", "tools-group", "--from-beginning"]
        output = self.run("kafka-console-consumer", *arguments, "--max-messages", str(LINES))
        expect_equal(output.splitlines(), [f"value {index}" for index in range(LINES)])

    def describe_group(self):
        self.suite.need_groups()
        expect("tools-group", self.run("kafka-consumer-groups", "--list").splitlines())
        # GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG and more.
        expect(["tools-group", "tools-console", "0", str(LINES), str(LINES), "0"], self.offsets())

    def offsets(self):
        described = self.run("kafka-consumer-groups", "--describe", "--group", "tools-group")
        return [line.split()[:6] for line in described.splitlines()]

    def reset_offsets(self):
        self.suite.need_groups()
        arguments = ["--reset-offsets", "--group", "tools-group", "--topic", "tools-console", "--to-offset", "100"]
        self.run("kafka-consumer-groups", *arguments, "--execute")
        expect(["tools-group", "tools-console", "0", "100", str(LINES), str(LINES - 100)], self.offsets())

    def delete_group(self):
        self.suite.need_groups()
        self.run("kafka-consumer-groups", "--delete", "--group", "tools-group")
        if "tools-group" in self.run("kafka-consumer-groups", "--list").splitlines():
            raise Failed("the deleted group is still listed")

    def consumer_perf(self):
        self.suite.need_groups()
        arguments = ["--topic", "tools-perf", "--num-records", str(PERF_RECORDS), "--timeout", "20000"]
        last = self.run("kafka-consumer-perf-test", *arguments).splitlines()[-1]
        # start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg and more.
        expect_equal(int(last.split(", ")[4]), PERF_RECORDS)

    def delete(self):
        self.run("kafka-topics", "--delete", "--topic", "tools-made")
        if "tools-made" in self.run("kafka-topics", "--list").splitlines():
            raise Failed("the deleted topic is still listed")


def expect(part, whole):
    if part not in whole:
        raise Failed(f"no {part!r} in {whole if isinstance(whole, str) else chr(10).join(map(str, whole))}")


def expect_equal(have, wanted):
    if have != wanted:
        raise Failed(f"not as expected: {str(have)[:500]}; expected was {str(wanted)[:500]}")
