//! A broker that was cut off from the metastore for longer than a fence lasts: its successor has taken over, the fence that
//! kept the two apart is forgotten, and a client still talks to it.

use crate::client::Client;
use crate::cluster::{Cluster, Shape};
use crate::executor::{World, ENVIRONMENT};
use crate::net::Network;
use crate::workload::produce_request;
use kafscale_broker::assembly::{away_max, Tuning};
use kafscale_broker::settings::Settings;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::ProduceResponse;
use kafscale_codec::record_batch::BatchBuilder;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

const TOPIC: &str = "t";
const PRODUCE: i16 = 9;

/// Longer than everything here takes.
const RUN_MAX: Duration = Duration::from_secs(300);

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
    world.run(RUN_MAX, || done.get());
    if !finished.get() {
        world.violate("the run does not end".to_string());
    }
    let violation = world.violation();
    world.end();
    violation
}

async fn scenario(world: World) {
    let network = Network::new(&world);
    let fence_life = world.draw(|random| random.micros(4_000_000, 10_000_000));
    let shape = world.draw(|random| Shape {
        brokers: 2,
        shards: 1,
        settings: Settings {
            flush_interval_ms: 0,
            broker_lease_ttl_ms: random.between(300, 900),
            segment_ms: 200,
            segment_small_ms: 0,
            auto_create_topics: false,
            ..Settings::default()
        },
        tuning: Tuning {
            housekeeping_interval: Duration::from_millis(50),
            reconcile_interval: Duration::from_millis(200),
            delete_grace: Duration::from_millis(200),
            put_give_up: Duration::from_secs(1),
            fence_life,
            away_max: away_max(fence_life),
            ..Tuning::default()
        },
    });
    let cluster = Cluster::new(&world, &network, shape);
    (0..2).for_each(|id| cluster.start(id));
    let client = Client::new(&world, &network, 2);
    client.create_topic(TOPIC, 1, &[]).await;
    let (first, _) = loop {
        match client.leaders(TOPIC).await.get(&0) {
            Some(leader) => break *leader,
            None => client.back_off().await,
        }
    };
    produce_until_stored(&client, first).await;
    cluster.troubles(first as usize).meta_gone.set(true);
    // The successor goes on, and rolls what it inherited: nothing needs the first one's stream then.
    produce_until_stored(&client, 1 - first).await;
    world.sleep(fence_life * 2).await;
    if let Ok(ErrorCode::NONE) = produce(&client, first).await {
        world.violate(format!(
            "broker {first} acknowledges records although it was replaced and the fence against it is forgotten"
        ));
    }
}

async fn produce_until_stored(client: &Client, broker: i32) {
    while !matches!(produce(client, broker).await, Ok(ErrorCode::NONE)) {
        client.back_off().await;
    }
}

async fn produce(client: &Client, broker: i32) -> io::Result<ErrorCode> {
    let mut batch = BatchBuilder::new();
    batch.push(1_700_000_000_000, None, Some(b"value"), &[]);
    let records = batch.build().map_err(io::Error::other)?;
    let request = produce_request(TOPIC, -1, vec![(0, records)]);
    let mut connection = client.connect(broker).await?;
    let response: ProduceResponse = connection.ask(PRODUCE, &request).await?;
    Ok(response.responses[0].partition_responses[0].error_code)
}

#[test]
fn a_broker_that_was_away_for_longer_than_a_fence_lasts_acknowledges_nothing() {
    crate::start_logging();
    for seed in 0..20 {
        assert_eq!(run(seed), None, "seed {seed}");
    }
}
