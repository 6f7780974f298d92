//! Transactions of the metastore that are applied after their sender has given them up, while streams are merged, rolled and
//! trimmed all the time.

use crate::client::Client;
use crate::cluster::{Cluster, Shape};
use crate::executor::{World, ENVIRONMENT};
use crate::net::Network;
use crate::workload::produce_request;
use kafscale_broker::assembly::Tuning;
use kafscale_broker::settings::Settings;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::ProduceResponse;
use kafscale_codec::record_batch::BatchBuilder;
use std::cell::Cell;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::rc::Rc;
use std::time::Duration;

const TOPIC: &str = "t";
const PRODUCE: i16 = 9;
const PARTITIONS: i32 = 3;

/// Of a thousand calls of the metastore, so many are applied late.
const LATE_PERMILLE: u64 = 250;

/// How long the records come.
const WHILE: Duration = Duration::from_secs(8);

/// Longer than everything here takes.
const RUN_MAX: Duration = Duration::from_secs(120);

/// Runs one seed; returns the promise that was broken.
pub fn run(seed: u64) -> Option<String> {
    let world = World::new(seed);
    let finished = Rc::new(Cell::new(false));
    let (whole, end) = (world.clone(), finished.clone());
    let story = async move {
        scenario(whole).await;
        end.set(true);
    };
    world.spawn(ENVIRONMENT, "scenario", Box::pin(story));
    let done = finished.clone();
    let ran = catch_unwind(AssertUnwindSafe(|| world.run(RUN_MAX, || done.get())));
    if let Err(panic) = ran {
        let what = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        return Some(format!("panic: {what}"));
    }
    if !finished.get() {
        world.violate("the run does not end".to_string());
    }
    let violation = world.violation();
    world.end();
    violation
}

async fn scenario(world: World) {
    let network = Network::new(&world);
    let shape = world.draw(|random| Shape {
        brokers: 1,
        shards: 1,
        settings: Settings {
            flush_interval_ms: 0,
            broker_lease_ttl_ms: 60_000,
            segment_ms: 3_600_000,
            segment_small_ms: 3_600_000,
            auto_create_topics: false,
            ..Settings::default()
        },
        tuning: Tuning {
            housekeeping_interval: random.micros(20_000, 200_000),
            live_slots_max: 1_000,
            live_runs_max: random.between(6, 30),
            delete_grace: Duration::from_millis(500),
            ..Tuning::default()
        },
    });
    let cluster = Cluster::new(&world, &network, shape);
    cluster.start(0);
    let client = Client::new(&world, &network, 1);
    let segment_bytes = [("segment.bytes", "4000".to_string())];
    client.create_topic(TOPIC, PARTITIONS, &segment_bytes).await;
    let troubles = cluster.troubles(0);
    let until = world.now() + WHILE;
    while world.now() < until {
        troubles.meta_late_permille.set(LATE_PERMILLE);
        let (partition, bytes) = world.draw(|random| {
            let bytes = if random.permille(150) { 4_000 } else { 10 };
            (random.below(PARTITIONS as u64) as i32, bytes)
        });
        if !matches!(produce(&client, partition, bytes).await, Ok(ErrorCode::NONE)) {
            client.back_off().await;
        }
        client.pause_ms(0, 30).await;
    }
    troubles.heal();
}

async fn produce(client: &Client, partition: i32, bytes: usize) -> io::Result<ErrorCode> {
    let mut batch = BatchBuilder::new();
    batch.push(1_700_000_000_000, None, Some(&vec![7; bytes]), &[]);
    let records = batch.build().map_err(io::Error::other)?;
    let request = produce_request(TOPIC, -1, vec![(partition, records)]);
    let mut connection = client.connect(0).await?;
    let response: ProduceResponse = connection.ask(PRODUCE, &request).await?;
    Ok(response.responses[0].partition_responses[0].error_code)
}

#[test]
fn no_slot_of_a_stream_counts_twice_when_transactions_are_applied_late() {
    crate::start_logging();
    for seed in 0..20 {
        assert_eq!(run(seed), None, "seed {seed}");
    }
}
