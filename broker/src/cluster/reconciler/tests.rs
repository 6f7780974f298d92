use super::*;
use crate::assembly::{introduce, Assembly, Tuning};
use crate::metrics::Metrics;
use crate::runtime::virtual_time::TestRuntime;
use crate::runtime::Runtime;
use crate::settings::Settings;
use bytes::Bytes;
use futures::executor::{block_on, LocalPool};
use kafscale_metastore::memory::MemoryMetastore;
use kafscale_metastore::{Metastore, Op, Txn};
use kafscale_storage_engine::object_store::memory::MemoryStore;
use kafscale_storage_engine::object_store::ObjectStore;
use kafscale_storage_engine::segment::{self, Part};
use kafscale_storage_engine::wal;
use std::sync::Arc;

struct Lab {
    pool: LocalPool,
    runtime: Rc<TestRuntime>,
    store: MemoryStore,
    metastore: MemoryMetastore,
    reconciler: Rc<Reconciler>,
}

impl Lab {
    fn new() -> Lab {
        let (pool, runtime) = TestRuntime::new(1);
        let (store, metastore) = (MemoryStore::new(), MemoryMetastore::new(|| 0));
        let settings = Settings {
            advertised_host: "test".to_string(),
            ..Settings::default()
        };
        let introduced = introduce(&metastore, &settings, 9092, Vec::new(), "c".to_string());
        let (broker, cluster_id) = block_on(introduced).unwrap();
        let (assembly, _) = Assembly::new(Arc::new(settings), Tuning::default(), broker, cluster_id);
        let shard = assembly.idle_shard(
            runtime.clone(),
            Rc::new(store.clone()),
            Rc::new(metastore.clone()),
            Metrics::new(0),
        );
        let reconciler = Rc::new(Reconciler::new(shard, Duration::from_secs(10)));
        Lab {
            pool,
            runtime,
            store,
            metastore,
            reconciler,
        }
    }

    fn create(&self, key: &str) {
        block_on(self.store.create(key, vec![Bytes::from_static(b"x")])).unwrap();
    }

    fn exists(&self, key: &str) -> bool {
        block_on(self.store.get_range(key, 0..1)).is_ok()
    }

    /// So many rounds, ten seconds apart.
    fn rounds(&mut self, count: u32) {
        let (reconciler, runtime) = (self.reconciler.clone(), self.runtime.clone());
        let rounds = async move {
            for _ in 0..count {
                runtime.sleep(Duration::from_secs(10)).await;
                reconciler.round().await.unwrap();
            }
        };
        self.runtime.run(&mut self.pool, rounds);
    }

    fn deleted(&self) -> u64 {
        self.reconciler.shard.metrics.orphaned_objects_deleted.get()
    }
}

fn namespace() -> String {
    Settings::default().namespace
}

fn slot(stream: u64) -> String {
    wal::slot_key(&namespace(), StreamId(stream), 3)
}

#[test]
fn objects_of_streams_without_a_record_go_and_those_of_numbers_not_yet_given_out_stay() {
    let mut lab = Lab::new();
    let opened = |lab: &Lab| block_on(streams::open_stream(&lab.metastore, 7, 1, 0)).unwrap().0;
    let (known, forgotten) = (opened(&lab), opened(&lab));
    // The metastore may be an older copy, which has not reached this number.
    let beyond = forgotten + 5;
    let record = block_on(streams::load_stream(&lab.metastore, forgotten))
        .unwrap()
        .unwrap();
    block_on(streams::forget_stream(&lab.metastore, forgotten, record.mod_revision)).unwrap();
    let keys = [known, forgotten, beyond].map(slot);
    keys.iter().for_each(|key| lab.create(key));
    let found = block_on(lab.reconciler.orphaned_streams()).unwrap();
    assert_eq!(found, [Deletion::OrphanedStream(forgotten)]);
    block_on(lab.store.delete(&keys[..1])).unwrap();
    lab.rounds(ROUNDS_PER_SEARCH - 1);
    assert!(lab.exists(&keys[1]), "the search is not due");
    lab.rounds(1);
    assert_eq!(keys.each_ref().map(|key| lab.exists(key))[1..], [false, true]);
    assert_eq!(lab.deleted(), 1);
}

#[test]
fn leftovers_go_in_the_second_search_that_finds_them() {
    let mut lab = Lab::new();
    let topic = topics::NewTopic {
        name: "orders".to_string(),
        topic_id: kafscale_codec::types::TopicId([0xab; 16]),
        partitions: 2,
        configs: BTreeMap::new(),
        created_ms: 0,
    };
    let topic = block_on(topics::create_topic(&lab.metastore, &topic)).unwrap().value;
    let record = PartitionRecord {
        leader: 1,
        leader_incarnation: 1,
        shard: 0,
        leader_epoch: 1,
        stream: 1,
        log_start_offset: 20,
        rolled_offset: 40,
        tail_streams: Vec::new(),
        epoch_starts: Vec::new(),
    };
    let key = kafscale_metastore::keys::partition_key(topic.topic_id, 1);
    let put = Op::Put {
        key,
        value: record.encode(),
        lease: None,
    };
    let txn = Txn {
        compares: Vec::new(),
        ops: vec![put],
    };
    block_on(lab.metastore.txn(txn)).unwrap();
    let part = |partition, base, part| segment::key(&namespace(), &topic.folder, partition, base, part);
    let [segments, snapshots] = deletion::topic_prefixes(&namespace(), topic.topic_id, &topic.folder);
    let left = [
        part(1, 10, Part::Index),
        part(1, 10, Part::Kfst),
        format!("{snapshots}1/{:020}.snap", 20),
    ];
    let stay = [
        part(1, 20, Part::Index),
        part(1, 20, Part::Kfs),
        part(1, 40, Part::Index),
        format!("{snapshots}1/{:020}.snap", 40),
        // No record says anything of this partition, nor of this folder.
        part(0, 10, Part::Index),
        segments.replace("orders", "others") + "1/" + &format!("segment-{:020}.index", 10),
    ];
    left.iter().chain(&stay).for_each(|key| lab.create(key));
    lab.rounds(ROUNDS_PER_SEARCH);
    assert!(
        left.iter().all(|key| lab.exists(key)),
        "somebody may be reading what the record before counted"
    );
    lab.rounds(ROUNDS_PER_SEARCH);
    assert_eq!(left.each_ref().map(|key| lab.exists(key)), [false; 3]);
    assert_eq!(stay.each_ref().map(|key| lab.exists(key)), [true; 6]);
    assert_eq!(lab.deleted(), 3);
}

#[test]
fn partitions_are_told_apart_however_many_pages_a_listing_has() {
    let lab = Lab::new();
    let prefix = format!("{}/orders/", namespace());
    let count = PAGE as i64 + 7;
    for partition in [1, 10, 2] {
        for base in 0..count {
            lab.create(&segment::key(&namespace(), "orders", partition, base, Part::Index));
        }
    }
    let record = |rolled_offset| PartitionRecord {
        leader: 1,
        leader_incarnation: 1,
        shard: 0,
        leader_epoch: 1,
        stream: 1,
        log_start_offset: rolled_offset,
        rolled_offset,
        tail_streams: Vec::new(),
        epoch_starts: Vec::new(),
    };
    let records = BTreeMap::from([(1, record(5)), (2, record(0)), (10, record(count))]);
    let mut found = Vec::new();
    block_on(
        lab.reconciler
            .search(&prefix, &records, leftovers::of_segments, &mut found),
    )
    .unwrap();
    assert_eq!(found.len() as i64, 5 + count);
}
