// franz-go for the suite. See README.md for what goes in and out.
package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"kafscale.io/compat/task"
)

var codecs = map[string]kgo.CompressionCodec{
	"none":   kgo.NoCompression(),
	"gzip":   kgo.GzipCompression(),
	"snappy": kgo.SnappyCompression(),
	"lz4":    kgo.Lz4Compression(),
	"zstd":   kgo.ZstdCompression(),
}

func main() { task.Run(produce, consume, join) }

func produce(ctx context.Context, t *task.Task) error {
	for _, job := range t.Jobs {
		if err := send(ctx, t.Bootstrap, job); err != nil {
			return fmt.Errorf("%s: %w", job.Topic, err)
		}
	}
	return nil
}

func send(ctx context.Context, bootstrap string, job task.Job) error {
	options := []kgo.Opt{
		kgo.SeedBrokers(bootstrap),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codecs[job.Compression]),
		kgo.AllowAutoTopicCreation(),
	}
	if job.Variant == "acks1" {
		options = append(options, kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()))
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return err
	}
	defer client.Close()
	var records []*kgo.Record
	for _, record := range job.Records {
		var headers []kgo.RecordHeader
		for _, header := range record.Headers {
			headers = append(headers, kgo.RecordHeader{Key: header.Name, Value: header.Value})
		}
		records = append(records, &kgo.Record{
			Topic: job.Topic, Partition: record.Partition, Timestamp: time.UnixMilli(record.Timestamp),
			Key: record.Key, Value: record.Value, Headers: headers,
		})
	}
	return client.ProduceSync(ctx, records...).FirstErr()
}

func consume(ctx context.Context, t *task.Task, emit func(task.Record)) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(t.Bootstrap))
	if err != nil {
		return err
	}
	defer client.Close()
	left, err := assignAll(ctx, client, t.Names())
	for err == nil && left > 0 {
		fetches := client.PollFetches(ctx)
		err = fetches.Err()
		fetches.EachRecord(func(record *kgo.Record) {
			left--
			emit(read(record))
		})
	}
	return err
}

func join(ctx context.Context, t *task.Task, emit func(task.Record)) error {
	options := []kgo.Opt{
		kgo.SeedBrokers(t.Bootstrap), kgo.ConsumerGroup(t.Group), kgo.ConsumeTopics(t.Names()...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsAssigned(changed("assigned")), kgo.OnPartitionsRevoked(changed("revoked")),
		kgo.OnPartitionsLost(changed("revoked")),
	}
	if t.Instance != "" {
		options = append(options, kgo.InstanceID(t.Instance))
	}
	if t.Session() != 0 {
		options = append(options, kgo.SessionTimeout(t.Session()), kgo.HeartbeatInterval(t.Session()/4))
	}
	if t.Protocol == "consumer" {
		options = append(options, kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer()))
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return err
	}
	defer client.Close()
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil && ctx.Err() == nil {
			return err
		}
		fetches.EachRecord(func(record *kgo.Record) { emit(read(record)) })
	}
	return client.CommitUncommittedOffsets(context.Background())
}

func changed(event string) func(context.Context, *kgo.Client, map[string][]int32) {
	return func(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
		for _, partitions := range topics {
			task.Changed(event, partitions)
		}
	}
}

// assignAll starts reading every partition at its beginning. It gives the sum of their lengths.
func assignAll(ctx context.Context, client *kgo.Client, names []string) (length int64, err error) {
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, names...)
	if err != nil {
		return 0, err
	}
	starts := map[string]map[int32]kgo.Offset{}
	ends.Each(func(end kadm.ListedOffset) {
		if end.Err != nil {
			err = fmt.Errorf("end of %s/%d: %w", end.Topic, end.Partition, end.Err)
		}
		length += end.Offset
		if starts[end.Topic] == nil {
			starts[end.Topic] = map[int32]kgo.Offset{}
		}
		starts[end.Topic][end.Partition] = kgo.NewOffset().AtStart()
	})
	client.AddConsumePartitions(starts)
	return length, err
}

func read(record *kgo.Record) task.Record {
	headers := []task.Header{}
	for _, header := range record.Headers {
		headers = append(headers, task.Header{Name: header.Key, Value: header.Value})
	}
	return task.Record{
		Topic: record.Topic, Partition: record.Partition, Offset: record.Offset,
		Timestamp: record.Timestamp.UnixMilli(), Key: record.Key, Value: record.Value, Headers: headers,
		At: time.Now().UnixMilli(),
	}
}
