// sarama for the suite. See README.md for what goes in and out.
package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"kafscale.io/compat/task"
)

var codecs = map[string]sarama.CompressionCodec{
	"none":   sarama.CompressionNone,
	"gzip":   sarama.CompressionGZIP,
	"snappy": sarama.CompressionSnappy,
	"lz4":    sarama.CompressionLZ4,
	"zstd":   sarama.CompressionZSTD,
}

func main() { task.Run(produce, consume, join) }

func produce(_ context.Context, t *task.Task) error {
	for _, job := range t.Jobs {
		if err := send(t.Bootstrap, job); err != nil {
			return fmt.Errorf("%s: %w", job.Topic, err)
		}
	}
	return nil
}

func send(bootstrap string, job task.Job) error {
	config := sarama.NewConfig()
	config.Producer.Return.Successes = true
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.Compression = codecs[job.Compression]
	switch job.Variant {
	case "idempotent":
		config.Producer.Idempotent = true
		config.Producer.RequiredAcks = sarama.WaitForAll
		config.Net.MaxOpenRequests = 1
	case "magic0":
		config.Version = sarama.V0_9_0_1
	case "magic1":
		config.Version = sarama.V0_10_2_0
	}
	producer, err := sarama.NewSyncProducer([]string{bootstrap}, config)
	if err != nil {
		return err
	}
	var messages []*sarama.ProducerMessage
	for _, record := range job.Records {
		message := &sarama.ProducerMessage{
			Topic: job.Topic, Partition: record.Partition, Timestamp: time.UnixMilli(record.Timestamp),
		}
		if record.Key != nil {
			message.Key = sarama.ByteEncoder(record.Key)
		}
		if record.Value != nil {
			message.Value = sarama.ByteEncoder(record.Value)
		}
		for _, header := range record.Headers {
			message.Headers = append(message.Headers, sarama.RecordHeader{Key: []byte(header.Name), Value: header.Value})
		}
		messages = append(messages, message)
	}
	if err := producer.SendMessages(messages); err != nil {
		var failures sarama.ProducerErrors
		if errors.As(err, &failures) {
			return fmt.Errorf("%w, the first one: %w", err, failures[0].Err)
		}
		return err
	}
	return producer.Close()
}

func consume(_ context.Context, t *task.Task, emit func(task.Record)) error {
	client, err := sarama.NewClient([]string{t.Bootstrap}, sarama.NewConfig())
	if err != nil {
		return err
	}
	defer client.Close()
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return err
	}
	var reading sync.WaitGroup
	defer reading.Wait()
	for _, topic := range t.Topics {
		for partition := range topic.Partitions {
			end, err := client.GetOffset(topic.Topic, partition, sarama.OffsetNewest)
			if err != nil {
				return err
			}
			messages, err := consumer.ConsumePartition(topic.Topic, partition, sarama.OffsetOldest)
			if err != nil {
				return err
			}
			reading.Go(func() {
				for next := int64(0); next < end; {
					message := <-messages.Messages()
					next = message.Offset + 1
					emit(read(message))
				}
				messages.AsyncClose()
			})
		}
	}
	return nil
}

func join(ctx context.Context, t *task.Task, emit func(task.Record)) error {
	config := sarama.NewConfig()
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Group.InstanceId = t.Instance
	if t.Session() != 0 {
		config.Consumer.Group.Session.Timeout = t.Session()
		config.Consumer.Group.Heartbeat.Interval = t.Session() / 4
	}
	group, err := sarama.NewConsumerGroup([]string{t.Bootstrap}, t.Group, config)
	if err != nil {
		return err
	}
	// A session ends with each rebalance, and the next one is begun here. It commits when it ends.
	for ctx.Err() == nil {
		if err := group.Consume(ctx, t.Names(), &member{emit: emit}); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return group.Close()
}

// member prints what its claims hold. Claims are read side by side.
type member struct {
	emit func(task.Record)
}

func (m *member) Setup(session sarama.ConsumerGroupSession) error { return changed("assigned", session) }

func (m *member) Cleanup(session sarama.ConsumerGroupSession) error { return changed("revoked", session) }

func changed(event string, session sarama.ConsumerGroupSession) error {
	for _, partitions := range session.Claims() {
		task.Changed(event, partitions)
	}
	return nil
}

func (m *member) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case message, open := <-claim.Messages():
			if !open {
				return nil
			}
			m.emit(read(message))
			session.MarkMessage(message, "")
		case <-session.Context().Done():
			return nil
		}
	}
}

func read(message *sarama.ConsumerMessage) task.Record {
	headers := []task.Header{}
	for _, header := range message.Headers {
		headers = append(headers, task.Header{Name: string(header.Key), Value: header.Value})
	}
	return task.Record{
		Topic: message.Topic, Partition: message.Partition, Offset: message.Offset,
		Timestamp: message.Timestamp.UnixMilli(), Key: message.Key, Value: message.Value, Headers: headers,
		At: time.Now().UnixMilli(),
	}
}
