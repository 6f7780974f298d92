//! Records of a version that nobody here knows, as a newer broker would write them into the metastore.

use crate::executor::World;
use bytes::Bytes;
use kafscale_codec::types::TopicId;
use kafscale_metastore::keys::{
    broker_key, deleted_key, partition_key, stream_key, topic_key, PARTITIONS_PREFIX, STREAMS_PREFIX, TOPICS_PREFIX,
};
use kafscale_metastore::memory::MemoryMetastore;
use kafscale_metastore::{prefix_end, Compare, Metastore, Op, Txn};

/// A version that is none.
const VERSION: u8 = 200;

/// What a key held, and what it holds now.
pub struct Placed {
    key: Bytes,
    before: Option<Bytes>,
    now: Bytes,
}

/// Puts a record of an unknown version beside the others, or makes an existing one such a record.
pub async fn place(world: &World, metastore: &MemoryMetastore) -> Option<Placed> {
    let which = world.draw(|random| random.below(8));
    let nobody = TopicId([0xfe; 16]);
    let key = match which {
        0 => topic_key("!"),
        1 => topic_key("~"),
        2 => partition_key(nobody, 0),
        3 => stream_key(u64::MAX),
        4 => deleted_key(nobody),
        5 => broker_key(1_000_000),
        _ => {
            let prefix = world.draw(|random| *random.pick(&[TOPICS_PREFIX, PARTITIONS_PREFIX, STREAMS_PREFIX]));
            let found = metastore.range(prefix, &prefix_end(prefix), 100).await.ok()?.items;
            if found.is_empty() {
                return None;
            }
            world.draw(|random| random.pick(&found).key.clone())
        }
    };
    let found = metastore.get(&key).await.ok()?;
    let before = found.map(|found| found.value);
    let mut value = before
        .clone()
        .unwrap_or_else(|| Bytes::from_static(b"\0newer"))
        .to_vec();
    *value.first_mut()? = VERSION;
    log::info!("nemesis: {:?} is of version {VERSION}", String::from_utf8_lossy(&key));
    let placed = Placed {
        now: value.into(),
        before,
        key,
    };
    put(metastore, Vec::new(), &placed.key, Some(placed.now.clone())).await;
    Some(placed)
}

impl Placed {
    /// Puts back what was there, unless somebody has written since.
    pub async fn undo(self, metastore: &MemoryMetastore) {
        if let Ok(Some(found)) = metastore.get(&self.key).await {
            if found.value == self.now {
                let unchanged = Compare::ModRevision(self.key.clone(), found.mod_revision);
                put(metastore, vec![unchanged], &self.key, self.before).await;
            }
        }
    }
}

async fn put(metastore: &MemoryMetastore, compares: Vec<Compare>, key: &Bytes, value: Option<Bytes>) {
    let key = key.clone();
    let op = match value {
        Some(value) => Op::Put {
            key,
            value,
            lease: None,
        },
        None => Op::Delete(key),
    };
    let txn = Txn {
        compares,
        ops: vec![op],
    };
    metastore
        .txn(txn)
        .await
        .expect("a store in memory does every transaction");
}
