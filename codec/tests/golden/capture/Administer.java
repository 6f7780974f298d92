import java.time.Duration;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.quota.ClientQuotaFilter;
import org.apache.kafka.common.quota.ClientQuotaFilterComponent;
import org.apache.kafka.common.serialization.*;

/** Asks a broker for everything that administrators ask for, and reads with both group protocols meanwhile. */
public final class Administer {
    private static final String TOPIC = "by-administer";
    private static final List<TopicPartition> PARTITIONS = List.of(new TopicPartition(TOPIC, 0), new TopicPartition(TOPIC, 1));

    public static void main(String[] arguments) throws Exception {
        Properties common = new Properties();
        common.put("bootstrap.servers", arguments[0]);
        common.put("default.api.timeout.ms", "10000");
        common.put("request.timeout.ms", "5000");
        try (Admin admin = Admin.create(common)) {
            topics(admin);
            produce(common);
            configurations(admin);
            inspection(admin);
            for (String kind : List.of("static", "classic", "consumer")) {
                attempt(kind, () -> groups(admin, common, kind));
            }
            attempt("deleteRecords", () -> admin.deleteRecords(Map.of(PARTITIONS.get(0), RecordsToDelete.beforeOffset(1))).all().get());
            attempt("deleteTopics", () -> admin.deleteTopics(List.of(TOPIC, "no-such-topic")).all().get());
        }
    }

    /** A broker that has been made to look old may not know an API; then the client says so. */
    private static void attempt(String what, Callable<?> action) {
        try {
            action.call();
        } catch (Exception error) {
            System.out.println("  " + what + ": " + error.getMessage());
        }
    }

    private static void topics(Admin admin) {
        NewTopic topic = new NewTopic(TOPIC, 2, (short) 1).configs(Map.of("retention.ms", "3600000"));
        NewTopic assigned = new NewTopic("by-hand", Map.of(0, List.of(1)));
        attempt("validate", () -> admin.createTopics(List.of(assigned), new CreateTopicsOptions().validateOnly(true)).all().get());
        attempt("createTopics", () -> admin.createTopics(List.of(topic)).all().get());
        attempt("createPartitions", () -> admin.createPartitions(Map.of(TOPIC, NewPartitions.increaseTo(3))).all().get());
        attempt("listTopics", () -> admin.listTopics(new ListTopicsOptions().listInternal(true)).names().get());
        attempt("describeTopics", () -> admin.describeTopics(List.of(TOPIC), new DescribeTopicsOptions().includeAuthorizedOperations(true)).allTopicNames().get());
        attempt("describeCluster", () -> admin.describeCluster(new DescribeClusterOptions().includeAuthorizedOperations(true)).nodes().get());
    }

    private static void produce(Properties common) {
        try (var producer = new KafkaProducer<>(common, new StringSerializer(), new StringSerializer())) {
            for (TopicPartition partition : PARTITIONS) {
                for (int index = 0; index < 3; index++) {
                    producer.send(new ProducerRecord<>(TOPIC, partition.partition(), "key", "value " + index));
                }
            }
        }
    }

    private static void configurations(Admin admin) {
        ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, TOPIC);
        ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, "1");
        var everything = new DescribeConfigsOptions().includeSynonyms(true).includeDocumentation(true);
        attempt("describeConfigs", () -> admin.describeConfigs(List.of(topic, broker), everything).all().get());
        attempt("describeConfigs of a topic", () -> admin.describeConfigs(List.of(topic)).all().get());
        Collection<AlterConfigOp> changes = List.of(
            new AlterConfigOp(new ConfigEntry("retention.ms", "7200000"), AlterConfigOp.OpType.SET),
            new AlterConfigOp(new ConfigEntry("segment.bytes", null), AlterConfigOp.OpType.DELETE),
            new AlterConfigOp(new ConfigEntry("cleanup.policy", "compact"), AlterConfigOp.OpType.APPEND));
        attempt("incrementalAlterConfigs", () -> admin.incrementalAlterConfigs(Map.of(topic, changes)).all().get());
        attempt("describeClientQuotas", () -> admin.describeClientQuotas(ClientQuotaFilter.contains(
            List.of(ClientQuotaFilterComponent.ofEntity("user", "alice"), ClientQuotaFilterComponent.ofDefaultEntity("client-id")))).entities().get());
        attempt("describeClientQuotas of all", () -> admin.describeClientQuotas(ClientQuotaFilter.all()).entities().get());
    }

    private static void inspection(Admin admin) {
        Map<TopicPartition, OffsetSpec> specs = Map.of(PARTITIONS.get(0), OffsetSpec.latest(), PARTITIONS.get(1), OffsetSpec.earliest());
        attempt("listOffsets", () -> admin.listOffsets(specs).all().get());
        attempt("listOffsets maxTimestamp", () -> admin.listOffsets(Map.of(PARTITIONS.get(0), OffsetSpec.maxTimestamp())).all().get());
        attempt("listOffsets forTimestamp", () -> admin.listOffsets(Map.of(PARTITIONS.get(0), OffsetSpec.forTimestamp(1))).all().get());
        attempt("describeProducers", () -> admin.describeProducers(PARTITIONS).all().get());
        attempt("listTransactions", () -> admin.listTransactions(new ListTransactionsOptions().filterProducerIds(List.of(7L))).all().get());
        attempt("describeLogDirs", () -> admin.describeLogDirs(List.of(1)).allDescriptions().get());
    }

    /** `kind` is a group protocol, or "static" for the classic one with a static member. */
    private static Void groups(Admin admin, Properties common, String kind) {
        String group = "by-administer-" + kind;
        String protocol = kind.equals("static") ? "classic" : kind;
        Properties settings = new Properties();
        settings.putAll(common);
        settings.putAll(Map.of("group.id", group, "group.protocol", protocol, "auto.offset.reset", "earliest"));
        if (kind.equals("static")) {
            settings.put("group.instance.id", "static-member");
        }
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(TOPIC));
            long until = System.currentTimeMillis() + 8000;
            int read = 0;
            while (read < 6 && System.currentTimeMillis() < until) {
                read += consumer.poll(Duration.ofMillis(200)).count();
            }
            attempt("commit", () -> {
                consumer.commitSync(Map.of(PARTITIONS.get(0), new OffsetAndMetadata(2, Optional.of(0), "a note")), Duration.ofSeconds(5));
                return null;
            });
            // A position with an epoch makes the consumer ask where that epoch ends.
            for (TopicPartition partition : consumer.assignment()) {
                consumer.seek(partition, new OffsetAndMetadata(0, Optional.of(0), ""));
            }
            for (int poll = 0; poll < 5; poll++) {
                consumer.poll(Duration.ofMillis(200));
            }
            attempt("listGroups", () -> admin.listGroups(new ListGroupsOptions().inGroupStates(Set.of(org.apache.kafka.common.GroupState.STABLE))).all().get());
            attempt("listGroups of all", () -> admin.listGroups().all().get());
            attempt("describeConsumerGroups", () -> admin.describeConsumerGroups(List.of(group), new DescribeConsumerGroupsOptions().includeAuthorizedOperations(true)).all().get());
            attempt("describeClassicGroups", () -> admin.describeClassicGroups(List.of(group)).all().get());
            attempt("removeMembers", () -> kind.equals("static")
                ? admin.removeMembersFromConsumerGroup(group, new RemoveMembersFromConsumerGroupOptions(List.of(new MemberToRemove("static-member")))).all().get()
                : null);
        }
        attempt("alterConsumerGroupOffsets", () -> admin.alterConsumerGroupOffsets(group, PARTITIONS.stream()
            .collect(Collectors.toMap(partition -> partition, partition -> new OffsetAndMetadata(1, Optional.empty(), "moved")))).all().get());
        attempt("listConsumerGroupOffsets", () -> admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get());
        attempt("deleteConsumerGroupOffsets", () -> admin.deleteConsumerGroupOffsets(group, Set.copyOf(PARTITIONS)).all().get());
        attempt("deleteConsumerGroups", () -> admin.deleteConsumerGroups(List.of(group)).all().get());
        return null;
    }
}
