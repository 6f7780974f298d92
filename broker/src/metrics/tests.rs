use super::*;
use crate::runtime::glommio::GlommioRuntime;
use kafscale_storage_engine::object_store::memory::MemoryStore;
use kafscale_storage_engine::object_store::{ObjectStore, StoreError};

fn run<T>(test: impl std::future::Future<Output = T>) -> T {
    glommio::LocalExecutorBuilder::default()
        .io_memory(1 << 20)
        .make()
        .unwrap()
        .run(test)
}

#[test]
fn a_value_counts_in_the_first_bucket_that_holds_it() {
    let histogram = Histogram::latency();
    for micros in [0, 100, 101, 30_000_000, 30_000_001, u64::MAX] {
        histogram.record_value(micros);
    }
    let counts = histogram.counts();
    assert_eq!(
        (counts[0], counts[1], counts[counts.len() - 2], counts[counts.len() - 1]),
        (2, 1, 1, 2)
    );
    assert_eq!(histogram.count(), 6);
}

#[test]
fn the_page_follows_prometheus_conventions() {
    let metrics = Metrics::new(0);
    metrics
        .request(ApiKey::Produce)
        .duration
        .record(Duration::from_micros(700));
    metrics
        .request(ApiKey::Produce)
        .duration
        .record(Duration::from_secs(60));
    metrics.topic("orders").produce_records.add(7);
    let page = exposition::text(&metrics.snapshot(Duration::ZERO));
    let expected = "\
# HELP kafscale_request_duration_seconds Time from a request read to its answer ready, long polls included.
# TYPE kafscale_request_duration_seconds histogram
kafscale_request_duration_seconds_bucket{request=\"Produce\",le=\"0.0001\"} 0
kafscale_request_duration_seconds_bucket{request=\"Produce\",le=\"0.00025\"} 0
kafscale_request_duration_seconds_bucket{request=\"Produce\",le=\"0.0005\"} 0
kafscale_request_duration_seconds_bucket{request=\"Produce\",le=\"0.001\"} 1
";
    assert!(page.contains(expected), "{page}");
    for line in [
        "kafscale_request_duration_seconds_bucket{request=\"Produce\",le=\"+Inf\"} 2",
        "kafscale_request_duration_seconds_sum{request=\"Produce\"} 60.0007",
        "kafscale_request_duration_seconds_count{request=\"Produce\"} 2",
        "kafscale_requests_total{request=\"Produce\"} 2",
        "kafscale_produce_records_total{topic=\"orders\"} 7",
        "kafscale_connections 0",
    ] {
        assert!(page.lines().any(|it| it == line), "{line} is missing in {page}");
    }
    assert!(
        !page.contains("kafscale_last_upload_age_seconds"),
        "nothing was uploaded yet"
    );
}

#[test]
fn numbers_of_shards_add_up() {
    let mut total = Snapshot::default();
    for shard in 0..3 {
        let metrics = Metrics::new(shard);
        metrics.topic("t").fetch_bytes.add(10);
        metrics.connections.add(2);
        metrics.ack_queued.record(Duration::from_millis(3));
        metrics.last_upload_at.set(Some(Duration::from_secs(5)));
        total.merge(metrics.snapshot(Duration::from_secs(7)));
    }
    let page = exposition::text(&total);
    for line in [
        "kafscale_fetch_bytes_total{topic=\"t\"} 30",
        "kafscale_connections 6",
        "kafscale_ack_wait_seconds_count{stage=\"queued\"} 3",
        "kafscale_last_upload_age_seconds{shard=\"2\"} 2",
    ] {
        assert!(page.lines().any(|it| it == line), "{line} is missing in {page}");
    }
}

#[test]
fn a_forgotten_topic_is_no_longer_on_the_page() {
    let metrics = Metrics::new(0);
    metrics.topic("gone").produce_bytes.add(1);
    metrics.forget_topic("gone");
    assert!(!exposition::text(&metrics.snapshot(Duration::ZERO)).contains("gone"));
}

#[test]
fn every_family_has_a_name_a_help_and_a_place_of_its_own() {
    let names: std::collections::BTreeSet<_> = families::ALL.iter().map(|family| family.name).collect();
    assert_eq!(names.len(), families::ALL.len());
    for family in families::ALL {
        let counts = family.type_name() == "counter";
        assert_eq!(counts, family.name.ends_with("_total"), "{}", family.name);
        assert!(
            family.help.ends_with('.') && family.help == family.help.trim(),
            "{}",
            family.name
        );
    }
}

#[test]
fn a_scrape_fails_rather_than_shows_a_part_of_the_shards() {
    run(async {
        let runtime: Rc<dyn Runtime> = GlommioRuntime::new();
        let (senders, mut receivers) = snapshot_channels(2);
        drop(receivers.pop());
        let first = serve_snapshots(
            receivers.pop().unwrap(),
            Metrics::new(0),
            runtime.clone(),
            Box::new(|_| ()),
        );
        runtime.spawn("shard 0", Box::pin(first));
        assert_eq!(
            Gatherer::new(senders, runtime).page().await.unwrap_err(),
            "no answer from shard 1"
        );
    });
}

#[test]
fn a_metered_store_counts_what_is_asked_of_it() {
    run(async {
        let runtime: Rc<dyn Runtime> = GlommioRuntime::new();
        let metrics = Metrics::new(0);
        let store = MeteredStore::new(Rc::new(MemoryStore::new()), metrics.clone(), runtime.clone());
        store
            .create("a", vec![bytes::Bytes::from_static(b"12345")])
            .await
            .unwrap();
        assert!(matches!(store.create("a", vec![]).await, Err(StoreError::Conflict(_))));
        store.get_range("a", 1..3).await.unwrap();
        store.get_suffix("a", 3).await.unwrap();
        store.list("", None, 10).await.unwrap();
        store.delete(&["a".to_owned()]).await.unwrap();
        let page = exposition::text(&metrics.snapshot(runtime.now()));
        for line in [
            "kafscale_object_store_requests_total{operation=\"put\"} 2",
            "kafscale_object_store_errors_total{operation=\"put\",error=\"conflict\"} 1",
            "kafscale_object_store_bytes_total{operation=\"put\"} 5",
            "kafscale_object_store_bytes_total{operation=\"get\"} 5",
            "kafscale_object_store_put_size_bytes_count 1",
            "kafscale_object_store_put_size_bytes_bucket{le=\"1024\"} 1",
            "kafscale_object_store_duration_seconds_count{operation=\"delete\"} 1",
        ] {
            assert!(page.lines().any(|it| it == line), "{line} is missing in {page}");
        }
        assert!(page.contains("kafscale_last_upload_age_seconds{shard=\"0\"} "));
    });
}

#[test]
fn metrics_docs_are_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let page = families::markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).is_ok_and(|text| text == page),
        "docs/metrics.md is old: run make docs"
    );
}
