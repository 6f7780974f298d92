//! Load and latency percentiles for any Kafka-compatible broker.

fn main() {}
