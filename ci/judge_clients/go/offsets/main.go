// How long ListOffsets by time takes for 3,000 partitions in one request, and shared among 30 connections: the first must
// not take more than twice the other. Usage: offsets BOOTSTRAP
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	topic       = "looked-up"
	partitions  = 3000
	connections = 30
	rounds      = 5
	ratioMax    = 2.0
	created     = 1_700_000_000_000
)

func main() {
	if err := run(context.Background(), os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, bootstrap string) error {
	if err := prepare(ctx, bootstrap); err != nil {
		return err
	}
	clients := make([]*kgo.Client, connections)
	for at := range clients {
		client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap))
		if err != nil {
			return err
		}
		defer client.Close()
		clients[at] = client
		if err := lookUp(ctx, client, 0, 1); err != nil {
			return err
		}
	}
	var alone, shared []time.Duration
	for range rounds {
		began := time.Now()
		if err := lookUp(ctx, clients[0], 0, partitions); err != nil {
			return err
		}
		alone = append(alone, time.Since(began))
		began = time.Now()
		if err := together(ctx, clients); err != nil {
			return err
		}
		shared = append(shared, time.Since(began))
	}
	one, many := median(alone), median(shared)
	fmt.Printf("%d partitions by time: one request %v, %d connections %v\n", partitions, one, connections, many)
	if one.Seconds() > ratioMax*many.Seconds() {
		return fmt.Errorf("one request takes more than %.0f times as long", ratioMax)
	}
	return nil
}

func median(of []time.Duration) time.Duration {
	slices.Sort(of)
	return of[len(of)/2]
}

func together(ctx context.Context, clients []*kgo.Client) error {
	var group sync.WaitGroup
	errs := make([]error, len(clients))
	share := partitions / len(clients)
	for at, client := range clients {
		group.Go(func() { errs[at] = lookUp(ctx, client, at*share, share) })
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// lookUp asks the only broker, so that the client does not split the request.
func lookUp(ctx context.Context, client *kgo.Client, first, count int) error {
	request := kmsg.NewListOffsetsRequest()
	request.ReplicaID = -1
	of := kmsg.NewListOffsetsRequestTopic()
	of.Topic = topic
	for at := range count {
		partition := kmsg.NewListOffsetsRequestTopicPartition()
		partition.Partition = int32(first + at)
		partition.Timestamp = created
		of.Partitions = append(of.Partitions, partition)
	}
	request.Topics = append(request.Topics, of)
	answer, err := client.SeedBrokers()[0].Request(ctx, &request)
	if err != nil {
		return err
	}
	for _, partition := range answer.(*kmsg.ListOffsetsResponse).Topics[0].Partitions {
		if partition.ErrorCode != 0 || partition.Offset != 0 {
			return fmt.Errorf("partition %d: error %d, offset %d", partition.Partition, partition.ErrorCode, partition.Offset)
		}
	}
	return nil
}

func prepare(ctx context.Context, bootstrap string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer client.Close()
	create := kmsg.NewCreateTopicsRequest()
	create.TimeoutMillis = 60_000
	wanted := kmsg.NewCreateTopicsRequestTopic()
	wanted.Topic, wanted.NumPartitions, wanted.ReplicationFactor = topic, partitions, 1
	create.Topics = append(create.Topics, wanted)
	answer, err := create.RequestWith(ctx, client)
	if err != nil {
		return err
	}
	if code := answer.Topics[0].ErrorCode; code != 0 {
		return fmt.Errorf("CreateTopics: error %d", code)
	}
	records := make([]*kgo.Record, 0, partitions)
	for at := range int32(partitions) {
		records = append(records, &kgo.Record{
			Topic: topic, Partition: at, Value: []byte("value"), Timestamp: time.UnixMilli(created),
		})
	}
	return client.ProduceSync(ctx, records...).FirstErr()
}
