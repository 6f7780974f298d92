"""confluent-kafka (a current librdkafka) for the suite. See README.md for what goes in and out."""

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

import task


def produce(bootstrap, job):
    settings = {"bootstrap.servers": bootstrap, "compression.type": job["compression"]}
    if job.get("variant") == "idempotent":
        settings["enable.idempotence"] = True
    producer = Producer(settings)
    failures = []
    for record in job["records"]:
        producer.produce(
            job["topic"],
            key=record["key"],
            value=record["value"],
            headers=record["headers"],
            partition=record["partition"],
            timestamp=record["timestamp"],
            on_delivery=lambda error, _: error and failures.append(error),
        )
    left = producer.flush(60)
    if left or failures:
        raise RuntimeError(f"{left} records were not delivered, errors: {failures[:3]}")


def consume(job):
    settings = {
        "bootstrap.servers": job["bootstrap"],
        "group.id": job.get("group") or "none",
        "auto.offset.reset": "earliest",
    }
    if job.get("protocol"):
        settings["group.protocol"] = job["protocol"]
    for field, setting in (("assignor", "partition.assignment.strategy"), ("instance", "group.instance.id")):
        if job.get(field):
            settings[setting] = job[field]
    if job.get("session_ms"):
        settings["session.timeout.ms"] = job["session_ms"]
        settings["heartbeat.interval.ms"] = job["session_ms"] // 4
    consumer = Consumer(settings)
    if job.get("group"):
        consumer.subscribe(
            [topic["topic"] for topic in job["topics"]],
            on_assign=lambda _, partitions: changed("assigned", partitions),
            on_revoke=lambda _, partitions: changed("revoked", partitions),
            on_lost=lambda _, partitions: changed("revoked", partitions),
        )
        ended = task.stdin_end()
        while not ended.is_set():
            read(consumer)
        commit(consumer)
    else:
        partitions = [
            TopicPartition(topic["topic"], partition, OFFSET_BEGINNING)
            for topic in job["topics"]
            for partition in range(topic["partitions"])
        ]
        left = 0
        for partition in partitions:
            first, end = consumer.get_watermark_offsets(partition)
            left += end - first
        consumer.assign(partitions)
        while left > 0:
            left -= read(consumer)
    consumer.close()


def changed(event, partitions):
    task.changed(event, [partition.partition for partition in partitions])


def read(consumer):
    # One by one: what is handed over counts as read, and is committed when partitions are given up, so that a batch that
    # is still being gathered would be lost with its member.
    message = consumer.poll(0.2)
    if message is None:
        return 0
    at = task.now()
    if message.error():
        raise KafkaException(message.error())
    task.emit(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        message.headers(),
        at,
    )
    return 1


def commit(consumer):
    try:
        consumer.commit(asynchronous=False)
    except KafkaException as error:
        # A member that was handed no partition, or read nothing, has nothing to commit.
        if error.args[0].code() != KafkaError._NO_OFFSET:
            raise


task.run(produce, consume)
