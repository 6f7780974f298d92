//! What breaks things, for a while.

use crate::cluster::{port, Cluster};
use crate::executor::{World, ENVIRONMENT};
use crate::foreign;
use crate::net::Network;
use crate::scenario::LENGTH_MAX;
use crate::switches::Switches;
use crate::workload::Work;
use kafscale_metastore::keys::TOPICS_PREFIX;
use std::rc::Rc;
use std::time::Duration;

/// How long a broker has to stop in an orderly way.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Crash,
    CrashAll,
    Restart,
    Stall,
    StoreFaults,
    StoreSlow,
    StoreCut,
    MetaFaults,
    MetaSlow,
    MetaCut,
    ResetLinks,
    CutLinks,
    SlowLinks,
    CompactMetastore,
    ClockJump,
    Damage,
    ForeignRecord,
    Suspend,
    UnreadableTopic,
    UnreadableOffset,
    ForgetStreams,
    Twin,
}

/// Where committed offsets are, of all slots.
const OFFSETS_PREFIX: &[u8] = b"/kafscale/v1/offsets/";

const FAULTS: [Fault; 19] = [
    Fault::Crash,
    Fault::CrashAll,
    Fault::Restart,
    Fault::Stall,
    Fault::StoreFaults,
    Fault::StoreSlow,
    Fault::StoreCut,
    Fault::MetaFaults,
    Fault::MetaSlow,
    Fault::MetaCut,
    Fault::ResetLinks,
    Fault::CutLinks,
    Fault::SlowLinks,
    Fault::CompactMetastore,
    Fault::ClockJump,
    Fault::UnreadableTopic,
    Fault::UnreadableOffset,
    Fault::ForgetStreams,
    Fault::Twin,
];

/// The bad luck of a run.
pub struct Nemesis {
    /// The world.
    pub world: World,
    /// The network.
    pub network: Network,
    /// The brokers.
    pub cluster: Rc<Cluster>,
    /// The clients.
    pub work: Rc<Work>,
    /// What else may happen.
    pub switches: Switches,
    /// How long a fault lasts at most.
    pub length_max: Duration,
    /// How far a wall clock jumps at most, in milliseconds.
    pub jump_max_ms: u64,
}

impl Nemesis {
    /// Breaks things, about every `interval`, until `until`.
    pub async fn rage(&self, until: Duration, interval: Duration) {
        let mut chosen: Vec<Fault> = self.world.draw(|random| {
            // Not everything in every run: some faults hide others.
            FAULTS.into_iter().filter(|_| random.permille(450)).collect()
        });
        if self.switches.metastore_only {
            chosen = vec![Fault::MetaCut];
        }
        if self.switches.damage && self.world.draw(|random| random.permille(200)) {
            chosen.push(Fault::Damage);
        }
        if self.switches.foreign && self.world.draw(|random| random.permille(500)) {
            chosen.push(Fault::ForeignRecord);
        }
        self.work
            .impatience_permille
            .set(self.world.draw(|random| *random.pick(&[0, 0, 20, 100])));
        self.work
            .group_unrest_permille
            .set(self.world.draw(|random| *random.pick(&[0, 5, 20, 60])));
        if self.switches.suspension && self.world.draw(|random| random.permille(300)) {
            chosen.push(Fault::Suspend);
        }
        let length_max = self.length_max.as_micros() as u64;
        while self.world.now() < until && !chosen.is_empty() {
            let pause = self
                .world
                .draw(|random| random.micros(1_000, interval.as_micros() as u64 * 2));
            self.world.sleep(pause).await;
            let (fault, id, length) = self.world.draw(|random| {
                (
                    *random.pick(&chosen),
                    random.below(self.cluster.len() as u64) as usize,
                    random.micros(10_000, length_max),
                )
            });
            log::info!("nemesis: {fault:?} at broker {id} for {length:?}");
            self.strike(fault, id, length);
        }
    }

    fn strike(&self, fault: Fault, id: usize, length: Duration) {
        // An unreadable value has to be put right before the run ends, however long a day is.
        let short = length.min(LENGTH_MAX);
        let (cluster, network, world) = (self.cluster.clone(), self.network.clone(), self.world.clone());
        let troubles = cluster.troubles(id);
        let permille = world.draw(|random| random.between(20, 600));
        let slow = world.draw(|random| random.micros(1_000, 400_000));
        match fault {
            Fault::Crash => {
                cluster.crash(id);
                self.later(length, move || cluster.start(id));
            }
            Fault::CrashAll => {
                let ids = 0..cluster.len();
                ids.clone().for_each(|id| cluster.crash(id));
                self.later(length, move || ids.into_iter().for_each(|id| cluster.start(id)));
            }
            Fault::Restart => world.clone().spawn(
                ENVIRONMENT,
                "restart",
                Box::pin(async move {
                    cluster.stop(id, STOP_DEADLINE).await;
                    world.sleep(length / 4).await;
                    cluster.start(id);
                }),
            ),
            Fault::Stall => {
                if let Some(process) = cluster.process(id) {
                    world.stall(process, length);
                }
            }
            Fault::Suspend => cluster.suspend(id, length),
            Fault::StoreFaults => {
                troubles.store_permille.set(permille);
                self.later(length, move || troubles.store_permille.set(0));
            }
            Fault::StoreCut => {
                troubles.store_permille.set(1000);
                self.later(length, move || troubles.store_permille.set(0));
            }
            Fault::StoreSlow => {
                troubles.store_slow.set(slow);
                self.later(length, move || troubles.store_slow.set(Duration::ZERO));
            }
            Fault::MetaFaults => {
                troubles.meta_permille.set(permille);
                self.later(length, move || troubles.meta_permille.set(0));
            }
            Fault::MetaCut => {
                troubles.meta_permille.set(1000);
                self.later(length, move || troubles.meta_permille.set(0));
            }
            Fault::MetaSlow => {
                troubles.meta_slow.set(slow);
                self.later(length, move || troubles.meta_slow.set(Duration::ZERO));
            }
            Fault::ResetLinks => network.reset(port(id)),
            Fault::CutLinks => {
                network.reset(port(id));
                network.cut(port(id), true);
                self.later(length, move || network.cut(port(id), false));
            }
            Fault::SlowLinks => {
                network.slow(port(id), slow);
                self.later(length, move || network.slow(port(id), Duration::ZERO));
            }
            Fault::CompactMetastore => cluster.compact_metastore(),
            Fault::ForeignRecord => {
                let metastore = cluster.metastore.clone();
                world.clone().spawn(
                    ENVIRONMENT,
                    "foreign",
                    Box::pin(async move {
                        if let Some(placed) = foreign::place(&world, &metastore).await {
                            world.sleep(short).await;
                            placed.undo(&metastore).await;
                        }
                    }),
                );
            }
            Fault::Damage => cluster.damages.strike(&cluster.store),
            Fault::ClockJump => {
                let by_ms =
                    world.draw(|random| random.between(0, 2 * self.jump_max_ms)) as i64 - self.jump_max_ms as i64;
                self.work.ledger.clock_is_off(cluster.jump_clock(id, by_ms));
            }
            Fault::Twin => {
                cluster.start_twin(id);
                self.later(length, move || {
                    cluster.crash_twin(id);
                    // The twin may have won.
                    cluster.start(id);
                });
            }
            Fault::UnreadableTopic => self.spoil(TOPICS_PREFIX, short),
            Fault::UnreadableOffset => self.spoil(OFFSETS_PREFIX, short),
            Fault::ForgetStreams => {
                let forget = async move { cluster.forget_ended_streams().await };
                world.spawn(ENVIRONMENT, "forget", Box::pin(forget));
            }
        }
    }

    /// One of the values below `prefix` cannot be read for a while.
    fn spoil(&self, prefix: &'static [u8], length: Duration) {
        let (cluster, world) = (self.cluster.clone(), self.world.clone());
        let spoil = async move {
            if let Some(spoiled) = cluster.spoil(prefix).await {
                world.sleep(length).await;
                cluster.mend(&spoiled).await;
            }
        };
        self.world.spawn(ENVIRONMENT, "unreadable", Box::pin(spoil));
    }

    /// Makes everything well again: from here on the cluster has to get itself together.
    pub fn heal(&self) {
        self.work.impatience_permille.set(0);
        self.work.group_unrest_permille.set(0);
        for id in 0..self.cluster.len() {
            self.cluster.troubles(id).heal();
            self.cluster.crash_twin(id);
            self.network.cut(port(id), false);
            self.network.slow(port(id), Duration::ZERO);
            match self.cluster.process(id) {
                Some(process) => self.world.resume(process),
                None => self.cluster.start(id),
            }
        }
    }

    fn later(&self, pause: Duration, act: impl FnOnce() + 'static) {
        let sleep = self.world.sleep(pause);
        self.world.spawn(
            ENVIRONMENT,
            "nemesis",
            Box::pin(async move {
                sleep.await;
                act();
            }),
        );
    }
}
