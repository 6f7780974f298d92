//! DescribeConfigs, AlterConfigs and IncrementalAlterConfigs, with every setting that Kafka has.

use super::*;

fn describe_request(resource_type: i8, name: &str, keys: Option<Vec<&str>>) -> DescribeConfigsRequest {
    DescribeConfigsRequest {
        resources: vec![DescribeConfigsResource {
            resource_type,
            resource_name: name.into(),
            configuration_keys: keys.map(|keys| keys.into_iter().map(str::to_string).collect()),
        }],
        ..Default::default()
    }
}

pub fn describe_configs(judge: &mut Judge) {
    judge.topic("described", 1, &[("retention.ms", "5000")]);
    judge.ask_all("a topic with synonyms", |_, _| DescribeConfigsRequest {
        include_synonyms: true,
        ..describe_request(2, "described", None)
    });
    judge.ask_all("some settings", |_, _| {
        describe_request(2, "described", Some(vec!["retention.ms", "no.such"]))
    });
    judge.ask_all("no settings", |_, _| describe_request(2, "described", Some(vec![])));
    for (kind, name) in [
        (2, MISSING),
        (2, "a/b"),
        (2, ""),
        (4, "77"),
        (4, "x"),
        (0, "x"),
        (1, "x"),
        (8, "x"),
        (16, "x"),
        (32, "x"),
        (32, ""),
        (64, "x"),
        (-1, "x"),
    ] {
        judge.ask_all(&format!("resource {kind} {name:?}"), |_, _| {
            describe_request(kind, name, None)
        });
    }
    judge.ask_all("a resource twice", |_, _| {
        let mut request = describe_request(2, "described", Some(vec!["retention.ms"]));
        request.resources.extend(request.resources.clone());
        request
    });
    for (kind, name) in [
        (2, MISSING),
        (2, "a/b"),
        (4, "77"),
        (4, "x"),
        (0, "x"),
        (8, "x"),
        (16, "m"),
        (64, "x"),
    ] {
        judge.ask_all(&format!("alter {kind} {name:?}"), |_, _| AlterConfigsRequest {
            resources: vec![AlterConfigsResource {
                resource_type: kind,
                resource_name: name.into(),
                configs: vec![],
            }],
            validate_only: false,
        });
        for operation in [0, 1, 2, 3, 4, -1] {
            judge.ask_all(&format!("alter {kind} {name:?} by {operation}"), |_, _| {
                incremental(kind, name, &[("retention.ms", operation, Some("1000"))])
            });
        }
    }
    for (label, changes) in [
        ("append to a number", vec![("retention.ms", 2, Some("5"))]),
        ("append to a list", vec![("cleanup.policy", 2, Some("compact"))]),
        ("append again", vec![("cleanup.policy", 2, Some("compact"))]),
        ("subtract from a list", vec![("cleanup.policy", 3, Some("delete"))]),
        ("subtract all", vec![("cleanup.policy", 3, Some("compact"))]),
        ("delete", vec![("cleanup.policy", 1, None)]),
        ("delete what is not set", vec![("segment.ms", 1, None)]),
        (
            "a setting twice",
            vec![("retention.ms", 0, Some("1")), ("retention.ms", 0, Some("2"))],
        ),
        ("null", vec![("retention.ms", 0, None)]),
        ("unknown operation", vec![("retention.ms", 9, Some("1"))]),
        ("unknown setting", vec![("no.such", 0, Some("1"))]),
        ("delete an unknown setting", vec![("no.such", 1, None)]),
        ("bad value", vec![("retention.ms", 0, Some("x"))]),
        ("nothing", vec![]),
    ] {
        judge.ask_all(label, |_, _| incremental(2, "described", &changes));
        settle();
        judge.ask(&format!("after {label}"), 4, |_| describe_request(2, "described", None));
    }
    judge.ask_all("alter a topic twice", |_, _| {
        let mut request = incremental(2, "described", &[("retention.ms", 0, Some("7"))]);
        request.resources.extend(request.resources.clone());
        request
    });
    judge.ask_all("replace all settings", |_, _| AlterConfigsRequest {
        resources: vec![AlterConfigsResource {
            resource_type: 2,
            resource_name: "described".into(),
            configs: vec![AlterableConfig {
                name: "segment.ms".into(),
                value: Some("99999".into()),
            }],
        }],
        validate_only: false,
    });
    settle();
    judge.ask("after replacing", 4, |_| describe_request(2, "described", None));
}

fn incremental(kind: i8, name: &str, changes: &[(&str, i8, Option<&str>)]) -> IncrementalAlterConfigsRequest {
    let change = |(name, config_operation, value): &(&str, i8, Option<&str>)| IncrementalAlterableConfig {
        name: name.to_string(),
        config_operation: *config_operation,
        value: value.map(str::to_string),
    };
    IncrementalAlterConfigsRequest {
        resources: vec![IncrementalAlterConfigsResource {
            resource_type: kind,
            resource_name: name.into(),
            configs: changes.iter().map(change).collect(),
        }],
        validate_only: false,
    }
}

/// All of Kafka's topic settings, each with values that it accepts and values that it refuses.
const SETTINGS: &[(&str, &[&str])] = &[
    (
        "cleanup.policy",
        &[
            "delete",
            "compact",
            "delete,compact",
            "compact,delete",
            "",
            "shred",
            "DELETE",
            "delete,delete",
            " delete ",
        ],
    ),
    ("compression.gzip.level", &["-1", "1", "9", "0", "10", "x"]),
    ("compression.lz4.level", &["1", "9", "17", "0", "18", "-1"]),
    (
        "compression.type",
        &[
            "uncompressed",
            "zstd",
            "lz4",
            "snappy",
            "gzip",
            "producer",
            "none",
            "ZSTD",
            "",
        ],
    ),
    ("compression.zstd.level", &["-131072", "3", "22", "23", "-131073"]),
    (
        "delete.retention.ms",
        &["0", "1000", "-1", "x", "9223372036854775807", "9223372036854775808"],
    ),
    ("errors.deadletterqueue.group.enable", &["true"]),
    ("file.delete.delay.ms", &["0", "60000", "-1"]),
    ("flush.messages", &["1", "0", "9223372036854775807"]),
    ("flush.ms", &["0", "-1", "9223372036854775807"]),
    (
        "follower.replication.throttled.replicas",
        &["", "*", "0:1,1:2", "x", "none"],
    ),
    ("index.interval.bytes", &["0", "4096", "-1", "2147483648"]),
    (
        "leader.replication.throttled.replicas",
        &["", "*", "0:1,1:2", "x", "0:1"],
    ),
    ("local.retention.bytes", &["-2", "-1", "1000", "-3", "0"]),
    ("local.retention.ms", &["-2", "-1", "1000", "-3", "0"]),
    ("max.compaction.lag.ms", &["1", "0", "9223372036854775807"]),
    (
        "max.message.bytes",
        &[
            "0",
            "1000",
            "-1",
            "2147483647",
            "2147483648",
            "1e3",
            " 5 ",
            "+5",
            "0x10",
        ],
    ),
    ("message.downconversion.enable", &["true", "false"]),
    ("message.format.version", &["3.0-IV1", "2.0", "x"]),
    (
        "message.timestamp.after.max.ms",
        &["0", "1000", "-1", "9223372036854775807"],
    ),
    (
        "message.timestamp.before.max.ms",
        &["0", "1000", "-1", "9223372036854775807"],
    ),
    ("message.timestamp.difference.max.ms", &["1000"]),
    (
        "message.timestamp.type",
        &["CreateTime", "LogAppendTime", "createtime", ""],
    ),
    ("min.cleanable.dirty.ratio", &["0", "0.5", "1", "1.1", "-0.1", "x"]),
    ("min.compaction.lag.ms", &["0", "1000", "-1"]),
    ("min.insync.replicas", &["1", "2", "0", "-1"]),
    (
        "preallocate",
        &["true", "false", "TRUE", "True", " true ", "1", "yes", ""],
    ),
    ("remote.copy.disable", &["true", "false"]),
    ("remote.log.copy.disable", &["true", "false"]),
    ("remote.log.delete.on.disable", &["true", "false"]),
    ("remote.storage.enable", &["true", "false"]),
    ("retention.bytes", &["-1", "0", "1000", "-2"]),
    ("retention.ms", &["-1", "0", "1000", "-2", "1.5", ""]),
    (
        "segment.bytes",
        &["1048576", "14", "13", "0", "2147483647", "1073741824"],
    ),
    ("segment.index.bytes", &["4", "3", "10485760"]),
    ("segment.jitter.ms", &["0", "1000", "-1"]),
    ("segment.ms", &["1", "1000", "0"]),
    ("unclean.leader.election.enable", &["true", "false", "False", "maybe"]),
    ("no.such.setting", &["1", ""]),
    ("Retention.ms", &["1"]),
];

pub fn topic_settings(judge: &mut Judge) {
    judge.topic("settings", 1, &[]);
    let version = judge.newest::<CreateTopicsRequest>();
    for (name, values) in SETTINGS {
        for value in *values {
            judge.ask(&format!("{name}={value:?}"), version, |_| CreateTopicsRequest {
                validate_only: true,
                ..create_topic("settings-dry", 1, &[(name, value)])
            });
            judge.ask(&format!("set {name}={value:?}"), 1, |_| {
                incremental(2, "settings", &[(name, 0, Some(value))])
            });
            settle();
            judge.ask(&format!("{name} after {value:?}"), 4, |_| DescribeConfigsRequest {
                include_synonyms: true,
                ..describe_request(2, "settings", Some(vec![name]))
            });
        }
        judge.ask(&format!("unset {name}"), 1, |_| {
            incremental(2, "settings", &[(name, 1, None)])
        });
        settle();
        judge.ask(&format!("{name} unset"), 4, |_| {
            describe_request(2, "settings", Some(vec![name]))
        });
    }
}

pub fn group_settings(judge: &mut Judge) {
    const GROUP: i8 = 32;
    judge.ask_all("settings of a group", |_, _| DescribeConfigsRequest {
        include_synonyms: true,
        ..describe_request(GROUP, "configured", None)
    });
    for (name, value) in [
        ("consumer.session.timeout.ms", "50000"),
        ("consumer.session.timeout.ms", "1"),
        ("consumer.session.timeout.ms", "999999999"),
        ("consumer.session.timeout.ms", "x"),
        ("consumer.heartbeat.interval.ms", "6000"),
        ("consumer.heartbeat.interval.ms", "1"),
        ("consumer.heartbeat.interval.ms", "60000"),
        ("no.such", "1"),
    ] {
        judge.ask(&format!("set {name}={value}"), 1, |_| {
            incremental(GROUP, "configured", &[(name, 0, Some(value))])
        });
        settle();
        judge.ask(&format!("after {name}={value}"), 4, |_| {
            describe_request(GROUP, "configured", None)
        });
    }
    judge.ask("the empty group", 1, |_| {
        incremental(GROUP, "", &[("consumer.session.timeout.ms", 0, Some("50000"))])
    });
    judge.ask("unset", 1, |_| {
        incremental(GROUP, "configured", &[("consumer.session.timeout.ms", 1, None)])
    });
    settle();
    judge.ask("after unset", 4, |_| describe_request(GROUP, "configured", None));
}
