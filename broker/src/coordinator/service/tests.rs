use super::lane::put;
use super::*;
use crate::cluster::image::ClusterImage;
use crate::coordinator::{Commit, CommitOffset, DeleteOffsets, FetchOffsets, Join};
use crate::runtime::virtual_time::TestRuntime;
use bytes::Bytes;
use futures::executor::LocalPool;
use kafscale_metastore::faulty::{Call, CallFate, FaultPolicy, FaultyMetastore};
use kafscale_metastore::keys::group_slot;
use kafscale_metastore::keys::OffsetRecord;
use kafscale_metastore::memory::MemoryMetastore;
use kafscale_metastore::{Op, Txn};
use kafscale_storage_engine::object_store::LocalFuture;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::future::Future;

const TOPIC: TopicId = TopicId([1; 16]);

struct Lab {
    pool: LocalPool,
    runtime: Rc<TestRuntime>,
    store: MemoryMetastore,
    /// Whether the coordinators' broker is registered.
    registered: Rc<Cell<bool>>,
}

impl Lab {
    fn new(seed: u64) -> Self {
        let (pool, runtime) = TestRuntime::new(seed);
        let store = MemoryMetastore::new(|| 0);
        Lab {
            pool,
            runtime,
            store,
            registered: Rc::new(Cell::new(true)),
        }
    }

    fn faulty(&self, policy: Policy) -> Rc<dyn Metastore> {
        Rc::new(FaultyMetastore::new(Rc::new(self.store.clone()), Rc::new(policy)))
    }

    fn start(&self, metastore: Rc<dyn Metastore>) -> Running {
        self.start_with(metastore, vec![])
    }

    fn start_with(&self, metastore: Rc<dyn Metastore>, fences: Vec<Compare>) -> Running {
        let registered = self.registered.clone();
        let parts = ServiceParts {
            slot: group_slot("g"),
            holder: Holder {
                broker_id: 1,
                incarnation: 1,
            },
            runtime: self.runtime.clone(),
            metastore,
            fences,
            image: Box::new(|| {
                Arc::new(ClusterImage {
                    complete: true,
                    ..ClusterImage::default()
                })
            }),
            registered: Box::new(move || registered.get()),
        };
        let (handle, inbox) = inbox(1_024);
        let service = CoordinatorService::new(parts, ServiceConfig::default(), inbox);
        let end = Rc::new(RefCell::new(None));
        let (run, noted) = (service.clone().run(), end.clone());
        self.runtime
            .spawn("run", Box::pin(async move { *noted.borrow_mut() = Some(run.await) }));
        Running { service, handle, end }
    }

    /// Runs until `task` is done; time passes as needed.
    fn run<T: 'static>(&mut self, task: impl Future<Output = T> + 'static) -> T {
        self.runtime.run(&mut self.pool, task)
    }

    fn sleep(&mut self, duration: Duration) {
        let sleep = self.runtime.sleep(duration);
        self.run(sleep);
    }

    fn stored(&mut self, group: &str) -> Option<OffsetRecord> {
        let key = kafscale_metastore::keys::offset_key(group, TOPIC, 0);
        let store = self.store.clone();
        let found = self.run(async move { store.get(&key).await.unwrap() });
        found.map(|found| OffsetRecord::decode(&found.value).unwrap())
    }
}

struct Running {
    service: Rc<CoordinatorService>,
    handle: CoordinatorHandle,
    end: Rc<RefCell<Option<ServiceEnd>>>,
}

fn commit(group: &str, offset: i64) -> GroupRequest {
    GroupRequest::Commit(Commit {
        group_id: group.into(),
        generation_id: -1,
        retention_time_ms: -1,
        offsets: vec![CommitOffset {
            topic_id: TOPIC,
            offset,
            leader_epoch: -1,
            ..CommitOffset::default()
        }],
        ..Commit::default()
    })
}

fn fetch(group: &str) -> GroupRequest {
    let partitions = Some(vec![(TOPIC, 0)]);
    GroupRequest::FetchOffsets(FetchOffsets {
        group_id: group.into(),
        partitions,
        ..FetchOffsets::default()
    })
}

fn join(group: &str) -> GroupRequest {
    GroupRequest::Join(Join {
        group_id: group.into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), Bytes::new())],
        ..Join::default()
    })
}

/// Another group of the same slot.
fn neighbour() -> String {
    let names = (0..1_000).map(|at| format!("h{at}"));
    let found = names.into_iter().find(|name| group_slot(name) == group_slot("g"));
    found.unwrap()
}

fn fetched(reply: GroupReply) -> Option<i64> {
    match reply {
        GroupReply::Offsets { offsets, .. } => offsets[0].2.as_ref().map(|offset| offset.offset),
        other => panic!("{other:?}"),
    }
}

async fn call(handle: CoordinatorHandle, request: GroupRequest) -> GroupReply {
    handle.call(request).await
}

/// Asks until the coordinator has loaded.
async fn settled(handle: CoordinatorHandle, runtime: Rc<TestRuntime>, request: GroupRequest) -> GroupReply {
    loop {
        let reply = handle.call(request.clone()).await;
        if reply != request.refuse(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS) {
            return reply;
        }
        runtime.sleep(Duration::from_millis(5)).await;
    }
}

/// Draws faults with the given chances in percent.
struct Policy {
    runtime: Rc<TestRuntime>,
    unavailable: u64,
    unknown: u64,
    delay_max_ms: u64,
    txns: Rc<Cell<usize>>,
}

impl Policy {
    fn none(lab: &Lab) -> Self {
        Policy {
            runtime: lab.runtime.clone(),
            unavailable: 0,
            unknown: 0,
            delay_max_ms: 0,
            txns: Rc::default(),
        }
    }
}

impl FaultPolicy for Policy {
    fn before(&self, call: Call) -> LocalFuture<'static, CallFate> {
        self.txns.set(self.txns.get() + usize::from(call == Call::Txn));
        let runtime = self.runtime.clone();
        let (unavailable, unknown, delay_max_ms) = (self.unavailable, self.unknown, self.delay_max_ms);
        Box::pin(async move {
            if delay_max_ms > 0 {
                let delay = Duration::from_millis(runtime.random_u64() % delay_max_ms);
                runtime.sleep(delay).await;
            }
            let draw = runtime.random_u64() % 100;
            if draw < unavailable {
                return CallFate::Unavailable;
            }
            match (draw - unavailable < unknown, runtime.random_u64() % 3) {
                (false, _) => CallFate::Done,
                (true, 0) => CallFate::DoneUnknown,
                (true, 1) => CallFate::LostUnknown,
                (true, _) => CallFate::LateUnknown,
            }
        })
    }

    fn detach(&self, work: LocalFuture<'static, ()>) {
        let runtime = self.runtime.clone();
        let late = Duration::from_millis(runtime.random_u64() % 3_000);
        let spawner = runtime.clone();
        spawner.spawn(
            "late",
            Box::pin(async move {
                runtime.sleep(late).await;
                work.await;
            }),
        );
    }
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let mut lab = Lab::new(1);
    let first = lab.start(Rc::new(lab.store.clone()));
    assert_eq!(
        lab.run(call(first.handle.clone(), commit("g", 5))),
        GroupReply::Commit(vec![ErrorCode::NONE])
    );
    let reply = lab.run(call(first.handle.clone(), join(&neighbour())));
    let GroupReply::Join(joined) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!((joined.error_code, joined.generation_id), (ErrorCode::NONE, 1));
    first.service.stop();
    lab.sleep(Duration::from_millis(50));
    assert_eq!(*first.end.borrow(), Some(ServiceEnd::Stopped));
    let second = lab.start(Rc::new(lab.store.clone()));
    assert_eq!(fetched(lab.run(call(second.handle.clone(), fetch("g")))), Some(5));
    let described = lab.run(call(
        second.handle.clone(),
        GroupRequest::Describe {
            groups: vec![neighbour()],
        },
    ));
    let GroupReply::Described(groups) = described else {
        panic!()
    };
    assert_eq!(groups[0].members[0].member_id, joined.member_id);
}

#[test]
fn while_groups_are_loaded_clients_hear_that() {
    let mut lab = Lab::new(1);
    let slow = lab.faulty(Policy {
        delay_max_ms: 500,
        ..Policy::none(&lab)
    });
    let running = lab.start(slow);
    let loading = GroupReply::Commit(vec![ErrorCode::COORDINATOR_LOAD_IN_PROGRESS]);
    assert_eq!(lab.run(call(running.handle.clone(), commit("g", 5))), loading);
    let runtime = lab.runtime.clone();
    let reply = lab.run(settled(running.handle.clone(), runtime, commit("g", 5)));
    assert_eq!(reply, GroupReply::Commit(vec![ErrorCode::NONE]));
}

#[test]
fn a_successor_fences_its_predecessor() {
    let mut lab = Lab::new(1);
    let first = lab.start(Rc::new(lab.store.clone()));
    lab.run(call(first.handle.clone(), commit("g", 5)));
    let second = lab.start(Rc::new(lab.store.clone()));
    assert_eq!(fetched(lab.run(call(second.handle.clone(), fetch("g")))), Some(5));
    let refused = GroupReply::Commit(vec![ErrorCode::NOT_COORDINATOR]);
    assert_eq!(lab.run(call(first.handle.clone(), commit("g", 4))), refused);
    assert_eq!(*first.end.borrow(), Some(ServiceEnd::Fenced));
    assert_eq!(lab.stored("g").map(|offset| offset.offset), Some(5));
    assert_eq!(
        lab.run(call(first.handle.clone(), commit("g", 4))),
        refused,
        "and so it stays"
    );
    let reply = lab.run(call(second.handle.clone(), commit("g", 6)));
    assert_eq!(reply, GroupReply::Commit(vec![ErrorCode::NONE]));
}

#[test]
fn a_broker_that_lost_its_registration_stores_nothing() {
    let mut lab = Lab::new(1);
    let key = Bytes::from_static(b"/registration");
    let registration = put(key.clone(), Bytes::new());
    let store = lab.store.clone();
    lab.run(async move {
        store
            .txn(Txn {
                compares: vec![],
                ops: vec![registration],
            })
            .await
            .unwrap()
    });
    let running = lab.start_with(Rc::new(lab.store.clone()), vec![Compare::Present(key.clone())]);
    lab.run(call(running.handle.clone(), commit("g", 5)));
    let store = lab.store.clone();
    lab.run(async move {
        store
            .txn(Txn {
                compares: vec![],
                ops: vec![Op::Delete(key)],
            })
            .await
            .unwrap()
    });
    let reply = lab.run(call(running.handle.clone(), commit("g", 6)));
    assert_eq!(reply, GroupReply::Commit(vec![ErrorCode::NOT_COORDINATOR]));
    assert_eq!(lab.stored("g").map(|offset| offset.offset), Some(5));
}

#[test]
fn commits_that_come_together_share_transactions() {
    let mut lab = Lab::new(1);
    let policy = Policy {
        delay_max_ms: 10,
        ..Policy::none(&lab)
    };
    let txns = policy.txns.clone();
    let running = lab.start(lab.faulty(policy));
    let runtime = lab.runtime.clone();
    lab.run(settled(running.handle.clone(), runtime, commit("g", 1)));
    let before = txns.get();
    let calls: Vec<_> = (0..1_000)
        .map(|n| call(running.handle.clone(), commit(&format!("g{n}"), 1)))
        .collect();
    let replies = lab.run(futures::future::join_all(calls));
    assert!(replies
        .iter()
        .all(|reply| *reply == GroupReply::Commit(vec![ErrorCode::NONE])));
    let used = txns.get() - before;
    assert!(used < 30, "{used} transactions for 1,000 commits");
}

#[test]
fn who_waits_for_a_metastore_that_is_away_hears_so_after_a_while() {
    let mut lab = Lab::new(1);
    let running = lab.start(Rc::new(lab.store.clone()));
    lab.run(call(running.handle.clone(), commit("g", 1)));
    running.service.stop();
    lab.sleep(Duration::from_secs(2));
    let away = Rc::new(Cell::new(false));
    let running = lab.start(Rc::new(FaultyMetastore::new(
        Rc::new(lab.store.clone()),
        Rc::new(Switch(away.clone())),
    )));
    lab.run(call(running.handle.clone(), fetch("g")));
    away.set(true);
    let reply = lab.run(call(running.handle.clone(), commit("g", 2)));
    assert_eq!(reply, GroupReply::Commit(vec![ErrorCode::COORDINATOR_NOT_AVAILABLE]));
    away.set(false);
    let reply = lab.run(call(running.handle.clone(), commit("g", 3)));
    assert_eq!(reply, GroupReply::Commit(vec![ErrorCode::NONE]));
}

struct Switch(Rc<Cell<bool>>);

impl FaultPolicy for Switch {
    fn before(&self, _: Call) -> LocalFuture<'static, CallFate> {
        let away = self.0.get();
        Box::pin(async move {
            if away {
                CallFate::Unavailable
            } else {
                CallFate::Done
            }
        })
    }
}

/// Puts a value into the store as somebody else would.
fn put_value(lab: &mut Lab, key: Bytes, value: &'static [u8]) {
    let store = lab.store.clone();
    let ops = vec![put(key, Bytes::from_static(value))];
    lab.run(async move { store.txn(Txn { compares: vec![], ops }).await.unwrap() });
}

#[test]
fn a_committed_offset_that_cannot_be_read_concerns_its_partition_alone_and_is_not_overwritten() {
    let mut lab = Lab::new(1);
    let other = neighbour();
    let key = kafscale_metastore::keys::offset_key("g", TOPIC, 0);
    put_value(&mut lab, key.clone(), b"\x02 of a newer version");
    let running = lab.start(Rc::new(lab.store.clone()));
    lab.sleep(Duration::from_millis(10));
    assert_eq!(running.service.phase(), Phase::Serving);
    assert_eq!(running.service.unreadable().len(), 1);
    // Neither "nothing was committed" nor a new value in its place.
    let GroupReply::Offsets {
        offsets, unreadable, ..
    } = lab.run(call(running.handle.clone(), fetch("g")))
    else {
        panic!()
    };
    assert_eq!((offsets, unreadable), (vec![], vec![(TOPIC, 0)]));
    let refused = GroupReply::Commit(vec![ErrorCode::COORDINATOR_LOAD_IN_PROGRESS]);
    assert_eq!(lab.run(call(running.handle.clone(), commit("g", 5))), refused);
    // Its neighbours are served.
    let accepted = GroupReply::Commit(vec![ErrorCode::NONE]);
    assert_eq!(lab.run(call(running.handle.clone(), commit(&other, 7))), accepted);
    let store = lab.store.clone();
    let (looked, kept) = (key.clone(), Bytes::from_static(b"\x02 of a newer version"));
    assert_eq!(
        lab.run(async move { store.get(&looked).await.unwrap().unwrap().value }),
        kept
    );
    // Once it can be read, the slot is loaded anew.
    let stored = OffsetRecord {
        offset: 5,
        leader_epoch: -1,
        metadata: String::new(),
        commit_ms: 0,
        expire_ms: None,
    };
    let store = lab.store.clone();
    let ops = vec![put(key, stored.encode())];
    lab.run(async move { store.txn(Txn { compares: vec![], ops }).await.unwrap() });
    lab.sleep(RELOOK_INTERVAL * 2);
    assert_eq!(*running.end.borrow(), Some(ServiceEnd::Stopped));
    let running = lab.start(Rc::new(lab.store.clone()));
    lab.sleep(Duration::from_millis(10));
    assert_eq!(fetched(lab.run(call(running.handle.clone(), fetch("g")))), Some(5));
}

#[test]
fn a_committed_offset_that_cannot_be_read_goes_when_somebody_deletes_it() {
    let mut lab = Lab::new(1);
    let key = kafscale_metastore::keys::offset_key("g", TOPIC, 0);
    put_value(&mut lab, key, b"\xff");
    let running = lab.start(Rc::new(lab.store.clone()));
    lab.sleep(Duration::from_millis(10));
    let delete = GroupRequest::DeleteOffsets(DeleteOffsets {
        group_id: "g".into(),
        partitions: vec![("t".into(), TOPIC, 0)],
    });
    lab.run(call(running.handle.clone(), delete));
    let accepted = GroupReply::Commit(vec![ErrorCode::NONE]);
    assert_eq!(lab.run(call(running.handle.clone(), commit("g", 5))), accepted);
    assert_eq!(lab.stored("g").map(|offset| offset.offset), Some(5));
}

#[test]
fn a_group_whose_state_cannot_be_read_waits_and_the_others_of_its_slot_are_served() {
    let mut lab = Lab::new(1);
    put_value(&mut lab, kafscale_metastore::keys::group_key("g"), b"\xff");
    let running = lab.start(Rc::new(lab.store.clone()));
    lab.sleep(Duration::from_millis(10));
    let refused = GroupReply::Commit(vec![ErrorCode::COORDINATOR_LOAD_IN_PROGRESS]);
    assert_eq!(lab.run(call(running.handle.clone(), commit("g", 5))), refused);
    let accepted = GroupReply::Commit(vec![ErrorCode::NONE]);
    assert_eq!(lab.run(call(running.handle.clone(), commit(&neighbour(), 5))), accepted);
    assert_eq!(*running.end.borrow(), None);
}

#[test]
fn a_request_that_waited_while_the_registration_lapsed_is_not_answered_from_memory() {
    let mut lab = Lab::new(1);
    let running = lab.start(Rc::new(lab.store.clone()));
    lab.run(call(running.handle.clone(), commit("g", 5)));
    assert_eq!(fetched(lab.run(call(running.handle.clone(), fetch("g")))), Some(5));
    // It is in the inbox; then the process stands still, and another coordinator stores 6.
    let waiting = futures::executor::block_on(running.handle.submit(fetch("g")));
    lab.registered.set(false);
    let reply = lab.run(waiting.reply());
    assert_eq!(reply, fetch("g").refuse(ErrorCode::NOT_COORDINATOR));
}

#[test]
fn sessions_end_by_the_clock_of_the_runtime() {
    let mut lab = Lab::new(1);
    let running = lab.start(Rc::new(lab.store.clone()));
    lab.run(call(running.handle.clone(), join("g")));
    let state = |lab: &mut Lab| {
        let describe = GroupRequest::Describe {
            groups: vec!["g".into()],
        };
        let GroupReply::Described(groups) = lab.run(call(running.handle.clone(), describe)) else {
            panic!()
        };
        groups[0].group_state.clone()
    };
    lab.sleep(Duration::from_millis(9_900));
    assert_eq!(state(&mut lab), "CompletingRebalance");
    lab.sleep(Duration::from_millis(200));
    assert_eq!(state(&mut lab), "Empty");
}

#[test]
fn offsets_expire_without_being_asked_for() {
    let mut lab = Lab::new(1);
    let running = lab.start(Rc::new(lab.store.clone()));
    lab.run(call(running.handle.clone(), commit("g", 5)));
    lab.sleep(Duration::from_secs(7 * 24 * 3600 - 1200));
    assert!(lab.stored("g").is_some());
    lab.sleep(Duration::from_secs(2400));
    assert_eq!(lab.stored("g"), None);
}

#[test]
fn offsets_go_with_their_topic_once_its_deletion_is_recorded() {
    let mut lab = Lab::new(1);
    let running = lab.start(Rc::new(lab.store.clone()));
    lab.run(call(running.handle.clone(), commit("g", 5)));
    let forget = |lab: &mut Lab, deleted: &[TopicId]| {
        running
            .service
            .forget_deleted_topics(&deleted.iter().copied().collect());
        lab.sleep(Duration::from_millis(50));
        lab.stored("g").map(|offset| offset.offset)
    };
    assert_eq!(forget(&mut lab, &[]), Some(5), "a topic that is missing is not deleted");
    assert_eq!(forget(&mut lab, &[TopicId([9; 16])]), Some(5));
    assert_eq!(forget(&mut lab, &[TOPIC]), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Three coordinators in a row, the earlier ones cut off without a word, over a metastore of which nobody ever
    /// knows: what was acknowledged last is never overwritten by what came before it.
    #[test]
    fn no_commit_is_lost_or_overtaken_by_a_late_transaction(
        seed in any::<u64>(),
        unavailable in 0..30u64,
        unknown in 0..60u64,
        groups in 1..6i64,
    ) {
        let mut lab = Lab::new(seed);
        let policy = || Policy { unavailable, unknown, delay_max_ms: 40, ..Policy::none(&lab) };
        let stores: Vec<Rc<dyn Metastore>> = (0..3).map(|_| lab.faulty(policy())).collect();
        let mut acknowledged: BTreeMap<i64, i64> = BTreeMap::new();
        let mut offset = 0;
        for store in stores {
            let running = lab.start(store);
            let runtime = lab.runtime.clone();
            lab.run(settled(running.handle.clone(), runtime, fetch("g0")));
            for _ in 0..4 {
                let mut calls = Vec::new();
                for _ in 0..10 {
                    offset += 1;
                    let (group, offset) = (offset % groups, offset);
                    let pending = lab.run({
                        let handle = running.handle.clone();
                        async move { handle.submit(commit(&format!("g{group}"), offset)).await }
                    });
                    calls.push(async move { (group, offset, pending.reply().await) });
                }
                for (group, offset, reply) in lab.run(futures::future::join_all(calls)) {
                    if reply == GroupReply::Commit(vec![ErrorCode::NONE]) {
                        let last = acknowledged.entry(group).or_default();
                        *last = offset.max(*last);
                    }
                }
                for (group, acknowledged) in &acknowledged {
                    let stored = lab.stored(&format!("g{group}")).map(|stored| stored.offset);
                    prop_assert!(stored >= Some(*acknowledged), "{stored:?} < {acknowledged}");
                }
            }
        }
        lab.sleep(Duration::from_secs(10));
        for (group, acknowledged) in &acknowledged {
            let stored = lab.stored(&format!("g{group}")).map(|stored| stored.offset);
            prop_assert!(stored >= Some(*acknowledged), "late: {stored:?} < {acknowledged}");
        }
    }
}
