//! An object store that fails as real ones do: late, not at all, or with nobody knowing whether it did.
//!
//! What happens to a request is drawn by a [`FaultPolicy`], which in simulation draws from the seed and waits in virtual
//! time. Content is never falsified and never cut: what the stores promise of a request that is answered still holds.

use super::{ListPage, LocalFuture, ObjectStore, StoreError, Suffix};
use bytes::Bytes;
use std::future::{ready, Future};
use std::ops::Range;
use std::rc::Rc;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Call {
    /// [`ObjectStore::create`].
    Create,
    /// [`ObjectStore::get_range`] and [`ObjectStore::get_suffix`].
    Get,
    /// [`ObjectStore::list`].
    List,
    /// [`ObjectStore::delete`].
    Delete,
}

/// A request, as far as a policy may care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// What it does.
    pub call: Call,
    /// The object's key; of a listing the prefix; of a delete the first key, empty if there is none.
    pub key: &'a str,
    /// Bytes that a create carries or a get asks for (`u64::MAX` is "to the end"); of other calls 0.
    pub bytes: u64,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CallFate {
    /// It is done, and the caller gets the answer.
    #[default]
    Done,
    /// It is not done, and the caller knows ([`StoreError::Unavailable`]).
    Unavailable,
    /// It is not done for want of room ([`StoreError::Full`]). For other calls than a create: unavailable.
    Full,
    /// It is done, and the caller gets [`StoreError::OutcomeUnknown`]. A read is unavailable.
    DoneUnknown,
    /// It is not done, and the caller gets [`StoreError::OutcomeUnknown`]. A read is unavailable.
    LostUnknown,
    /// The caller gets [`StoreError::OutcomeUnknown`], and it is done only later, by [`FaultPolicy::detach`]. A read is
    /// unavailable.
    LateUnknown,
}

/// Draws faults. What is not overridden is faultless.
///
/// The futures say how long a request takes, so a policy waits by whatever sleep its maker gave it.
pub trait FaultPolicy {
    /// Waits as long as the request takes to get there, and says what becomes of it.
    fn before(&self, _request: Request<'_>) -> LocalFuture<'static, CallFate> {
        Box::pin(ready(CallFate::Done))
    }

    /// Waits as long as the answer takes.
    fn after(&self, _request: Request<'_>) -> LocalFuture<'static, ()> {
        Box::pin(ready(()))
    }

    /// Runs the work of a request whose caller has been told that nobody knows. By default it is lost.
    fn detach(&self, _work: LocalFuture<'static, ()>) {}
}

/// Passes every request.
#[derive(Debug, Clone, Copy, Default)]
pub struct PassAll;

impl FaultPolicy for PassAll {}

/// An object store with faults; clones share the store and the policy.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Rc<dyn ObjectStore>,
    policy: Rc<dyn FaultPolicy>,
}

impl FaultyStore {
    /// `inner`, with the faults that `policy` draws.
    pub fn new(inner: Rc<dyn ObjectStore>, policy: Rc<dyn FaultPolicy>) -> Self {
        FaultyStore { inner, policy }
    }

    /// Runs a request that changes nothing: an answer that is lost is as good as none.
    async fn read<T>(
        &self,
        request: Request<'_>,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let result = match self.policy.before(request).await {
            CallFate::Done => work.await,
            CallFate::Unavailable
            | CallFate::Full
            | CallFate::DoneUnknown
            | CallFate::LostUnknown
            | CallFate::LateUnknown => Err(unavailable(request)),
        };
        self.policy.after(request).await;
        result
    }

    /// Runs a request that changes something. What it answered when its answer is lost, be it a refusal, is lost too.
    async fn write(
        &self,
        request: Request<'_>,
        work: impl Future<Output = Result<(), StoreError>> + 'static,
    ) -> Result<(), StoreError> {
        let unknown = Err(StoreError::OutcomeUnknown(describe(request)));
        let result = match self.policy.before(request).await {
            CallFate::Done => work.await,
            CallFate::Full if request.call == Call::Create => Err(StoreError::Full(describe(request))),
            CallFate::Unavailable | CallFate::Full => Err(unavailable(request)),
            CallFate::DoneUnknown => {
                drop(work.await);
                unknown
            }
            CallFate::LostUnknown => unknown,
            CallFate::LateUnknown => {
                self.policy.detach(Box::pin(async move { drop(work.await) }));
                unknown
            }
        };
        self.policy.after(request).await;
        result
    }
}

fn describe(request: Request<'_>) -> String {
    format!("simulated, {:?} {}", request.call, request.key)
}

fn unavailable(request: Request<'_>) -> StoreError {
    StoreError::Unavailable(describe(request))
}

fn create_request<'a>(key: &'a str, body: &[Bytes]) -> Request<'a> {
    Request {
        call: Call::Create,
        key,
        bytes: body.iter().map(|part| part.len() as u64).sum(),
    }
}

impl ObjectStore for FaultyStore {
    fn room(&self) -> LocalFuture<'_, Result<(), StoreError>> {
        self.inner.room()
    }

    fn create<'a>(&'a self, key: &'a str, body: Vec<Bytes>) -> LocalFuture<'a, Result<(), StoreError>> {
        let (inner, name) = (self.inner.clone(), key.to_string());
        let request = create_request(key, &body);
        Box::pin(self.write(request, async move { inner.create(&name, body).await }))
    }

    fn create_summed<'a>(
        &'a self,
        key: &'a str,
        body: Vec<Bytes>,
        crc32c: u32,
    ) -> LocalFuture<'a, Result<(), StoreError>> {
        let (inner, name) = (self.inner.clone(), key.to_string());
        let request = create_request(key, &body);
        Box::pin(self.write(request, async move { inner.create_summed(&name, body, crc32c).await }))
    }

    fn get_range<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Bytes, StoreError>> {
        let request = Request {
            call: Call::Get,
            key,
            bytes: match range.end {
                u64::MAX => u64::MAX,
                end => end.saturating_sub(range.start),
            },
        };
        Box::pin(self.read(request, self.inner.get_range(key, range)))
    }

    fn get_payload<'a>(&'a self, key: &'a str, range: Range<u64>) -> LocalFuture<'a, Result<Bytes, StoreError>> {
        let request = Request {
            call: Call::Get,
            key,
            bytes: range.end.saturating_sub(range.start),
        };
        Box::pin(self.read(request, self.inner.get_payload(key, range)))
    }

    fn get_suffix<'a>(&'a self, key: &'a str, len: u64) -> LocalFuture<'a, Result<Suffix, StoreError>> {
        let request = Request {
            call: Call::Get,
            key,
            bytes: len,
        };
        Box::pin(self.read(request, self.inner.get_suffix(key, len)))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> LocalFuture<'a, Result<ListPage, StoreError>> {
        let request = Request {
            call: Call::List,
            key: prefix,
            bytes: 0,
        };
        Box::pin(self.read(request, self.inner.list(prefix, start_after, limit)))
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> LocalFuture<'a, Result<(), StoreError>> {
        let request = Request {
            call: Call::Delete,
            key: keys.first().map_or("", String::as_str),
            bytes: 0,
        };
        let (inner, names) = (self.inner.clone(), keys.to_vec());
        Box::pin(self.write(request, async move { inner.delete(&names).await }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object_store::memory::MemoryStore;
    use futures::executor::{block_on, LocalPool};
    use futures::task::LocalSpawnExt;
    use std::cell::{Cell, RefCell};

    /// Deals the same fate to every request, keeps what is detached, and notes what it was asked.
    #[derive(Default)]
    struct Always {
        fate: Cell<CallFate>,
        detached: RefCell<Vec<LocalFuture<'static, ()>>>,
        seen: RefCell<Vec<(&'static str, Call, String, u64)>>,
    }

    impl FaultPolicy for Always {
        fn before(&self, request: Request<'_>) -> LocalFuture<'static, CallFate> {
            let entry = ("before", request.call, request.key.to_string(), request.bytes);
            self.seen.borrow_mut().push(entry);
            Box::pin(ready(self.fate.get()))
        }

        fn after(&self, request: Request<'_>) -> LocalFuture<'static, ()> {
            let entry = ("after", request.call, request.key.to_string(), request.bytes);
            self.seen.borrow_mut().push(entry);
            Box::pin(ready(()))
        }

        fn detach(&self, work: LocalFuture<'static, ()>) {
            self.detached.borrow_mut().push(work);
        }
    }

    fn faulty(fate: CallFate) -> (FaultyStore, MemoryStore, Rc<Always>) {
        let (memory, policy) = (MemoryStore::new(), Rc::new(Always::default()));
        policy.fate.set(fate);
        let store = FaultyStore::new(Rc::new(memory.clone()), policy.clone());
        (store, memory, policy)
    }

    fn body() -> Vec<Bytes> {
        vec![Bytes::from_static(b"ab"), Bytes::from_static(b"c")]
    }

    #[test]
    fn an_ambiguous_put_is_stored_or_not_and_the_caller_cannot_tell() {
        for (fate, stored) in [(CallFate::DoneUnknown, true), (CallFate::LostUnknown, false)] {
            let (store, memory, _) = faulty(fate);
            let answer = block_on(store.create("k", body()));
            assert!(matches!(answer, Err(StoreError::OutcomeUnknown(_))), "{answer:?}");
            assert_eq!(memory.keys() == ["k"], stored, "{fate:?}");
            // Neither does a second attempt tell, which finds the name taken.
            assert_eq!(block_on(store.create("k", body())), answer);
        }
    }

    #[test]
    fn a_late_put_happens_when_the_policy_runs_it_and_never_over_another() {
        let (store, memory, policy) = faulty(CallFate::LateUnknown);
        assert!(matches!(
            block_on(store.create("k", body())),
            Err(StoreError::OutcomeUnknown(_))
        ));
        assert!(block_on(store.create("l", body())).is_err());
        assert!(memory.keys().is_empty());
        memory.create_now("l", &[Bytes::from_static(b"first")]).unwrap();
        policy.detached.take().into_iter().for_each(block_on);
        assert_eq!(memory.keys(), ["k", "l"]);
        assert_eq!(block_on(memory.get_range("l", 0..9)).unwrap(), "first");
    }

    #[test]
    fn what_is_not_done_says_so() {
        for (fate, full) in [(CallFate::Unavailable, false), (CallFate::Full, true)] {
            let (store, memory, _) = faulty(fate);
            memory.create_now("there", &body()).unwrap();
            let create = block_on(store.create("k", body())).unwrap_err();
            assert_eq!(matches!(create, StoreError::Full(_)), full, "{create}");
            assert_eq!(matches!(create, StoreError::Unavailable(_)), !full, "{create}");
            let delete = block_on(store.delete(&["there".to_string()]));
            assert!(matches!(delete, Err(StoreError::Unavailable(_))), "{delete:?}");
            assert_eq!(memory.keys(), ["there"]);
        }
    }

    #[test]
    fn reads_fail_whole_and_are_never_in_doubt() {
        for fate in [
            CallFate::Unavailable,
            CallFate::Full,
            CallFate::DoneUnknown,
            CallFate::LostUnknown,
            CallFate::LateUnknown,
        ] {
            let (store, memory, policy) = faulty(fate);
            memory.create_now("k", &body()).unwrap();
            let errors = [
                block_on(store.get_range("k", 0..3)).map(drop),
                block_on(store.get_suffix("k", 3)).map(drop),
                block_on(store.list("", None, 9)).map(drop),
            ];
            for error in errors {
                assert!(matches!(error, Err(StoreError::Unavailable(_))), "{fate:?}: {error:?}");
            }
            assert!(policy.detached.borrow().is_empty());
        }
    }

    #[test]
    fn an_ambiguous_delete_is_done_or_not() {
        for (fate, left) in [(CallFate::DoneUnknown, 0), (CallFate::LostUnknown, 1)] {
            let (store, memory, _) = faulty(fate);
            memory.create_now("k", &body()).unwrap();
            let answer = block_on(store.delete(&["k".to_string()]));
            assert!(matches!(answer, Err(StoreError::OutcomeUnknown(_))), "{answer:?}");
            assert_eq!(memory.keys().len(), left, "{fate:?}");
        }
    }

    #[test]
    fn the_policy_sees_each_request_before_and_after() {
        let (store, _, policy) = faulty(CallFate::Done);
        block_on(store.create("k", body())).unwrap();
        block_on(store.get_range("k", 1..3)).unwrap();
        block_on(store.get_range("k", 1..u64::MAX)).unwrap();
        block_on(store.get_suffix("k", 2)).unwrap();
        block_on(store.list("p", None, 9)).unwrap();
        block_on(store.delete(&["k".to_string()])).unwrap();
        block_on(store.delete(&[])).unwrap();
        let expected = [
            (Call::Create, "k", 3),
            (Call::Get, "k", 2),
            (Call::Get, "k", u64::MAX),
            (Call::Get, "k", 2),
            (Call::List, "p", 0),
            (Call::Delete, "k", 0),
            (Call::Delete, "", 0),
        ]
        .into_iter()
        .flat_map(|(call, key, bytes)| ["before", "after"].map(|when| (when, call, key.to_string(), bytes)))
        .collect::<Vec<_>>();
        assert_eq!(policy.seen.take(), expected);
    }

    /// Takes its time on the way there: until the channel closes.
    struct Slow(RefCell<Option<futures::channel::oneshot::Receiver<()>>>);

    impl FaultPolicy for Slow {
        fn before(&self, _: Request<'_>) -> LocalFuture<'static, CallFate> {
            let gate = self.0.borrow_mut().take();
            Box::pin(async move {
                if let Some(gate) = gate {
                    let _ = gate.await;
                }
                CallFate::Done
            })
        }
    }

    #[test]
    fn a_request_that_is_on_its_way_lets_others_pass() {
        let (open, gate) = futures::channel::oneshot::channel();
        let memory = MemoryStore::new();
        let policy = Rc::new(Slow(RefCell::new(Some(gate))));
        let store = Rc::new(FaultyStore::new(Rc::new(memory.clone()), policy));
        let mut pool = LocalPool::new();
        for key in ["slow", "fast"] {
            let store = store.clone();
            let put = async move { store.create(key, body()).await.unwrap() };
            pool.spawner().spawn_local(put).unwrap();
        }
        pool.run_until_stalled();
        assert_eq!(memory.keys(), ["fast"]);
        drop(open);
        pool.run();
        assert_eq!(memory.keys(), ["fast", "slow"]);
    }
}
