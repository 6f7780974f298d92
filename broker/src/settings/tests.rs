use super::*;

fn load_with(args: &[&str], env: &[(&str, &str)], file: &str) -> Result<(Settings, Vec<String>), String> {
    let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
    let env = env
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    let read_file = |path: &str| match path {
        "settings.toml" => Ok(file.to_owned()),
        _ => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
    };
    match Command::load(&args, &env, &read_file, &Host::unknown()) {
        Ok(Command::Run { settings, changed }) => Ok((*settings, changed)),
        Ok(Command::Print(text)) => panic!("printed {text}"),
        Ok(Command::Tool { tool, .. }) => panic!("no settings but {tool:?}"),
        Err(mistakes) => Err(mistakes.to_string()),
    }
}

fn load(args: &[&str], env: &[(&str, &str)]) -> Result<Settings, String> {
    load_with(args, env, "").map(|(settings, _)| settings)
}

#[track_caller]
fn refused(result: Result<Settings, String>, message: &str) {
    let error = result.expect_err("a mistake");
    assert!(error.contains(message), "{error:?} does not say {message:?}");
}

#[test]
fn nothing_set_gives_a_single_broker_on_this_machine() {
    let settings = Settings::default();
    assert_eq!(settings.broker_addr, "0.0.0.0:9092".parse().unwrap());
    assert_eq!(
        (settings.advertised_host.as_str(), settings.advertised_port),
        ("127.0.0.1", 9092)
    );
    assert_eq!(settings.flush_bytes, 8 << 20);
    assert_eq!(settings.segment_bytes, 128 << 20);
    assert_eq!(settings.socket_request_max_bytes, 104_857_600);
    assert_eq!((settings.rack.clone(), settings.shard_direct_base_port), (None, None));
    assert!(settings.auto_create_topics && settings.allow_admin_apis && !settings.use_memory_s3);
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let file = "flush_pipeline = 5\nflush_bytes = \"1MiB\"\nbroker_id = 7";
    let env = [("KAFSCALE_FLUSH_PIPELINE", "6"), ("KAFSCALE_BROKER_ID", "8")];
    let args = ["--config", "settings.toml", "--broker-id=9"];
    let (settings, changed) = load_with(&args, &env, file).unwrap();
    assert_eq!(
        (settings.flush_bytes, settings.flush_pipeline, settings.broker_id),
        (1 << 20, 6, 9)
    );
    assert_eq!(settings.flush_interval_ms, 0);
    let expected = [
        "broker_id = 9 (from --broker-id)",
        "flush_bytes = 1048576 (from flush_bytes in settings.toml)",
        "flush_pipeline = 6 (from KAFSCALE_FLUSH_PIPELINE)",
    ];
    assert_eq!(changed, expected);
}

#[test]
fn the_file_may_be_named_in_the_environment() {
    let (settings, _) = load_with(&[], &[("KAFSCALE_CONFIG", "settings.toml")], "trace_kafka = true").unwrap();
    assert!(settings.trace_kafka);
    refused(
        load(&["--config", "nowhere.toml"], &[]),
        "cannot read the settings file nowhere.toml",
    );
}

#[test]
fn every_setting_can_be_given_in_every_way() {
    for spec in TABLE {
        let (least, most) = match spec.kind {
            Kind::Number { min, max, .. } | Kind::Bytes { min, max } => (min.to_string(), max.to_string()),
            Kind::Bool => ("true".to_owned(), "false".to_owned()),
            Kind::Address => ("127.0.0.1:19092".to_owned(), "[::1]:19093".to_owned()),
            Kind::Word(words) => (words[0].to_owned(), words[1].to_owned()),
            Kind::Path | Kind::Text | Kind::Secret => ("some".to_owned(), "other".to_owned()),
        };
        for value in [least, most] {
            let line = format!("{} = '{value}'", spec.name);
            let ways = [
                load_with(&[&spec.flag(), &value], &[], ""),
                load_with(&[], &[(spec.env, &value)], ""),
                load_with(&["--config", "settings.toml"], &[], &line),
            ];
            for way in ways {
                match way {
                    Ok((_, changed)) if spec.kind == Kind::Secret => assert!(changed[0].contains("(hidden)")),
                    Ok((_, changed)) => assert!(changed[0].starts_with(&format!("{} = {value}", spec.name))),
                    // The extremes of a few contradict the defaults of others, and some mean nothing alone.
                    Err(error) => assert!(
                        ["socket_request_max_bytes", "shards", "session_timeout", "s3_", "etcd_"]
                            .iter()
                            .any(|name| error.contains(name))
                    ),
                }
            }
        }
    }
}

#[test]
fn names_are_unique_and_follow_the_convention() {
    let names: std::collections::BTreeSet<_> = TABLE.iter().map(|spec| spec.name).collect();
    let variables: std::collections::BTreeSet<_> = TABLE.iter().map(|spec| spec.env).collect();
    assert_eq!((names.len(), variables.len()), (TABLE.len(), TABLE.len()));
    for spec in TABLE.iter().filter(|spec| spec.name != "namespace") {
        assert_eq!(spec.env, format!("KAFSCALE_{}", spec.name.to_uppercase()));
    }
}

#[test]
fn unknown_names_are_refused_with_a_suggestion() {
    refused(
        load(&["--flush-interval", "5"], &[]),
        "unknown argument --flush-interval (did you mean --flush-interval-ms?)",
    );
    refused(
        load(&["--nonsense"], &[]),
        "unknown argument --nonsense; --help lists all",
    );
    refused(load(&["serve"], &[]), "unknown argument serve;");
    refused(
        load(&[], &[("KAFSCALE_BROKERID", "1")]),
        "variable KAFSCALE_BROKERID (did you mean KAFSCALE_BROKER_ID?)",
    );
    let file = load_with(
        &["--config", "settings.toml"],
        &[],
        "flush_byte = 1\n[s3]\nbucket = 'b'",
    )
    .map(|(s, _)| s);
    refused(
        file.clone(),
        "unknown key flush_byte in settings.toml (did you mean flush_bytes?)",
    );
    refused(file, "unknown key s3");
    assert!(load(
        &[],
        &[("KAFSCALE_CACHE_BYTES", ""), ("PATH", "/bin"), ("KAFKA_HOME", "x")]
    )
    .is_ok());
}

#[test]
fn every_mistake_is_reported_at_once() {
    let error = load(
        &["--nonsense", "1", "--shards", "none"],
        &[("KAFSCALE_BROKER_ID", "-1")],
    )
    .unwrap_err();
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[test]
fn values_out_of_bounds_or_shape_are_refused() {
    refused(
        load(&["--flush-pipeline", "0"], &[]),
        "--flush-pipeline is \"0\", but the smallest value is 1",
    );
    refused(load(&["--broker-port=70000"], &[]), "the largest value is 65535");
    refused(
        load(&["--segment-bytes", "2GiB"], &[]),
        "the largest value is 1073741824",
    );
    refused(
        load(&["--cache-bytes", "9999999999GiB"], &[]),
        "more than can be counted",
    );
    refused(load(&["--cache-bytes", "8MB"], &[]), "a number of bytes is needed");
    refused(load(&["--spin-us", "1.5"], &[]), "a whole number of µs is needed");
    refused(
        load(&[], &[("KAFSCALE_AUTO_CREATE_TOPICS", "maybe")]),
        "true or false is needed",
    );
    refused(
        load(&[], &[("KAFSCALE_LOG_LEVEL", "loud")]),
        "one of these is needed: error, warn",
    );
    refused(load(&[], &[("KAFSCALE_BROKER_ADDR", "9092")]), "host:port is needed");
    refused(
        load(&[], &[("KAFSCALE_METRICS_ADDR", "127.0.0.1:x")]),
        "host:port is needed",
    );
    refused(load(&["--rack", "a\nb"], &[]), "control characters");
    let list = load_with(&["--config", "settings.toml"], &[], "shards = [1]").map(|(s, _)| s);
    refused(list, "shards in settings.toml is a array");
    let broken = load_with(&["--config", "settings.toml"], &[], "shards = ").map(|(s, _)| s);
    refused(broken, "settings.toml is not valid TOML");
}

#[test]
fn flags_need_their_value_once() {
    refused(load(&["--broker-id"], &[]), "--broker-id needs a value");
    refused(load(&["--rack", "--trace-kafka"], &[]), "--rack needs a value");
    refused(
        load(&["--shards", "1", "--shards", "2"], &[]),
        "--shards is given twice",
    );
    assert!(load(&["--trace-kafka"], &[]).unwrap().trace_kafka);
    assert!(!load(&["--auto-create-topics", "off"], &[]).unwrap().auto_create_topics);
    assert_eq!(load(&["--retention-ms", "-1"], &[]).unwrap().retention_ms, -1);
}

#[test]
fn a_bucket_and_an_etcd_are_set_as_other_implementations_set_them() {
    let env = [
        ("KAFSCALE_S3_BUCKET", "records"),
        ("KAFSCALE_S3_ENDPOINT", "http://s3:9000"),
        ("KAFSCALE_S3_ACCESS_KEY", "id"),
        ("KAFSCALE_S3_SECRET_KEY", "secret"),
        ("KAFSCALE_ETCD_ENDPOINTS", "http://a:2379, http://b:2379"),
        ("KAFSCALE_ETCD_USERNAME", "root"),
        ("KAFSCALE_ETCD_PASSWORD", "hush"),
    ];
    let settings = load(&[], &env).unwrap();
    let s3 = settings.s3.as_ref().unwrap();
    assert_eq!(
        (s3.bucket.as_str(), s3.region.as_str(), s3.path_style),
        ("records", "us-east-1", true)
    );
    assert_eq!(s3.keys, Some(("id".into(), "secret".into(), None)));
    let etcd = settings.etcd.as_ref().unwrap();
    assert_eq!(etcd.endpoints, ["http://a:2379", "http://b:2379"]);
    assert_eq!(etcd.user, Some(("root".into(), "hush".into())));
    // What costs nothing on a disk costs something there.
    assert_eq!(
        (settings.flush_interval_ms, settings.group_initial_rebalance_delay_ms),
        (50, 3000)
    );
    let alone = Settings::default();
    assert_eq!(
        (alone.flush_interval_ms, alone.group_initial_rebalance_delay_ms),
        (0, 0)
    );
    assert!(
        !load(&["--s3-bucket", "b"], &[]).unwrap().s3.unwrap().path_style,
        "AWS wants the bucket in the host"
    );
    let shown = format!("{settings:?}");
    assert!(!shown.contains("secret") && !shown.contains("hush"), "{shown}");
}

#[test]
fn secrets_are_not_logged() {
    let args = ["--s3-bucket=b", "--s3-access-key=id", "--s3-secret-key=hush"];
    let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
    let loaded = Command::load(&args, &BTreeMap::new(), &|_| unreachable!(), &Host::unknown());
    let Ok(Command::Run { changed, .. }) = loaded else {
        panic!("{loaded:?}")
    };
    assert!(changed.iter().any(|line| line.contains("s3_access_key = id")));
    assert!(!changed.iter().any(|line| line.contains("hush")), "{changed:?}");
}

#[test]
fn stores_that_are_half_set_are_refused_and_never_replaced_in_silence() {
    let bucket = ("KAFSCALE_S3_BUCKET", "records");
    refused(
        load(&[], &[("KAFSCALE_S3_ENDPOINT", "http://s")]),
        "s3_endpoint is set and s3_bucket is not",
    );
    refused(
        load(&[], &[("KAFSCALE_ETCD_ENDPOINTS", "http://e:2379")]),
        "have to share their records too",
    );
    refused(
        load(&[], &[("KAFSCALE_ETCD_USERNAME", "root")]),
        "etcd_username is set and etcd_endpoints is not",
    );
    refused(load(&[], &[bucket, ("KAFSCALE_USE_MEMORY_S3", "1")]), "are both set");
    refused(load(&[], &[bucket, ("KAFSCALE_S3_ACCESS_KEY", "id")]), "go together");
    refused(
        load(&[], &[bucket, ("KAFSCALE_S3_ENDPOINT", "s3:9000")]),
        "http://host:port",
    );
    refused(
        load(&[], &[bucket, ("KAFSCALE_ETCD_ENDPOINTS", "http://e:2379,,")]),
        "has an empty entry",
    );
    assert!(load(&[], &[("KAFSCALE_USE_MEMORY_S3", "1")]).unwrap().use_memory_s3);
}

#[test]
fn contradictory_settings_are_refused() {
    refused(load(&["--metrics-addr", "127.0.0.1:9092"], &[]), "both want port 9092");
    refused(
        load(&["--shard-direct-base-port", "65535", "--shards", "4"], &[]),
        "leaves no room for 4 shards",
    );
    refused(
        load(&["--shard-direct-base-port", "9090", "--shards", "4"], &[]),
        "port 9092 of broker_addr lies in",
    );
    let large = ["--message-max-bytes", "2048", "--socket-request-max-bytes", "2048"];
    refused(load(&large, &[]), "must be less than socket_request_max_bytes");
    let longer = ["--group-min-session-timeout-ms=2000000"];
    refused(load(&longer, &[]), "must not be above group_max_session_timeout_ms");
    refused(load(&["--namespace", "a/b"], &[]), "is no key part");
    refused(load(&["--namespace", "_wal"], &[]), "is no key part");
    refused(
        load(&["--broker-host", "0.0.0.0"], &[]),
        "is no address that a client can connect to",
    );
    let names = [("KAFSCALE_S3_NAMESPACE", "a"), ("KAFSCALE_NAMESPACE", "b")];
    refused(load(&[], &names), "name the same setting with different values");
    assert_eq!(
        load(&[], &[names[0], ("KAFSCALE_NAMESPACE", "a")]).unwrap().namespace,
        "a"
    );
}

#[test]
fn kubernetes_service_variables_are_not_ours() {
    let env = [
        ("KAFSCALE_BROKER_PORT", "tcp://10.0.0.1:9092"),
        ("KAFSCALE_BROKER_SERVICE_HOST", "10.0.0.1"),
        ("KAFSCALE_BROKER_SERVICE_PORT_KAFKA", "9092"),
        ("KAFSCALE_BROKER_PORT_9092_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(load(&[], &env).unwrap(), Settings::default());
}

#[test]
fn clients_are_told_an_address_that_reaches_this_machine() {
    let host = |ips: &[&str]| Host {
        cpus: 2,
        name: Some(("box".to_owned(), ips.iter().map(|ip| ip.parse().unwrap()).collect())),
    };
    let any = "0.0.0.0".parse().unwrap();
    assert_eq!(host(&["10.0.0.5"]).advertise(any), "box");
    assert_eq!(host(&["10.0.0.5", "fe80::1"]).advertise(any), "127.0.0.1");
    assert_eq!(host(&["fe80::1"]).advertise("::".parse().unwrap()), "box");
    assert_eq!(host(&["10.0.0.5"]).advertise("10.1.1.1".parse().unwrap()), "10.1.1.1");
    let told = load(
        &[
            "--broker-addr",
            ":19092",
            "--broker-host",
            "kafka.example",
            "--broker-port",
            "443",
        ],
        &[],
    )
    .unwrap();
    assert_eq!(
        (told.advertised_host.as_str(), told.advertised_port),
        ("kafka.example", 443)
    );
    assert_eq!(told.broker_addr, "0.0.0.0:19092".parse().unwrap());
    assert!(Host::this_machine().cpus >= 1);
}

#[test]
fn help_and_version_are_printed_whatever_else_is_said() {
    let print = |arg: &str| {
        let args = ["--nonsense".to_owned(), arg.to_owned()];
        match Command::load(&args, &BTreeMap::new(), &|_| unreachable!(), &Host::unknown()) {
            Ok(Command::Print(text)) => text,
            other => panic!("{other:?}"),
        }
    };
    assert!(print("--version").starts_with("kafscale-broker "));
    let help = print("--help");
    assert!(help.contains("rebuild") && help.contains("verify [--without-metastore]"));
    for spec in TABLE {
        assert!(help.contains(&spec.flag()) && help.contains(spec.env));
    }
    assert!(
        help.lines().all(|line| line.chars().count() <= 120),
        "help fits a terminal"
    );
}

#[test]
fn settings_docs_are_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
    let page = markdown::page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).is_ok_and(|text| text == page),
        "docs/settings.md is old: run make docs"
    );
}
