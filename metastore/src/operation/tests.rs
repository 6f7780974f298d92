use crate::counters::allocate;
use crate::faulty::{Call, CallFate, FaultPolicy, FaultyMetastore};
use crate::keys::StreamState;
use crate::memory::MemoryMetastore;
use crate::store::{LocalFuture, Metastore, MetastoreError};
use crate::streams::{advance_first_live, load_stream, mark_sealing, open_stream, seal};
use crate::topics::{create_topic, load_topics, NewTopic};
use crate::OperationError;
use futures::executor::block_on;
use kafscale_codec::types::TopicId;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::rc::Rc;

/// Gives transactions their fates in turn; the last one for ever.
struct Script {
    fates: Vec<CallFate>,
    next: Cell<usize>,
    late: RefCell<Vec<LocalFuture<'static, ()>>>,
}

impl FaultPolicy for Script {
    fn before(&self, call: Call) -> LocalFuture<'static, CallFate> {
        let mut fate = CallFate::Done;
        if call == Call::Txn {
            fate = self.fates.get(self.next.get()).copied().unwrap_or_default();
            self.next.set(self.next.get() + 1);
        }
        Box::pin(ready(fate))
    }

    fn detach(&self, work: LocalFuture<'static, ()>) {
        self.late.borrow_mut().push(work);
    }
}

impl Script {
    /// What was late arrives.
    fn arrive(&self) {
        let late = self.late.take();
        late.into_iter().for_each(block_on);
    }
}

fn store(fates: &[CallFate]) -> (FaultyMetastore, Rc<Script>) {
    let script = Rc::new(Script {
        fates: fates.to_vec(),
        next: Cell::new(0),
        late: RefCell::default(),
    });
    (
        FaultyMetastore::new(Rc::new(MemoryMetastore::new(|| 0)), script.clone()),
        script,
    )
}

fn topic(id: u8) -> NewTopic {
    let topic_id = TopicId([id; 16]);
    NewTopic {
        name: "t".to_string(),
        topic_id,
        partitions: 1,
        configs: BTreeMap::new(),
        created_ms: 0,
    }
}

#[test]
fn a_write_whose_answer_was_lost_is_found_by_reading_back() {
    let (store, _) = store(&[CallFate::DoneUnknown]);
    let created = block_on(create_topic(&store, &topic(1))).unwrap();
    assert_eq!((created.value.folder.as_str(), created.mod_revision), ("t", 1));
}

#[test]
fn a_write_that_does_not_show_stays_unknown_since_it_may_be_late() {
    let (store, script) = store(&[CallFate::LateUnknown]);
    let unknown = block_on(create_topic(&store, &topic(1)));
    assert!(
        matches!(
            unknown,
            Err(OperationError::Metastore(MetastoreError::OutcomeUnknown(_)))
        ),
        "{unknown:?}"
    );
    script.arrive();
    let again = block_on(create_topic(&store, &topic(1))).unwrap();
    assert_eq!(again.value.folder, "t", "the late creation is ours");
    assert_eq!(block_on(load_topics(&store)).unwrap().items.len(), 1);
}

#[test]
fn a_late_write_fails_once_another_was_made() {
    let (store, script) = store(&[CallFate::LateUnknown]);
    block_on(create_topic(&store, &topic(1))).unwrap_err();
    let second = block_on(create_topic(&store, &topic(2))).unwrap();
    script.arrive();
    assert_eq!(block_on(load_topics(&store)).unwrap().items[0].1, second);
}

#[test]
fn a_late_trim_never_applies_to_a_sealing_stream() {
    // The counter, the stream, then the trim.
    let (store, script) = store(&[CallFate::Done, CallFate::Done, CallFate::LateUnknown]);
    let (stream, opened) = block_on(open_stream(&store, 1, 1, 0)).unwrap();
    block_on(advance_first_live(&store, stream, &opened, 5, Vec::new())).unwrap_err();
    block_on(mark_sealing(&store, stream)).unwrap();
    script.arrive();
    let found = block_on(load_stream(&store, stream)).unwrap().unwrap();
    assert_eq!(
        (found.value.state, found.value.first_live_seq),
        (StreamState::Sealing, 0)
    );
}

fn fates() -> impl Strategy<Value = Vec<CallFate>> {
    let fate = prop_oneof![
        2 => Just(CallFate::Done),
        1 => Just(CallFate::DoneUnknown),
        1 => Just(CallFate::LostUnknown),
        1 => Just(CallFate::LateUnknown),
        1 => Just(CallFate::Unavailable),
    ];
    proptest::collection::vec(fate, 0..20)
}

proptest! {
    #[test]
    fn no_number_is_given_twice_whatever_fails(fates in fates(), arrivals in proptest::collection::vec(any::<bool>(), 12)) {
        let (store, script) = store(&fates);
        let mut given = BTreeSet::new();
        for arrives in arrivals {
            if let Ok(first) = block_on(allocate(&store, "n", 3)) {
                prop_assert!((first..first + 3).all(|number| given.insert(number)));
            }
            if arrives {
                script.arrive();
            }
        }
    }

    #[test]
    fn successors_agree_on_one_end_whatever_fails(fates in fates(), ends in proptest::collection::vec(0u64..9, 1..6)) {
        let (store, script) = store(&[vec![CallFate::Done; 2], fates].concat());
        let (stream, _) = block_on(open_stream(&store, 1, 1, 0)).unwrap();
        let mut agreed = None;
        for end_seq in ends {
            let sealed = block_on(async {
                mark_sealing(&store, stream).await?;
                seal(&store, stream, end_seq, 0).await
            });
            script.arrive();
            if let Ok(sealed) = sealed {
                prop_assert!(agreed.is_none_or(|state| state == sealed.value.state));
                agreed = Some(sealed.value.state);
            }
        }
        if let Some(state) = agreed {
            prop_assert_eq!(block_on(load_stream(&store, stream)).unwrap().unwrap().value.state, state);
        }
    }
}

#[test]
fn a_broken_watch_stays_broken() {
    struct Breaks;
    impl FaultPolicy for Breaks {
        fn deliver(&self) -> LocalFuture<'static, crate::faulty::WatchFate> {
            Box::pin(ready(crate::faulty::WatchFate::Compacted))
        }
    }
    let store = FaultyMetastore::new(Rc::new(MemoryMetastore::new(|| 0)), Rc::new(Breaks));
    let mut watch = block_on(store.watch(b"", 1)).unwrap();
    block_on(allocate(&store, "n", 1)).unwrap();
    for _ in 0..2 {
        assert_eq!(block_on(watch.next()), Err(MetastoreError::Compacted(1)));
    }
}
