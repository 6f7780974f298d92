"""kafka-python, 2.0 and current, for the suite. See README.md for what goes in and out."""

from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import CommitFailedError, RebalanceInProgressError

import task


def produce(bootstrap, job):
    settings = {}
    if job["compression"] != "none":
        settings["compression_type"] = job["compression"]
    if job.get("variant") == "idempotent":
        settings.update(enable_idempotence=True, acks="all")
    elif job.get("variant") == "acks1":
        settings.update(acks=1)
        if "enable_idempotence" in KafkaProducer.DEFAULT_CONFIG:
            settings["enable_idempotence"] = False
    producer = KafkaProducer(bootstrap_servers=bootstrap, **settings)
    pending = [
        producer.send(
            job["topic"],
            key=record["key"],
            value=record["value"],
            headers=record["headers"],
            partition=record["partition"],
            timestamp_ms=record["timestamp"],
        )
        for record in job["records"]
    ]
    for acknowledged in pending:
        acknowledged.get(timeout=60)
    producer.close()


class Listener(ConsumerRebalanceListener):
    """Tells of what the member is given, and what it gives up."""

    def on_partitions_assigned(self, assigned):
        task.changed("assigned", [partition.partition for partition in assigned])

    def on_partitions_revoked(self, revoked):
        task.changed("revoked", [partition.partition for partition in revoked])


def consume(job):
    settings = {}
    if job.get("instance"):
        settings["group_instance_id"] = job["instance"]
    if job.get("session_ms"):
        settings.update(session_timeout_ms=job["session_ms"], heartbeat_interval_ms=job["session_ms"] // 4)
    consumer = KafkaConsumer(
        bootstrap_servers=job["bootstrap"],
        group_id=job.get("group"),
        auto_offset_reset="earliest",
        **settings,
    )
    if job.get("group"):
        consumer.subscribe([topic["topic"] for topic in job["topics"]], listener=Listener())
        ended = task.stdin_end()
        while not ended.is_set():
            read(consumer)
        try:
            consumer.commit()
        except (CommitFailedError, RebalanceInProgressError):
            # The group has moved on: whoever gets the partitions reads this again.
            pass
    else:
        partitions = [
            TopicPartition(topic["topic"], partition)
            for topic in job["topics"]
            for partition in range(topic["partitions"])
        ]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        left = sum(consumer.end_offsets(partitions).values())
        while left > 0:
            left -= read(consumer)
    consumer.close()


def read(consumer):
    count = 0
    polled = consumer.poll(timeout_ms=200)
    at = task.now()
    for messages in polled.values():
        for message in messages:
            count += 1
            task.emit(
                message.topic,
                message.partition,
                message.offset,
                message.timestamp,
                message.key,
                message.value,
                message.headers,
                at,
            )
    return count


task.run(produce, consume)
