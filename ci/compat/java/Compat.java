import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** kafka-clients for the suite, one source for both generations. See README.md for what goes in and out. */
public final class Compat {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Map<String, String> ASSIGNORS =
            Map.of("cooperative-sticky", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor");

    private Compat() {}

    public static void main(String[] arguments) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        JsonNode task = JSON.readTree(in.readLine());
        if (arguments[0].equals("produce")) {
            for (JsonNode job : task.get("jobs")) {
                produce(task.get("bootstrap").asText(), job);
            }
        } else {
            consume(task, in);
        }
    }

    private static void produce(String bootstrap, JsonNode job) throws Exception {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("compression.type", job.get("compression").asText());
        if (job.path("variant").asText().equals("acks1")) {
            properties.put("enable.idempotence", "false");
            properties.put("acks", "1");
        }
        List<Future<?>> pending = new ArrayList<>();
        try (KafkaProducer<byte[], byte[]> producer =
                new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (JsonNode record : job.get("records")) {
                ProducerRecord<byte[], byte[]> toSend = new ProducerRecord<>(
                        job.get("topic").asText(),
                        record.get("partition").asInt(),
                        record.get("timestamp").asLong(),
                        bytes(record.get("key")),
                        bytes(record.get("value")));
                for (JsonNode header : record.get("headers")) {
                    toSend.headers().add(header.get(0).asText(), bytes(header.get(1)));
                }
                pending.add(producer.send(toSend));
            }
            for (Future<?> acknowledged : pending) {
                acknowledged.get();
            }
        }
    }

    private static void consume(JsonNode task, BufferedReader in) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", task.get("bootstrap").asText());
        properties.put("auto.offset.reset", "earliest");
        boolean inGroup = task.hasNonNull("group");
        if (inGroup) {
            properties.put("group.id", task.get("group").asText());
        }
        if (task.hasNonNull("protocol")) {
            properties.put("group.protocol", task.get("protocol").asText());
        }
        if (task.hasNonNull("assignor")) {
            properties.put("partition.assignment.strategy", ASSIGNORS.get(task.get("assignor").asText()));
        }
        if (task.hasNonNull("instance")) {
            properties.put("group.instance.id", task.get("instance").asText());
        }
        if (task.hasNonNull("session_ms")) {
            properties.put("session.timeout.ms", task.get("session_ms").asText());
            properties.put("heartbeat.interval.ms", task.get("session_ms").asInt() / 4);
        }
        PrintStream out = new PrintStream(System.out, false);
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            if (inGroup) {
                readInGroup(consumer, task, in, out);
            } else {
                readToTheEnd(consumer, task, out);
            }
        }
        out.flush();
    }

    /** Reads as a member until standard input ends, then commits and leaves. */
    private static void readInGroup(
            KafkaConsumer<byte[], byte[]> consumer, JsonNode task, BufferedReader in, PrintStream out) {
        List<String> topics = new ArrayList<>();
        for (JsonNode topic : task.get("topics")) {
            topics.add(topic.get("topic").asText());
        }
        CountDownLatch ended = new CountDownLatch(1);
        Thread waiter = new Thread(() -> {
            try {
                in.readLine();
            } catch (IOException ignored) {
                // As good as its end.
            }
            ended.countDown();
        });
        waiter.setDaemon(true);
        waiter.start();
        consumer.subscribe(topics, new ConsumerRebalanceListener() {
            @Override
            public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
                changed("assigned", partitions, out);
            }

            @Override
            public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
                changed("revoked", partitions, out);
            }
        });
        while (ended.getCount() > 0) {
            print(consumer.poll(Duration.ofMillis(200)), out);
        }
        consumer.commitSync();
    }

    private static void readToTheEnd(KafkaConsumer<byte[], byte[]> consumer, JsonNode task, PrintStream out) {
        List<TopicPartition> partitions = new ArrayList<>();
        for (JsonNode topic : task.get("topics")) {
            for (int partition = 0; partition < topic.get("partitions").asInt(); partition++) {
                partitions.add(new TopicPartition(topic.get("topic").asText(), partition));
            }
        }
        consumer.assign(partitions);
        consumer.seekToBeginning(partitions);
        Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
        while (!ends.entrySet().stream().allMatch(end -> consumer.position(end.getKey()) >= end.getValue())) {
            print(consumer.poll(Duration.ofSeconds(1)), out);
        }
    }

    private static void changed(String event, Collection<TopicPartition> partitions, PrintStream out) {
        ObjectNode line = JSON.createObjectNode();
        line.put("event", event);
        ArrayNode numbers = line.putArray("partitions");
        partitions.stream().mapToInt(TopicPartition::partition).sorted().forEach(numbers::add);
        out.println(line);
        out.flush();
    }

    private static void print(ConsumerRecords<byte[], byte[]> records, PrintStream out) {
        long at = System.currentTimeMillis();
        for (ConsumerRecord<byte[], byte[]> record : records) {
            ObjectNode line = JSON.createObjectNode();
            line.put("topic", record.topic());
            line.put("partition", record.partition());
            line.put("offset", record.offset());
            line.put("timestamp", record.timestamp());
            line.put("key", text(record.key()));
            line.put("value", text(record.value()));
            line.put("at", at);
            ArrayNode headers = line.putArray("headers");
            for (Header header : record.headers()) {
                headers.addArray().add(header.key()).add(text(header.value()));
            }
            out.println(line);
        }
        out.flush();
    }

    private static byte[] bytes(JsonNode base64) {
        return base64.isNull() ? null : Base64.getDecoder().decode(base64.asText());
    }

    private static String text(byte[] bytes) {
        return bytes == null ? null : Base64.getEncoder().encodeToString(bytes);
    }
}
