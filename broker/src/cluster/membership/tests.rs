use super::*;
use crate::runtime::virtual_time::TestRuntime;
use futures::executor::LocalPool;
use kafscale_metastore::brokers::load_brokers;
use kafscale_metastore::faulty::{Call, CallFate, FaultPolicy, FaultyMetastore};
use kafscale_metastore::memory::MemoryMetastore;
use kafscale_metastore::{Op, Txn};
use kafscale_storage_engine::object_store::LocalFuture;

const TTL: Duration = Duration::from_secs(3);

struct Lab {
    pool: LocalPool,
    runtime: Rc<TestRuntime>,
    store: MemoryMetastore,
}

impl Lab {
    fn new() -> Lab {
        let (pool, runtime) = TestRuntime::new(1);
        let clock = runtime.clone();
        let store = MemoryMetastore::new(move || clock.now().as_millis() as u64);
        let (clock, expiring) = (runtime.clone(), store.clone());
        runtime.spawn(
            "leases",
            Box::pin(async move {
                loop {
                    clock.sleep(Duration::from_millis(10)).await;
                    expiring.expire(clock.now().as_millis() as u64);
                }
            }),
        );
        Lab { pool, runtime, store }
    }

    fn start(&self, incarnation: u64, host: &str) -> Rc<Membership> {
        self.start_on(Rc::new(self.store.clone()), incarnation, host)
    }

    fn start_on(&self, metastore: Rc<dyn Metastore>, incarnation: u64, host: &str) -> Rc<Membership> {
        let membership = Membership::new(
            self.runtime.clone(),
            metastore,
            "c".to_string(),
            broker(incarnation, host),
            LeaseTerms::among_brokers(TTL),
            Vec::new(),
            Arc::default(),
        );
        membership.start();
        membership
    }

    fn sleep(&mut self, duration: Duration) {
        let sleep = self.runtime.sleep(duration);
        self.runtime.run(&mut self.pool, sleep);
    }

    fn end_of(&mut self, membership: &Rc<Membership>) -> String {
        let membership = membership.clone();
        let replaced = async move { membership.replaced().await };
        self.runtime.run(&mut self.pool, replaced).to_string()
    }

    /// The incarnations that are registered.
    fn registered(&mut self) -> Vec<u64> {
        let store = self.store.clone();
        let found = async move { load_brokers(&store).await.unwrap().items };
        let found = self.runtime.run(&mut self.pool, found);
        found.into_iter().map(|broker| broker.value.incarnation).collect()
    }
}

fn broker(incarnation: u64, host: &str) -> BrokerRecord {
    BrokerRecord {
        broker_id: 1,
        incarnation,
        host: host.to_string(),
        port: 9092,
        rack: None,
        shards: 1,
        shard_ports: Vec::new(),
    }
}

#[test]
fn a_broker_that_starts_again_replaces_its_earlier_life_which_ends_if_it_still_runs() {
    let mut lab = Lab::new();
    let first = lab.start(1, "a");
    lab.sleep(Duration::from_millis(100));
    assert_eq!(first.term(), Some(1));
    let second = lab.start(2, "a");
    lab.sleep(Duration::from_millis(100));
    assert_eq!((lab.registered(), second.term()), (vec![2], Some(1)), "without a wait");
    let error = lab.end_of(&first);
    for part in [
        "broker id 1",
        "a:9092 (incarnation 2, started 2023-11-14T22:13:20Z)",
        "broker_id",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(first.term(), None);
    lab.sleep(TTL * 5);
    assert_eq!(lab.registered(), [2], "the loser does not come back");
}

#[test]
fn a_broker_whose_id_lives_at_another_address_ends_and_the_other_goes_on() {
    let mut lab = Lab::new();
    let first = lab.start(1, "a");
    lab.sleep(Duration::from_millis(100));
    let second = lab.start(2, "b");
    let error = lab.end_of(&second);
    assert!(error.contains("a:9092 (incarnation 1, started "), "{error}");
    assert!(error.contains("is alive"), "{error}");
    assert_eq!(
        (lab.registered(), first.term(), second.term()),
        (vec![1], Some(1), None)
    );
}

#[test]
fn a_broker_that_comes_back_at_another_address_starts_once_its_lease_is_over() {
    let mut lab = Lab::new();
    let store = lab.store.clone();
    let died = async move {
        let lease = store.lease_grant(TTL.as_millis() as u64).await.unwrap();
        register_broker(&store, lease, &broker(1, "a"), 0, None).await.unwrap();
    };
    lab.runtime.run(&mut lab.pool, died);
    let second = lab.start(2, "b");
    lab.sleep(TTL - Duration::from_millis(100));
    assert_eq!(lab.registered(), [1]);
    lab.sleep(Duration::from_millis(100) + RETRY_PAUSE * 2);
    assert_eq!((lab.registered(), second.term()), (vec![2], Some(1)));
}

#[test]
fn a_registration_that_is_gone_under_a_living_lease_is_made_anew_under_another_term() {
    let mut lab = Lab::new();
    let first = lab.start(1, "a");
    lab.sleep(Duration::from_millis(100));
    let store = lab.store.clone();
    let ops = vec![Op::Delete(broker_key(1))];
    let removed = async move { store.txn(Txn { compares: vec![], ops }).await.unwrap() };
    lab.runtime.run(&mut lab.pool, removed);
    lab.sleep(TTL);
    assert_eq!((lab.registered(), first.term()), (vec![1], Some(2)));
}

/// Each way takes more than a fifth of the lease.
struct Slow(Rc<TestRuntime>);

impl FaultPolicy for Slow {
    fn before(&self, _: Call) -> LocalFuture<'static, CallFate> {
        let trip = self.0.sleep(TTL * 22 / 100);
        Box::pin(async move {
            trip.await;
            CallFate::Done
        })
    }

    fn after(&self, _: Call) -> LocalFuture<'static, ()> {
        self.0.sleep(TTL * 22 / 100)
    }
}

#[test]
fn a_metastore_that_takes_almost_half_a_lease_for_each_answer_costs_no_registration() {
    let mut lab = Lab::new();
    let slow = FaultyMetastore::new(Rc::new(lab.store.clone()), Rc::new(Slow(lab.runtime.clone())));
    let first = lab.start_on(Rc::new(slow), 1, "a");
    lab.sleep(TTL * 4);
    assert_eq!(lab.registered(), [1]);
    for _ in 0..50 {
        lab.sleep(TTL / 2);
        assert_eq!(lab.registered(), [1]);
    }
    assert_eq!(first.registration.term(), 1, "it is one registration");
}

#[test]
fn a_broker_that_has_its_metastore_for_itself_keeps_its_registration_whatever_the_store_does() {
    let terms = LeaseTerms::alone(TTL);
    assert!(terms.ttl > Duration::from_secs(365 * 24 * 60 * 60));
    assert_eq!(
        terms.renewal,
        TTL / 3,
        "a registration that is gone is noticed as soon as ever"
    );
}

#[test]
fn times_are_shown_as_people_write_them() {
    assert_eq!(utc(951_782_400_000), "2000-02-29T00:00:00Z");
    assert_eq!(utc(1_700_000_000_999), "2023-11-14T22:13:20Z");
    assert_eq!(utc(-1), "1969-12-31T23:59:59Z");
}
