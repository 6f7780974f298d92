// Package task is what the suite's driver sends to a client on standard input, and what it reads back.
package task

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Header is a name and a value: ["name", base64 or null].
type Header struct {
	Name  string
	Value []byte
}

// UnmarshalJSON reads the pair.
func (h *Header) UnmarshalJSON(text []byte) error {
	return json.Unmarshal(text, &[2]any{&h.Name, &h.Value})
}

// MarshalJSON writes the pair.
func (h Header) MarshalJSON() ([]byte, error) {
	return json.Marshal([2]any{h.Name, h.Value})
}

// Record is a record to send, or one that was read.
type Record struct {
	Topic     string   `json:"topic"`
	Partition int32    `json:"partition"`
	Offset    int64    `json:"offset"`
	Timestamp int64    `json:"timestamp"` // Milliseconds since 1970.
	Key       []byte   `json:"key"`
	Value     []byte   `json:"value"`
	Headers   []Header `json:"headers"`
	At        int64    `json:"at"` // When the client handed it over, in milliseconds since 1970.
}

// Event is what a member was given or has to give up: "assigned" or "revoked".
type Event struct {
	Event      string  `json:"event"`
	Partitions []int32 `json:"partitions"`
}

// Job is what to send to one topic.
type Job struct {
	Topic       string   `json:"topic"`
	Compression string   `json:"compression"`
	Variant     string   `json:"variant"`
	Records     []Record `json:"records"`
}

// Topic is one to read.
type Topic struct {
	Topic      string `json:"topic"`
	Partitions int32  `json:"partitions"`
}

// Task is all of it.
type Task struct {
	Bootstrap string  `json:"bootstrap"`
	Jobs      []Job   `json:"jobs"`
	Topics    []Topic `json:"topics"`
	Group     string  `json:"group"`
	Protocol  string  `json:"protocol"`   // Of the group, if not the client's default.
	Assignor  string  `json:"assignor"`   // Of the group, if not the client's default.
	Instance  string  `json:"instance"`   // Of a static member.
	SessionMs int64   `json:"session_ms"` // Of the group, if not the client's default.
}

// Names of the topics to read.
func (t *Task) Names() (names []string) {
	for _, topic := range t.Topics {
		names = append(names, topic.Topic)
	}
	return names
}

// Session is after how long without a word a member is out; 0 if that is the client's default.
func (t *Task) Session() time.Duration {
	return time.Duration(t.SessionMs) * time.Millisecond
}

var printing sync.Mutex

// Changed prints what a member was given, or has to give up. It may be called on any goroutine.
func Changed(event string, partitions []int32) {
	slices.Sort(partitions)
	show(Event{event, slices.Concat([]int32{}, partitions)})
}

func show(line any) {
	printing.Lock()
	defer printing.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		panic(err)
	}
}

// Run reads the task and gives it to produce, or to consume or to join, as the task says. The context of join is
// cancelled when standard input ends: then the member commits and leaves.
func Run(
	produce func(context.Context, *Task) error,
	consume func(context.Context, *Task, func(Record)) error,
	join func(context.Context, *Task, func(Record)) error,
) {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	var t Task
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &t)
	}
	emit := func(record Record) { show(record) }
	switch {
	case err != nil:
	case os.Args[1] == "produce":
		err = produce(ctx, &t)
	case t.Group == "":
		err = consume(ctx, &t, emit)
	default:
		go func() {
			_, _ = io.Copy(io.Discard, in) // An error is as good as the end.
			cancel()
		}()
		err = join(ctx, &t, emit)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
