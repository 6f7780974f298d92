// An unmodified sarama 1.43.3 writes 300 MB with its defaults. It leaves the largest timestamp of a batch at -1, and a
// broker that believes that deletes the records. Usage: sarama BOOTSTRAP SECONDS-BEFORE-READING
package main

import (
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/IBM/sarama"
)

const (
	topic   = "retained"
	records = 1200
	bytes   = 250_000
	// Longer than any broker takes for a record that is there.
	patience = 60 * time.Second
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(bootstrap, wait string) error {
	seconds, err := strconv.Atoi(wait)
	if err != nil {
		return err
	}
	config := sarama.NewConfig()
	config.Producer.Return.Successes = true // A sync producer needs it; all else is the default.
	client, err := sarama.NewClient([]string{bootstrap}, config)
	if err != nil {
		return err
	}
	defer client.Close()
	producer, err := sarama.NewSyncProducerFromClient(client)
	if err != nil {
		return err
	}
	value := sarama.ByteEncoder(make([]byte, bytes))
	for at := range records {
		if _, _, err := producer.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: value}); err != nil {
			return fmt.Errorf("record %d: %w", at, err)
		}
	}
	time.Sleep(time.Duration(seconds) * time.Second)
	return readAll(client)
}

func readAll(client sarama.Client) error {
	partitions, err := client.Partitions(topic)
	if err != nil {
		return err
	}
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return err
	}
	found := 0
	for _, partition := range partitions {
		newest, err := client.GetOffset(topic, partition, sarama.OffsetNewest)
		if err != nil {
			return err
		}
		oldest, err := client.GetOffset(topic, partition, sarama.OffsetOldest)
		if err != nil {
			return err
		}
		reader, err := consumer.ConsumePartition(topic, partition, oldest)
		if err != nil {
			return err
		}
		for at := oldest; at < newest; at++ {
			select {
			case <-reader.Messages():
				found++
			case <-time.After(patience):
				return fmt.Errorf("partition %d: no record %d of %d", partition, at, newest)
			}
		}
	}
	if found != records {
		return fmt.Errorf("%d of %d records are there", found, records)
	}
	fmt.Printf("all %d records are there\n", records)
	return nil
}
