//! Produce with and without acknowledgements, and idempotent producers.

use super::*;

pub fn produce(judge: &mut Judge) {
    for version in judge.versions::<ProduceRequest>() {
        let topic = format!("produce-{version}");
        judge.topic(&topic, 2, &[]);
        for (label, batch) in batches::all() {
            produce_to(judge, label, version, &topic, -1, &[(0, Some(batch))]);
        }
        for acks in [-2, 2, i16::MAX] {
            produce_to(judge, "acks", version, &topic, acks, &[(0, Some(batches::plain(1)))]);
        }
        for partition in [-1, 2, i32::MAX] {
            produce_to(
                judge,
                "unknown partition",
                version,
                &topic,
                1,
                &[(partition, Some(batches::plain(1)))],
            );
        }
        produce_to(
            judge,
            "unknown topic",
            version,
            MISSING,
            1,
            &[(0, Some(batches::plain(1)))],
        );
        produce_to(
            judge,
            "illegal topic",
            version,
            "a/b",
            1,
            &[(0, Some(batches::plain(1)))],
        );
        let twice = [(1, Some(batches::plain(1))), (1, Some(batches::plain(2)))];
        produce_to(judge, "a partition twice", version, &topic, -1, &twice);
        produce_to(judge, "no partitions", version, &topic, -1, &[]);
        judge.ask("no topics", version, |_| ProduceRequest {
            acks: -1,
            ..Default::default()
        });
        for timeout_ms in [-1, 0, i32::MAX] {
            judge.ask("timeout", version, |names| {
                let request = produce_request(&topic, names.topic(&topic), 1, &[(0, Some(batches::plain(1)))]);
                let request = ProduceRequest { timeout_ms, ..request };
                in_version(request, version)
            });
        }
    }
    // What is stored of each batch, in a partition of its own: what one side alone accepts shows once.
    let mut all = batches::all();
    // What one side stores and the other does not.
    all.retain(|(label, _)| !label.contains("offset delta 5") && !label.contains("rubbish"));
    let count = all.len() as i32;
    judge.topic("produce-each", count, &[]);
    for (partition, (label, batch)) in (0..).zip(all) {
        produce_to(judge, label, 12, "produce-each", -1, &[(partition, Some(batch))]);
    }
    records_are_alike(judge, "produce-each", count);
    for (name, configs) in [
        ("produce-small", vec![("max.message.bytes", "100")]),
        ("produce-append-time", vec![("message.timestamp.type", "LogAppendTime")]),
        ("produce-compact", vec![("cleanup.policy", "compact")]),
        ("produce-before", vec![("message.timestamp.before.max.ms", "1000")]),
    ] {
        judge.topic(name, 1, &configs);
        let version = judge.newest::<ProduceRequest>();
        for (label, batch) in batches::all() {
            produce_to(
                judge,
                &format!("{name}: {label}"),
                version,
                name,
                -1,
                &[(0, Some(batch))],
            );
        }
    }
    // Kafka's handler fails on these, without an answer.
    produce_to(judge, "null records", 12, "produce-small", -1, &[(0, None)]);
    // A day ahead of both clocks.
    let ahead = now_ms() + 24 * 3_600_000;
    produce_to(
        judge,
        "a day ahead",
        12,
        "produce-small",
        -1,
        &[(0, Some(batches::timed(&[ahead])))],
    );
    judge.topic(
        "produce-after",
        1,
        &[("message.timestamp.after.max.ms", "9223372036854775807")],
    );
    produce_to(
        judge,
        "a day ahead, allowed",
        12,
        "produce-after",
        -1,
        &[(0, Some(batches::timed(&[ahead])))],
    );
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("the clock is past 1970").as_millis() as i64
}

pub fn produce_without_answers(judge: &mut Judge) {
    judge.topic("quiet", 1, &[]);
    for version in judge.versions::<ProduceRequest>() {
        for (label, batch) in batches::all() {
            produce_to(
                judge,
                &format!("acks 0: {label}"),
                version,
                "quiet",
                0,
                &[(0, Some(batch))],
            );
        }
        produce_to(
            judge,
            "acks 0: unknown topic",
            version,
            MISSING,
            0,
            &[(0, Some(batches::plain(1)))],
        );
        produce_to(
            judge,
            "acks 0: unknown partition",
            version,
            "quiet",
            0,
            &[(9, Some(batches::plain(1)))],
        );
    }
}

pub fn idempotent(judge: &mut Judge) {
    judge.topic("exact", 1, &[]);
    new_producer(judge, "p");
    let version = judge.newest::<ProduceRequest>();
    // Epoch, first sequence, count.
    let steps = [
        (0, 0, 2),
        (0, 0, 2),
        (0, 2, 1),
        (0, 4, 1),
        (0, 3, 1),
        (0, 0, 2),
        (0, 2, 2),
        (1, 5, 1),
        (1, 0, 1),
        (0, 4, 1),
        (1, 1, 1),
        (-1, 2, 1),
        (3, 0, 3),
        (3, i32::MAX, 1),
        (3, -1, 1),
        (3, 3, 1),
    ];
    for (epoch, sequence, count) in steps {
        idempotent_to(judge, "exact", version, "p", (epoch, sequence, count));
    }
    // A producer that the partition does not know may begin anywhere, in an old topic as in a new one.
    judge.topic("exact-late", 1, &[]);
    new_producer(judge, "q");
    idempotent_to(judge, "exact-late", version, "q", (0, 7, 1));
    idempotent_to(judge, "exact-late", version, "q", (0, 8, 1));
    judge.topic("exact-anew", 1, &[]);
    idempotent_to(judge, "exact-anew", version, "p", (3, 40, 2));
    idempotent_to(judge, "exact-anew", version, "p", (3, 42, 1));
    let delete = |_: &Names| DeleteTopicsRequest {
        topic_names: vec!["exact-anew".into()],
        timeout_ms: 10_000,
        ..Default::default()
    };
    judge.ask("a topic made anew", 5, delete);
    std::thread::sleep(Duration::from_millis(500));
    judge.topic("exact-anew", 1, &[]);
    idempotent_to(judge, "exact-anew", version, "p", (3, 43, 1));
    records_are_alike(judge, "exact", 1);
    records_are_alike(judge, "exact-anew", 1);
}

fn idempotent_to(judge: &mut Judge, topic: &str, version: i16, alias: &str, (epoch, sequence, count): (i16, i32, i64)) {
    let label = format!("{topic}: producer {alias} epoch {epoch} sequence {sequence} of {count}");
    judge.ask(&label, version, |names| {
        let batch = batches::idempotent(names.number(alias), epoch, sequence, count);
        in_version(
            produce_request(topic, names.topic(topic), -1, &[(0, Some(batch))]),
            version,
        )
    });
}
