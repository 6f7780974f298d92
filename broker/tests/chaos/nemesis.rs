//! What breaks things, one after another, each for a while.

use crate::cluster::{Cluster, Versions};
use crate::damage;
use crate::proxy::Way;
use crate::support::Random;
use crate::workload::Shared;
use kafscale_test_s3::{Faults, Kind};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// SIGKILL, and a new start later.
    Kill,
    /// SIGTERM, and a new start once the process has ended.
    Restart,
    /// SIGTERM, and a new start much later: it leaves and joins.
    Leave,
    /// SIGSTOP for longer than the lease: a zombie that wakes after its successor took over.
    Freeze,
    CutEtcd,
    HangEtcd,
    SlowEtcd,
    CutBucket,
    HangBucket,
    SlowBucket,
    CutClients,
    SlowClients,
    /// Requests arrive and answers do not, or requests do not arrive.
    OneWayEtcd,
    OneWayBucket,
    OneWayClients,
    /// The bucket's server answers 503, or 500 after the work is done, or cuts connections before and after.
    BucketErrors,
    /// Puts are answered late, in whatever order.
    BucketDelay,
    /// The leader of etcd is killed, or stands still.
    EtcdLeader,
}

const FAULTS: [Fault; 18] = [
    Fault::Kill,
    Fault::Restart,
    Fault::Leave,
    Fault::Freeze,
    Fault::CutEtcd,
    Fault::HangEtcd,
    Fault::SlowEtcd,
    Fault::CutBucket,
    Fault::HangBucket,
    Fault::SlowBucket,
    Fault::CutClients,
    Fault::SlowClients,
    Fault::OneWayEtcd,
    Fault::OneWayBucket,
    Fault::OneWayClients,
    Fault::BucketErrors,
    Fault::BucketDelay,
    Fault::EtcdLeader,
];

/// What a broker's process may have resident: what the shards accept before they refuse, and what two shards are allowed
/// to keep.
const MEMORY_MAX: u64 = 512 << 20;

/// Which versions brokers start with, from which hundredth of the time on: there, back, and there again. Objects are damaged
/// in the last part alone: the other version may be one that serves what is damaged.
const PARTS: [(u64, Versions); 5] = [
    (0, Versions::New),
    (15, Versions::Both),
    (35, Versions::Old),
    (50, Versions::Both),
    (70, Versions::New),
];

/// What happened.
#[derive(Debug, Default)]
pub struct Struck {
    /// How often each fault came.
    pub counts: BTreeMap<String, u64>,
    /// The most that a broker's process had resident.
    pub memory_max: u64,
}

/// Has every broker start once with the version that is due now.
fn restart_all(cluster: &Cluster, shared: &Shared) {
    for machine in &cluster.machines {
        machine.restart();
        // The next one only once this one serves, as operators do; meanwhile a fault may keep it from that.
        let until = Instant::now() + Duration::from_secs(5);
        let serves = || shared.is_served_by(machine.clients.address());
        while !serves() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Breaks things until `until`, about one a second, and `damages` objects of segments besides.
pub fn rage(cluster: &Arc<Cluster>, shared: &Shared, random: &mut Random, until: Instant, mut damages: u64) -> Struck {
    let mut struck = Struck::default();
    let counts = &mut struck.counts;
    let mut going_on = Vec::new();
    let began = Instant::now();
    let whole = until - began;
    let mut parts = PARTS.into_iter().filter(|_| cluster.has_old()).skip(1).peekable();
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100 + random.below(1_500)));
        let hundredth = (began.elapsed().as_millis() * 100 / whole.as_millis().max(1)) as u64;
        if let Some((_, versions)) = parts.next_if(|(from, _)| hundredth >= *from) {
            println!("  brokers start with versions: {versions:?}");
            cluster.take_versions(versions);
            restart_all(cluster, shared);
        }
        for (at, machine) in cluster.machines.iter().enumerate() {
            let memory = machine.memory().unwrap_or_default();
            struck.memory_max = memory.max(struck.memory_max);
            if memory > MEMORY_MAX {
                let broker = at + 1;
                shared
                    .ledger
                    .fault(format!("broker {broker} has {memory} bytes, more than {MEMORY_MAX}"));
            }
        }
        if damages > 0 && parts.peek().is_none() && random.below(4) == 0 {
            if let Some(what) = damage::strike(cluster, shared, random) {
                println!("  {what}");
                damages -= 1;
                *counts.entry("Damage".to_string()).or_default() += 1;
            }
        }
        let fault = FAULTS[random.below(FAULTS.len() as u64) as usize];
        let at = random.below(cluster.machines.len() as u64) as usize;
        let length = Duration::from_millis(200 + random.below(6_000));
        let shade = random.next();
        println!("  {fault:?} at broker {} for {} ms", at + 1, length.as_millis());
        *counts.entry(format!("{fault:?}")).or_default() += 1;
        let cluster = cluster.clone();
        going_on.push(std::thread::spawn(move || strike(&cluster, fault, at, length, shade)));
    }
    going_on.into_iter().for_each(|strike| strike.join().unwrap());
    struck
}

fn strike(cluster: &Cluster, fault: Fault, at: usize, length: Duration, shade: u64) {
    let machine = &cluster.machines[at];
    let pause = || std::thread::sleep(length);
    let way = if shade.is_multiple_of(2) { Way::There } else { Way::Back };
    let etcd = |act: &dyn Fn(&crate::proxy::Link)| machine.etcd.iter().for_each(act);
    match fault {
        Fault::Kill => {
            machine.kill();
            std::thread::sleep(length / 3);
            machine.start();
        }
        Fault::Restart | Fault::Leave => {
            machine.terminate();
            if fault == Fault::Leave {
                pause();
            }
            machine.restart();
        }
        Fault::Freeze => {
            machine.freeze();
            pause();
            machine.thaw();
        }
        Fault::CutEtcd => {
            etcd(&|link| link.cut(true));
            pause();
            etcd(&|link| link.cut(false));
        }
        Fault::HangEtcd => {
            etcd(&|link| link.hang(true));
            pause();
            etcd(&|link| link.hang(false));
        }
        Fault::SlowEtcd => {
            etcd(&|link| link.slow(20 + shade % 300));
            pause();
            etcd(&|link| link.slow(0));
        }
        Fault::CutBucket => {
            machine.bucket.cut(true);
            pause();
            machine.bucket.cut(false);
        }
        Fault::HangBucket => {
            machine.bucket.hang(true);
            pause();
            machine.bucket.hang(false);
        }
        Fault::SlowBucket => {
            machine.bucket.slow(20 + shade % 300);
            pause();
            machine.bucket.slow(0);
        }
        Fault::CutClients => {
            machine.clients.cut(true);
            pause();
            machine.clients.cut(false);
        }
        Fault::SlowClients => {
            machine.clients.slow(20 + shade % 300);
            pause();
            machine.clients.slow(0);
        }
        Fault::OneWayEtcd => {
            etcd(&|link| link.hang_one(way, true));
            pause();
            etcd(&|link| link.hang_one(way, false));
        }
        Fault::OneWayBucket => {
            machine.bucket.hang_one(way, true);
            pause();
            machine.bucket.hang_one(way, false);
        }
        Fault::OneWayClients => {
            machine.clients.hang_one(way, true);
            pause();
            machine.clients.hang_one(way, false);
        }
        Fault::BucketErrors => {
            let chance = 0.05 + (shade % 40) as f64 / 100.0;
            let mut faults = Faults::default();
            match shade / 64 % 4 {
                0 => faults.answer_before = chance,
                1 => faults.error_after = chance,
                2 => faults.cut_after = chance,
                _ => faults.cut_before = chance,
            }
            cluster.bucket.set_faults(faults);
            pause();
            cluster.bucket.set_faults(Faults::default());
        }
        Fault::BucketDelay => {
            let delay_ms = BTreeMap::from([(Kind::Put, 50 + shade % 800), (Kind::Get, shade % 200)]);
            cluster.bucket.set_faults(Faults {
                delay_ms,
                ..Faults::default()
            });
            pause();
            cluster.bucket.set_faults(Faults::default());
        }
        Fault::EtcdLeader => {
            // One at a time: two of three have to live.
            let Ok(mut etcd) = cluster.etcd.try_lock() else { return };
            let Some(leader) = etcd.leader() else { return };
            if shade.is_multiple_of(2) {
                etcd.kill(leader);
                pause();
                etcd.restart(leader);
            } else {
                etcd.stop(leader);
                pause();
                etcd.cont(leader);
            }
        }
    }
}
