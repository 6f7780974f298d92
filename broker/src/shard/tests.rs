//! The bounds of a shard's queues.

use super::admin::DELETIONS_MAX;
use super::housekeeping::DOOMED_MAX;
use super::Shard;
use crate::assembly::{introduce, Assembly, Tuning};
use crate::mailbox::DeleteRecordsRequest;
use crate::metrics::Metrics;
use crate::runtime::virtual_time::TestRuntime;
use crate::settings::Settings;
use bytes::Bytes;
use futures::channel::oneshot;
use futures::executor::{block_on, LocalPool};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::types::TopicId;
use kafscale_metastore::memory::MemoryMetastore;
use kafscale_storage_engine::object_store::faulty::{Call, CallFate, FaultPolicy, FaultyStore, Request};
use kafscale_storage_engine::object_store::memory::MemoryStore;
use kafscale_storage_engine::object_store::{LocalFuture, ObjectStore};
use kafscale_storage_engine::partition_log::PartitionKey;
use std::cell::Cell;
use std::future::ready;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A store that deletes nothing for a while.
#[derive(Default)]
struct KeepsAll {
    keeps: Cell<bool>,
}

impl FaultPolicy for KeepsAll {
    fn before(&self, request: Request<'_>) -> LocalFuture<'static, CallFate> {
        let fate = match request.call {
            Call::Delete if self.keeps.get() => CallFate::Unavailable,
            _ => CallFate::Done,
        };
        Box::pin(ready(fate))
    }
}

fn shard(store: Rc<dyn ObjectStore>) -> (LocalPool, Rc<Shard>) {
    let (pool, runtime) = TestRuntime::new(1);
    let metastore = Rc::new(MemoryMetastore::new(|| 0));
    let settings = Settings {
        advertised_host: "test".to_string(),
        ..Settings::default()
    };
    let introduced = introduce(&*metastore, &settings, 9092, Vec::new(), "c".to_string());
    let (broker, cluster_id) = block_on(introduced).unwrap();
    let (assembly, _) = Assembly::new(Arc::new(settings), Tuning::default(), broker, cluster_id);
    (pool, assembly.idle_shard(runtime, store, metastore, Metrics::new(0)))
}

#[test]
fn objects_that_wait_to_be_deleted_are_bounded_and_go_once_the_store_deletes_again() {
    let objects = MemoryStore::new();
    block_on(objects.create("ns/first", vec![Bytes::from_static(b"x")])).unwrap();
    let policy = Rc::new(KeepsAll::default());
    policy.keeps.set(true);
    let (_pool, shard) = shard(Rc::new(FaultyStore::new(Rc::new(objects.clone()), policy.clone())));
    {
        let mut state = shard.state.borrow_mut();
        state.doom(Duration::ZERO, "ns/first".to_string());
        for number in 0..DOOMED_MAX + 10 {
            state.doom(Duration::ZERO, format!("ns/{number}"));
        }
        assert_eq!(state.doomed.len(), DOOMED_MAX);
        assert!(!state.may_doom(), "retention waits");
    }
    assert!(block_on(shard.housekeeping()).is_err());
    assert_eq!(shard.state.borrow().doomed.len(), DOOMED_MAX, "nothing is forgotten");
    policy.keeps.set(false);
    block_on(shard.housekeeping()).unwrap();
    assert!(shard.state.borrow().doomed.is_empty() && shard.state.borrow().may_doom());
    assert!(block_on(objects.get_range("ns/first", 0..1)).is_err(), "it is gone");
}

#[test]
fn deletions_of_records_beyond_the_bound_are_refused_at_once() {
    let (_pool, shard) = shard(Rc::new(MemoryStore::new()));
    let mut answers = Vec::new();
    for _ in 0..DELETIONS_MAX + 1 {
        let (reply, answer) = oneshot::channel();
        let key = PartitionKey {
            topic_id: TopicId([1; 16]),
            partition: 0,
        };
        shard.accept_delete_records(DeleteRecordsRequest { key, offset: 0, reply });
        answers.push(answer);
    }
    assert_eq!(shard.state.borrow().deletions.len(), DELETIONS_MAX);
    let last = answers.pop().expect("there is one more than the bound");
    assert_eq!(
        block_on(last).unwrap().error,
        ErrorCode::REQUEST_TIMED_OUT,
        "clients try again"
    );
    block_on(shard.housekeeping()).unwrap();
    assert!(shard.state.borrow().deletions.is_empty());
    for answer in answers {
        assert_eq!(block_on(answer).unwrap().error, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    }
}
