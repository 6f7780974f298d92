//! Placement: once all is well, every partition is led by the broker that the rendezvous picks among the live ones.

use kafscale_broker::assembly::RunningShard;
use kafscale_broker::cluster::image::preferred_broker;
use std::rc::Rc;

/// How many partitions are led, and those whose leader is another broker than it should be.
pub fn look(shards: &[Rc<RunningShard>]) -> (usize, Vec<String>) {
    let (mut led, mut misplaced) = (0, Vec::new());
    for running in shards {
        let (image, stats) = (running.shard.image(), running.shard.stats());
        let here = running.shard.config.broker_id;
        for partition in &stats.partitions {
            led += 1;
            let wanted = preferred_broker(&image, partition.key.topic_id, partition.key.partition);
            if wanted != Some(here) {
                misplaced.push(format!(
                    "{}-{} at {here} instead of {wanted:?}",
                    partition.topic, partition.key.partition
                ));
            }
        }
    }
    (led, misplaced)
}
