"""What Java's admin client no longer sends: AlterConfigs. The rest is librdkafka's way to say what Administer.java says."""

import sys

from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic

admin = AdminClient({"bootstrap.servers": sys.argv[1]})


def wait(futures):
    for future in futures.values():
        try:
            print("done", type(future.result(10)).__name__)
        except Exception as error:  # A broker made to look old may not know it.
            print("refused", error)


topic = ConfigResource("topic", "by-librdkafka")
wait(admin.create_topics([NewTopic("by-librdkafka", 2, 1, config={"retention.ms": "1000"})], validate_only=False))
wait(admin.create_partitions([NewPartitions("by-librdkafka", 3)]))
wait(admin.alter_configs([ConfigResource("topic", "by-librdkafka", set_config={"retention.ms": "2000"})]))
wait(admin.describe_configs([topic]))
wait({"groups": admin.list_consumer_groups()})
wait({"cluster": admin.describe_cluster()})
wait(admin.delete_topics(["by-librdkafka"]))
