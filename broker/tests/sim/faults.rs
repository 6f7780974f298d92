//! What goes wrong between a broker and its stores: drawn from the seed, as badly as the nemesis says.

use crate::executor::{World, ENVIRONMENT};
use crate::random::Random;
use kafscale_metastore::faulty as meta;
use kafscale_storage_engine::object_store::faulty as store;
use kafscale_storage_engine::object_store::LocalFuture;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// How late a request may be applied whose sender has given it up.
pub const LATE_MAX: Duration = Duration::from_secs(4);

/// How bad things are for one broker at the moment.
#[derive(Debug, Default)]
pub struct Troubles {
    /// Of a thousand requests to the object store, so many go wrong.
    pub store_permille: Cell<u64>,
    /// Each takes longer by up to this.
    pub store_slow: Cell<Duration>,
    /// Of a thousand calls of the metastore, so many go wrong.
    pub meta_permille: Cell<u64>,
    /// Each takes longer by up to this.
    pub meta_slow: Cell<Duration>,
    /// Of a thousand calls of the metastore, so many are given up by their sender and applied some time later.
    pub meta_late_permille: Cell<u64>,
    /// Nothing reaches the metastore at all, and nothing comes from there.
    pub meta_gone: Cell<bool>,
}

impl Troubles {
    /// All is well.
    pub fn heal(&self) {
        self.store_permille.set(0);
        self.meta_permille.set(0);
        self.meta_late_permille.set(0);
        self.meta_gone.set(false);
        self.store_slow.set(Duration::ZERO);
        self.meta_slow.set(Duration::ZERO);
    }
}

/// The link of one broker to both stores.
#[derive(Clone)]
pub struct Link {
    world: World,
    troubles: Rc<Troubles>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    Unavailable,
    DoneUnknown,
    LostUnknown,
    LateUnknown,
}

impl Link {
    /// A link with these troubles.
    pub fn new(world: &World, troubles: Rc<Troubles>) -> Rc<Self> {
        let world = world.clone();
        Rc::new(Link { world, troubles })
    }

    fn fate(&self, permille: u64) -> Fate {
        self.world.draw(|random| match random.permille(permille) {
            false => Fate::Done,
            true => *random.pick(&[
                Fate::Unavailable,
                Fate::DoneUnknown,
                Fate::LostUnknown,
                Fate::LateUnknown,
            ]),
        })
    }

    fn trip(&self, low_us: u64, high_us: u64, slow: Duration) -> Duration {
        self.world
            .draw(|random| random.micros(low_us, high_us) + random.micros(0, slow.as_micros() as u64))
    }

    fn late(&self, work: LocalFuture<'static, ()>) {
        let world = self.world.clone();
        let late = world.draw(|random| random.micros(0, LATE_MAX.as_micros() as u64));
        let sleep = world.sleep(late);
        self.world.spawn(
            ENVIRONMENT,
            "late",
            Box::pin(async move {
                sleep.await;
                work.await;
            }),
        );
    }
}

impl store::FaultPolicy for Link {
    fn before(&self, _: store::Request<'_>) -> LocalFuture<'static, store::CallFate> {
        let fate = match self.fate(self.troubles.store_permille.get()) {
            Fate::Done => store::CallFate::Done,
            Fate::Unavailable => store::CallFate::Unavailable,
            Fate::DoneUnknown => store::CallFate::DoneUnknown,
            Fate::LostUnknown => store::CallFate::LostUnknown,
            Fate::LateUnknown => store::CallFate::LateUnknown,
        };
        let sleep = self.world.sleep(self.trip(100, 2_000, self.troubles.store_slow.get()));
        Box::pin(async move {
            sleep.await;
            fate
        })
    }

    fn after(&self, _: store::Request<'_>) -> LocalFuture<'static, ()> {
        Box::pin(self.world.sleep(self.trip(50, 1_000, self.troubles.store_slow.get())))
    }

    fn detach(&self, work: LocalFuture<'static, ()>) {
        self.late(work);
    }
}

impl meta::FaultPolicy for Link {
    fn before(&self, _: meta::Call) -> LocalFuture<'static, meta::CallFate> {
        let late = self.troubles.meta_late_permille.get();
        let late = late > 0 && self.world.draw(|random| random.permille(late));
        let fate = match self.fate(self.troubles.meta_permille.get()) {
            _ if late => meta::CallFate::LateUnknown,
            _ if self.troubles.meta_gone.get() => meta::CallFate::Unavailable,
            Fate::Done => meta::CallFate::Done,
            Fate::Unavailable => meta::CallFate::Unavailable,
            Fate::DoneUnknown => meta::CallFate::DoneUnknown,
            Fate::LostUnknown => meta::CallFate::LostUnknown,
            Fate::LateUnknown => meta::CallFate::LateUnknown,
        };
        let sleep = self.world.sleep(self.trip(50, 1_000, self.troubles.meta_slow.get()));
        Box::pin(async move {
            sleep.await;
            fate
        })
    }

    fn after(&self, _: meta::Call) -> LocalFuture<'static, ()> {
        Box::pin(self.world.sleep(self.trip(50, 500, self.troubles.meta_slow.get())))
    }

    fn deliver(&self) -> LocalFuture<'static, meta::WatchFate> {
        let permille = self.troubles.meta_permille.get() / 4;
        let fate = self.world.draw(|random: &mut Random| match random.permille(permille) {
            _ if self.troubles.meta_gone.get() => meta::WatchFate::Broken,
            false => meta::WatchFate::Delivered,
            true => *random.pick(&[meta::WatchFate::Broken, meta::WatchFate::Compacted]),
        });
        let sleep = self.world.sleep(self.trip(50, 2_000, self.troubles.meta_slow.get()));
        Box::pin(async move {
            sleep.await;
            fate
        })
    }

    fn detach(&self, work: LocalFuture<'static, ()>) {
        self.late(work);
    }
}
