//! One run: a cluster, its clients, its bad luck, and what is checked of it, all from a seed.

use crate::checkers::coordinators::Coordinators;
use crate::checkers::groups::GroupBook;
use crate::checkers::ledger::{Ledger, Limits, Place};
use crate::checkers::ownership::Ownership;
use crate::checkers::placement;
use crate::checkers::watermark::Watermarks;
use crate::client::Client;
use crate::cluster::{Cluster, Shape};
use crate::executor::{World, ENVIRONMENT};
use crate::faults::LATE_MAX;
use crate::members::{check_committed, member, GroupPlan};
use crate::nemesis::Nemesis;
use crate::net::Network;
use crate::random::Random;
use crate::sleeper::{self, sleeper};
use crate::switches::Switches;
use crate::topics::{grower, recreator, setter};
use crate::workload::{
    check_whole, consumer, deleter, end_offset, end_watcher, idempotent_producer, plain_producer, Work,
};
use kafscale_broker::assembly::Tuning;
use kafscale_broker::settings::Settings;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// A run that takes longer than this, in its own time, will never end.
const RUN_MAX: Duration = Duration::from_secs(600);

/// Once all is well, everybody must have finished within this.
const PROGRESS_MAX: Duration = Duration::from_secs(60);

/// After this nothing is on its way any more that nobody waits for.
const SETTLE: Duration = Duration::from_secs(3);

/// Numbers of the producers to topics with a life of their own.
const RECREATOR: u32 = 1_000;
const GROWER: u32 = 2_000;
const LIMITED: u32 = 3_000;
const SLEEPER: u32 = 4_000;

/// How long a fault lasts at most, unless fences live for seconds.
pub const LENGTH_MAX: Duration = Duration::from_secs(4);

/// How far a wall clock jumps at most, in milliseconds, unless fences live for seconds.
const JUMP_MAX_MS: u64 = 3_600_000;

/// How often the checkers look into the shards.
const LOOK: Duration = Duration::from_millis(7);

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Hash of all steps: the same for the same seed.
    pub trace: u64,
    /// Steps of all tasks.
    pub steps: u64,
    /// Records that were acknowledged.
    pub acknowledged: usize,
    /// Partitions that members of groups were given.
    pub assigned: usize,
    /// Commits that are stored.
    pub committed: usize,
    /// Time that passed in the run.
    pub time: Duration,
    /// The first promise that was broken.
    pub violation: Option<String>,
}

/// Runs one seed.
pub fn run(seed: u64, switches: Switches) -> Report {
    let world = World::new(seed);
    let finished = Rc::new(Cell::new(false));
    let totals = Rc::new(Cell::new((0, 0, 0)));
    let (whole, end, counted) = (world.clone(), finished.clone(), totals.clone());
    world.spawn(
        ENVIRONMENT,
        "scenario",
        Box::pin(async move {
            counted.set(scenario(whole, switches).await);
            end.set(true);
        }),
    );
    let done = finished.clone();
    world.run(RUN_MAX, || done.get());
    if !finished.get() {
        world.violate("the run does not end".to_string());
    }
    let (acknowledged, assigned, committed) = totals.get();
    let report = Report {
        trace: world.trace(),
        steps: world.steps(),
        acknowledged,
        assigned,
        committed,
        time: world.now(),
        violation: world.violation(),
    };
    world.end();
    report
}

struct Plan {
    topics: Vec<(String, i32)>,
    idempotent: u32,
    plain: u32,
    deletions: usize,
    end_questions: usize,
    batches: usize,
    rage: Duration,
    length_max: Duration,
    jump_max_ms: u64,
    interval: Duration,
    groups: Vec<(Rc<GroupPlan>, u32)>,
    /// Lives of a topic that is created again and again.
    lives: usize,
    /// Partitions that a topic grows to.
    growth: i32,
    /// How often a topic is set otherwise.
    changes: usize,
    /// Of a topic that has some.
    limits: Option<Limits>,
    /// A producer falls silent for longer than it is remembered.
    sleeps: bool,
}

/// Lives of fences, and all that has to be shorter, as in a run of days: a second is more than an hour.
fn draw_days(random: &mut Random, tuning: &mut Tuning) {
    tuning.fence_life = random.micros(8_000_000, 20_000_000);
    tuning.away_max = tuning.fence_life / 2;
    tuning.put_give_up = random.micros(300_000, 2_000_000);
}

fn draw_shape(random: &mut Random, switches: Switches) -> Shape {
    let brokers = *random.pick(&[1, 1, 2, 3]);
    let settings = Settings {
        flush_interval_ms: *random.pick(&[0, 0, 2, 20]),
        flush_bytes: *random.pick(&[2_000, 20_000, 1 << 20]),
        flush_pipeline: random.between(1, 4) as usize,
        tail_memory_bytes: *random.pick(&[0, 4_000, 1 << 20]),
        cache_bytes: *random.pick(&[0, 8_000, 1 << 20, 16 << 20]),
        readahead_segments: *random.pick(&[0, 1, 2, 5]),
        broker_lease_ttl_ms: random.between(300, 1_500),
        segment_ms: *random.pick(&[200, 1_000, 3_600_000]),
        segment_small_ms: *random.pick(&[0, 0, 1_000, 100_000]),
        auto_create_topics: false,
        group_initial_rebalance_delay_ms: *random.pick(&[0, 0, 100]),
        group_min_session_timeout_ms: 1,
        group_consumer_session_timeout_ms: random.between(300, 3_000),
        ..Settings::default()
    };
    let mut tuning = Tuning {
        claim_batch: *random.pick(&[1, 2, 60]),
        live_slots_max: random.between(2, 12) as usize,
        live_runs_max: *random.pick(&[10, 100, 1000]),
        merge_bytes_max: *random.pick(&[1_000, 20_000, 1 << 20]),
        housekeeping_interval: random.micros(5_000, 200_000),
        reconcile_interval: random.micros(50_000, 1_000_000),
        delete_grace: match random.permille(250) {
            true => Duration::ZERO,
            false => random.micros(500_000, 3_000_000),
        },
        put_give_up: random.micros(300_000, 3_000_000),
        retention_interval: *random.pick(&[
            Duration::from_millis(50),
            Duration::from_millis(500),
            Duration::from_secs(60),
        ]),
        ..Tuning::default()
    };
    let mut settings = settings;
    if switches.days && random.permille(100) {
        draw_days(random, &mut tuning);
    } else if random.permille(40) {
        settings.producer_id_expiration_ms = sleeper::EXPIRATION.as_millis() as i64;
    }
    Shape {
        brokers,
        shards: random.between(1, 2) as usize,
        settings,
        tuning,
    }
}

fn draw_plan(random: &mut Random, shape: &Shape) -> Plan {
    let topics: Vec<(String, i32)> = (0..random.between(1, 2))
        .map(|at| (format!("t{at}"), random.between(1, 3) as i32))
        .collect();
    let count = random.between(0, 3) as u32;
    let long = shape.tuning.fence_life < Tuning::default().fence_life;
    let sleeps = shape.settings.producer_id_expiration_ms < Settings::default().producer_id_expiration_ms;
    let fence_us = shape.tuning.fence_life.as_micros() as u64;
    let groups = (0..count).map(|at| draw_group(random, shape, &topics, at)).collect();
    Plan {
        groups,
        topics,
        sleeps,
        idempotent: random.between(1, 3) as u32,
        plain: random.between(0, 1) as u32,
        deletions: match random.permille(300) {
            true => random.between(1, 6) as usize,
            false => 0,
        },
        end_questions: *random.pick(&[0, 0, 300]),
        batches: random.between(5, 40) as usize,
        rage: match long {
            true => random.micros(2_000_000, 4 * fence_us),
            false => random.micros(200_000, 5_000_000),
        },
        length_max: match long {
            true => Duration::from_micros(2 * fence_us),
            // What stands still stands still for less than producers are remembered.
            false if sleeps => LENGTH_MAX / 8,
            false => LENGTH_MAX,
        },
        // What a day's fence is to an hour: its margin is far larger.
        jump_max_ms: match long {
            true => fence_us / 24_000,
            false if sleeps => 200,
            false => JUMP_MAX_MS,
        },
        interval: match long {
            true => random.micros(500_000, 3_000_000),
            false => random.micros(50_000, 600_000),
        },
        lives: match random.permille(200) {
            true => random.between(2, 4) as usize,
            false => 0,
        },
        growth: match random.permille(150) {
            true => random.between(2, 3) as i32,
            false => 0,
        },
        changes: match random.permille(200) {
            true => random.between(1, 6) as usize,
            false => 0,
        },
        limits: random.permille(250).then(|| Limits {
            retention_ms: random.permille(700).then(|| random.between(100, 4_000_000) as i64),
            retention_bytes: random.permille(500).then(|| random.between(0, 20_000) as i64),
        }),
    }
}

fn draw_group(random: &mut Random, shape: &Shape, topics: &[(String, i32)], number: u32) -> (Rc<GroupPlan>, u32) {
    let (topic, partitions) = random.pick(topics).clone();
    let consumer_protocol = random.permille(500);
    let session_ms = match consumer_protocol {
        true => shape.settings.group_consumer_session_timeout_ms,
        false => random.between(300, 3_000),
    };
    let plan = GroupPlan {
        group: format!("g{number}"),
        topic,
        partitions,
        consumer_protocol,
        session: Duration::from_millis(session_ms),
    };
    (Rc::new(plan), random.between(1, 4) as u32)
}

/// Returns how many records were acknowledged, how many partitions assigned, how many commits stored.
async fn scenario(world: World, switches: Switches) -> (usize, usize, usize) {
    let network = Network::new(&world);
    let shape = world.draw(|random| draw_shape(random, switches));
    let plan = world.draw(|random| draw_plan(random, &shape));
    let brokers = shape.brokers;
    log::info!("{brokers} brokers of {} shards", shape.shards);
    let cluster = Cluster::new(&world, &network, shape);
    (0..brokers).for_each(|id| cluster.start(id));
    let work = Rc::new(Work {
        client: Client::new(&world, &network, brokers),
        ledger: Ledger::new(&world),
        impatience_permille: Cell::new(0),
        delivery_timeout: plan.sleeps.then_some(sleeper::DELIVERY_TIMEOUT),
        refused: Cell::new(0),
        undated: switches.undated.then(|| world.draw(|random| random.permille(300))),
        last_lives: RefCell::default(),
        ends: RefCell::default(),
        busy: RefCell::default(),
        book: GroupBook::new(&world),
        group_unrest_permille: Cell::new(0),
        groups_over: Cell::new(false),
    });
    (0..brokers).for_each(|id| work.ledger.clock_is_off(cluster.jump_clock(id, 0)));
    look_into_shards(&world, &cluster);
    for (name, partitions) in &plan.topics {
        let segment_bytes = world.draw(|random| random.between(1_100, 20_000)).to_string();
        let configs = [("segment.bytes", segment_bytes)];
        work.client.create_topic(name, *partitions, &configs).await;
    }
    start_workloads(&world, &work, &plan);
    start_topics(&world, &work, &plan);
    let nemesis = Nemesis {
        world: world.clone(),
        network,
        cluster: cluster.clone(),
        work: work.clone(),
        switches,
        length_max: plan.length_max,
        jump_max_ms: plan.jump_max_ms,
    };
    nemesis.rage(world.now() + plan.rage, plan.interval).await;
    log::info!("nemesis rests");
    nemesis.heal();
    keep_refusable(&world, &cluster, &work).await;
    if !wait_until_idle(&world, &work, |who| {
        !who.starts_with("consumer") && !who.starts_with("member")
    })
    .await
    {
        return (0, 0, 0);
    }
    // A plain producer does not wait for ever: what it sent may still be on its way.
    world.sleep(SETTLE).await;
    // A consumer that waits for more does not know yet that there is nothing more.
    let mut ends = BTreeMap::new();
    for (name, partitions) in &plan.topics {
        for partition in 0..*partitions {
            let place: Place = (name.clone(), partition);
            if let Some(end) = end_offset(&work, &place).await {
                ends.insert(place, end);
            }
        }
    }
    // Whoever has worked there is done.
    let lives = work.last_lives.take();
    for place in lives {
        if let Some(end) = end_offset(&work, &place).await {
            ends.insert(place, end);
        }
    }
    *work.ends.borrow_mut() = Some(ends.clone());
    // Whoever may be refused is not waited for. While a topic's record is unreadable nobody can tell what is of it.
    if cluster.damages.any() {
        world.sleep(LENGTH_MAX).await;
    }
    let whole = cluster.refusable().await.is_empty();
    work.groups_over.set(!whole);
    if (whole && !wait_until_placed(&world, &cluster, ends.len()).await)
        || !wait_until_idle(&world, &work, |who| !who.starts_with("member")).await
        || (whole && !wait_until_groups_rest(&world, &work, &plan, &ends).await)
        || !wait_until_idle(&world, &work, |_| true).await
        || (whole && !wait_until_bounded(&world, &cluster).await)
    {
        return (0, 0, 0);
    }
    for round in 0..2 {
        if round > 0 {
            // What is durable does not need anybody's memory.
            (0..brokers).for_each(|id| cluster.crash(id));
            (0..brokers).for_each(|id| cluster.start(id));
        }
        for (place, end) in &ends {
            let check = check_whole(work.clone(), place.clone(), *end);
            world.spawn(world.new_process(), "reader", Box::pin(check));
        }
        for (group, _) in &plan.groups {
            let check = check_committed(work.clone(), group.clone());
            world.spawn(world.new_process(), "offsets", Box::pin(check));
        }
        world.sleep(Duration::from_millis(1)).await;
        if !wait_until_idle(&world, &work, |_| true).await {
            return (0, 0, 0);
        }
    }
    (0..brokers).for_each(|id| cluster.crash(id));
    // What was on its way still arrives.
    world.sleep(LATE_MAX).await;
    match cluster.verify().await {
        Ok(problems) if problems.is_empty() || cluster.damages.any() => {}
        Ok(problems) => world.violate(format!("verify finds {}", problems.join(", "))),
        Err(error) => world.violate(format!("verify: {error}")),
    }
    let (assigned, committed) = work.book.totals();
    (work.ledger.acknowledged_in_all(), assigned, committed)
}

fn start_workloads(world: &World, work: &Rc<Work>, plan: &Plan) {
    let mut number = 0;
    let places: Vec<Place> = plan
        .topics
        .iter()
        .flat_map(|(name, partitions)| (0..*partitions).map(|at| (name.clone(), at)))
        .collect();
    for _ in 0..plan.idempotent {
        number += 1;
        let place = world.draw(|random| random.pick(&places).clone());
        let produce = idempotent_producer(work.clone(), number, place, plan.batches);
        world.spawn(world.new_process(), "idempotent", Box::pin(produce));
    }
    if plan.end_questions > 0 {
        let watch = end_watcher(work.clone(), places.clone(), plan.end_questions);
        world.spawn(world.new_process(), "ends", Box::pin(watch));
    }
    if plan.deletions > 0 {
        let place = world.draw(|random| random.pick(&places).clone());
        let delete = deleter(work.clone(), place, plan.deletions);
        world.spawn(world.new_process(), "deleter", Box::pin(delete));
    }
    for (group, members) in &plan.groups {
        for at in 0..*members {
            let life = member(work.clone(), group.clone(), format!("m{at}"));
            world.spawn(world.new_process(), "member", Box::pin(life));
        }
    }
    for (name, partitions) in &plan.topics {
        for _ in 0..plan.plain {
            number += 1;
            let produce = plain_producer(work.clone(), number, name.clone(), *partitions, plan.batches);
            world.spawn(world.new_process(), "plain", Box::pin(produce));
        }
        number += 1;
        let consume = consumer(work.clone(), number, name.clone(), *partitions);
        world.spawn(world.new_process(), "consumer", Box::pin(consume));
    }
}

/// Topics that are not only written to and read.
fn start_topics(world: &World, work: &Rc<Work>, plan: &Plan) {
    if plan.lives > 0 {
        let lives = recreator(work.clone(), RECREATOR, "lives".to_string(), plan.lives);
        world.spawn(world.new_process(), "recreator", Box::pin(lives));
    }
    if plan.growth > 0 {
        let growth = grower(work.clone(), GROWER, "grows".to_string(), plan.growth);
        world.spawn(world.new_process(), "grower", Box::pin(growth));
    }
    if plan.sleeps {
        let sleep = sleeper(work.clone(), SLEEPER, ("sleeps".to_string(), 0));
        world.spawn(world.new_process(), "sleeper", Box::pin(sleep));
    }
    if plan.changes > 0 {
        let change = setter(work.clone(), plan.topics[0].0.clone(), plan.changes);
        world.spawn(world.new_process(), "setter", Box::pin(change));
    }
    if let Some(limits) = plan.limits {
        let (whole, work, batches) = (world.clone(), work.clone(), plan.batches);
        let begin = async move {
            let place: Place = ("limited".to_string(), 0);
            work.doing("limited", || "is created".to_string());
            work.ledger.limited(&place, limits);
            let config = |limit: Option<i64>| limit.unwrap_or(-1).to_string();
            let segment_bytes = whole.draw(|random| random.between(1_100, 4_000)).to_string();
            let configs = [
                ("segment.bytes", segment_bytes),
                ("retention.ms", config(limits.retention_ms)),
                ("retention.bytes", config(limits.retention_bytes)),
            ];
            work.client.create_topic(&place.0, 1, &configs).await;
            work.last_lives.borrow_mut().push(place.clone());
            let produce = idempotent_producer(work.clone(), LIMITED, place.clone(), batches);
            whole.spawn(whole.new_process(), "idempotent", Box::pin(produce));
            let produce = plain_producer(work.clone(), LIMITED + 1, place.0.clone(), 1, batches);
            whole.spawn(whole.new_process(), "plain", Box::pin(produce));
            let consume = consumer(work.clone(), LIMITED + 2, place.0.clone(), 1);
            whole.spawn(whole.new_process(), "consumer", Box::pin(consume));
            // They say that they are busy before this one has finished.
            whole.sleep(Duration::from_millis(5)).await;
            work.done("limited");
        };
        world.spawn(world.new_process(), "limited", Box::pin(begin));
    }
}

/// Waits until every group is at rest, and sends its members home.
async fn wait_until_groups_rest(world: &World, work: &Work, plan: &Plan, ends: &BTreeMap<Place, i64>) -> bool {
    let until = world.now() + PROGRESS_MAX;
    for (group, _) in &plan.groups {
        let ends: BTreeMap<Place, i64> = ends
            .iter()
            .filter(|((topic, _), _)| *topic == group.topic)
            .map(|(place, end)| (place.clone(), *end))
            .collect();
        while let Err(missing) = work.book.at_rest(&group.group, &ends) {
            if world.now() >= until {
                let busy = work.busy.borrow();
                let members: Vec<String> = busy.iter().map(|(who, what)| format!("{who} {what}")).collect();
                world.violate(format!(
                    "{}: not at rest after {PROGRESS_MAX:?}: {missing}; {}",
                    group.group,
                    members.join("; ")
                ));
                return false;
            }
            world.sleep(Duration::from_millis(20)).await;
        }
        for (place, end) in ends {
            work.book.all_consumed(&group.group, &place, end);
        }
    }
    work.groups_over.set(true);
    true
}

/// Waits until every partition is where it belongs: a broker that came late has taken over what it should have.
async fn wait_until_placed(world: &World, cluster: &Cluster, partitions: usize) -> bool {
    let until = world.now() + PROGRESS_MAX;
    loop {
        let (led, misplaced) = placement::look(&cluster.shards());
        if led == partitions && misplaced.is_empty() {
            return true;
        }
        if world.now() >= until {
            world.violate(format!(
                "after {PROGRESS_MAX:?} {led} of {partitions} partitions are led, and not where they belong are {misplaced:?}"
            ));
            return false;
        }
        world.sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until no shard keeps more in memory than it may.
async fn wait_until_bounded(world: &World, cluster: &Cluster) -> bool {
    let until = world.now() + PROGRESS_MAX;
    loop {
        let excess = cluster.excess();
        if excess.is_empty() {
            return true;
        }
        if world.now() >= until {
            world.violate(format!("after {PROGRESS_MAX:?} {}", excess.join("; ")));
            return false;
        }
        world.sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until nobody of these is busy; says so if they never end.
async fn wait_until_idle(world: &World, work: &Work, counts: impl Fn(&str) -> bool) -> bool {
    let until = world.now() + PROGRESS_MAX;
    // Whoever was just started has not said yet that it is busy.
    world.sleep(Duration::from_millis(5)).await;
    while world.now() < until {
        if !work.busy.borrow().keys().any(|who| counts(who)) {
            return true;
        }
        world.sleep(Duration::from_millis(20)).await;
    }
    let busy = work.busy.borrow();
    let stuck: Vec<String> = busy
        .iter()
        .filter(|(who, _)| counts(who))
        .map(|(who, what)| format!("{who} {what}"))
        .collect();
    world.violate(format!("no progress in {PROGRESS_MAX:?}: {}", stuck.join("; ")));
    false
}

/// Keeps the clients informed of what may be refused: a broker that takes over what is damaged makes it more.
async fn keep_refusable(world: &World, cluster: &Rc<Cluster>, work: &Rc<Work>) {
    work.client.refusable.replace(cluster.refusable().await);
    if !cluster.damages.any() {
        return;
    }
    let (world, cluster, work) = (world.clone(), cluster.clone(), work.clone());
    let clock = world.clone();
    let keep = async move {
        loop {
            clock.sleep(Duration::from_millis(200)).await;
            work.client.refusable.replace(cluster.refusable().await);
        }
    };
    world.spawn(ENVIRONMENT, "refusable", Box::pin(keep));
}

fn look_into_shards(world: &World, cluster: &Rc<Cluster>) {
    let (ownership, watermarks) = (Ownership::new(world), Watermarks::new(world));
    let (clock, cluster) = (world.clone(), cluster.clone());
    world.spawn(
        ENVIRONMENT,
        "checkers",
        Box::pin(async move {
            loop {
                clock.sleep(LOOK).await;
                let mut coordinators = Coordinators::new(&clock);
                for running in cluster.shards() {
                    coordinators.look(running.shard.config.broker_id, running.coordinated_slots());
                    let stats = running.shard.stats();
                    ownership.look(running.shard.config.incarnation, &stats);
                    watermarks.look(&stats);
                }
            }
        }),
    );
}
