//! What the chart says about metrics and definitions is true.
#![allow(clippy::unwrap_used)] // Helpers of tests: a panic is how a test fails.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

fn path(below_root: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(below_root)
}

fn text(below_root: &str) -> String {
    std::fs::read_to_string(path(below_root)).unwrap_or_else(|error| panic!("{below_root}: {error}"))
}

/// A metric that exists.
struct Metric {
    histogram: bool,
    labels: BTreeSet<String>,
}

/// All that brokers and the operator tell. docs/metrics.md is made from the broker's own table.
fn metrics() -> BTreeMap<String, Metric> {
    let quoted = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_string).collect() };
    let documented = text("docs/metrics.md");
    let rows = documented.lines().filter(|line| line.starts_with("| `"));
    let mut metrics: BTreeMap<String, Metric> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').collect();
            let metric = Metric {
                histogram: cells[2].trim() == "histogram",
                labels: quoted(cells[3]).into_iter().collect(),
            };
            (quoted(cells[1]).remove(0), metric)
        })
        .collect();
    assert!(metrics.len() > 30, "docs/metrics.md is not read right");
    let operator = text("k8s/operator/src/metrics.rs");
    let own = words(&operator)
        .into_iter()
        .filter(|word| word.starts_with("kafscale_operator_"));
    metrics.extend(own.map(|name| {
        let (histogram, labels) = (false, BTreeSet::new());
        (name, Metric { histogram, labels })
    }));
    metrics
}

fn words(text: &str) -> BTreeSet<String> {
    let not_of_a_name = |letter: char| !letter.is_ascii_alphanumeric() && letter != '_';
    text.split(not_of_a_name).map(str::to_string).collect()
}

/// Metrics that a query is about.
fn named(query: &str) -> BTreeSet<String> {
    let is_metric = |word: &String| ["kafscale_", "process_"].iter().any(|prefix| word.starts_with(prefix));
    words(query).into_iter().filter(is_metric).collect()
}

/// Labels that a query groups or selects by.
fn labels(query: &str) -> BTreeSet<String> {
    let between = |open: &str, close: char| -> Vec<String> {
        let parts = query.split(open).skip(1);
        parts
            .map(|part| part.split(close).next().unwrap_or_default().to_string())
            .collect()
    };
    let grouped = between("by (", ')')
        .into_iter()
        .flat_map(|list| list.split(',').map(str::to_string).collect::<Vec<_>>());
    let selected = between("{", '}').into_iter().flat_map(|list| {
        let pairs = list
            .split(',')
            .map(|pair| pair.split(['=', '!']).next().unwrap_or_default().to_string());
        pairs.collect::<Vec<_>>()
    });
    grouped.chain(selected).map(|label| label.trim().to_string()).collect()
}

/// Every query of the alerts and the dashboards, with where it stands.
fn queries() -> Vec<(String, String)> {
    let alerts: Value = serde_saphyr::from_str(&text("k8s/helm/kafscale/alerts.yaml")).unwrap();
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    let word = |value: &Value| value.as_str().unwrap().to_string();
    let mut queries: Vec<_> = rules
        .iter()
        .map(|rule| (word(&rule["alert"]), word(&rule["expr"])))
        .collect();
    let mut dashboards = 0;
    for file in std::fs::read_dir(path("k8s/helm/kafscale/dashboards")).unwrap() {
        let file = file.unwrap().path();
        let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let place = |panel: &Value| format!("{}: {}", file.display(), word(&panel["title"]));
        for panel in dashboard["panels"].as_array().unwrap() {
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{} asks nothing", place(panel));
            queries.extend(targets.iter().map(|target| (place(panel), word(&target["expr"]))));
        }
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            if let Some(query) = variable["definition"].as_str() {
                queries.push((
                    format!("{}: {}", file.display(), word(&variable["name"])),
                    query.to_string(),
                ));
            }
        }
        dashboards += 1;
    }
    assert_eq!(dashboards, 5, "overview, topics, groups, object store, shards");
    queries
}

#[test]
fn every_query_names_metrics_and_labels_that_exist() {
    let known = metrics();
    // What Prometheus adds by itself.
    let added = ["namespace", "pod", "job", "le"].map(str::to_string);
    for (place, query) in queries() {
        let names = named(&query);
        assert!(
            !names.is_empty() || query.starts_with("up{"),
            "{place} is about no metric: {query}"
        );
        let mut allowed: BTreeSet<String> = added.iter().cloned().collect();
        for name in &names {
            let of_histogram = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix));
            let metric = of_histogram
                .and_then(|family| known.get(family))
                .filter(|metric| metric.histogram)
                .or_else(|| known.get(name).filter(|metric| !metric.histogram))
                .unwrap_or_else(|| panic!("{place} asks for {name}, which does not exist"));
            allowed.extend(metric.labels.iter().cloned());
        }
        if !query.starts_with("label_values") {
            for label in labels(&query) {
                assert!(
                    allowed.contains(&label),
                    "{place} asks for the label {label:?}, which no metric of it has"
                );
            }
        }
    }
}

#[test]
fn operations_tell_what_to_do_for_each_alert() {
    let operations = text("docs/operations.md");
    for (alert, _) in queries().into_iter().filter(|(place, _)| !place.contains('/')) {
        assert!(
            operations.contains(&format!("`{alert}`")),
            "docs/operations.md says nothing of {alert}"
        );
    }
}

#[test]
fn the_chart_has_the_current_definitions() {
    let same = text("k8s/crds/kafscale.io.yaml") == text("k8s/helm/kafscale/crds/kafscale.io.yaml");
    assert!(same, "stale: cp k8s/crds/kafscale.io.yaml k8s/helm/kafscale/crds/");
}

#[test]
fn the_profile_allows_io_uring_and_not_everything() {
    let profile: Value = serde_json::from_str(&text("k8s/seccomp/kafscale.json")).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let allowed: Vec<&str> = profile["syscalls"][0]["names"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(allowed.contains(&call), "{call}");
    }
    for call in [
        "ptrace",
        "mount",
        "bpf",
        "init_module",
        "unshare",
        "setns",
        "keyctl",
        "reboot",
        "process_vm_writev",
    ] {
        assert!(!allowed.contains(&call), "{call}");
    }
}

#[test]
fn the_compose_file_names_settings_and_files_that_exist_and_labels_that_dashboards_know() {
    let compose: Value = serde_saphyr::from_str(&text("k8s/images/compose.yaml")).unwrap();
    let settings = text("docs/settings.md");
    let services = compose["services"].as_object().unwrap();
    let mut looked_at = 0;
    for (name, service) in services {
        let variables = service["environment"].as_object().into_iter().flatten();
        for (variable, _) in variables.filter(|(variable, _)| variable.starts_with("KAFSCALE_")) {
            assert!(settings.contains(&format!("`{variable}`")), "{name}: {variable}");
            looked_at += 1;
        }
        let volumes = service["volumes"].as_array().into_iter().flatten();
        for volume in volumes.filter_map(|volume| volume.as_str().unwrap().strip_prefix('.')) {
            let file = volume.split(':').next().unwrap();
            let file = path(&format!("k8s/images/.{file}"));
            assert!(file.exists(), "{name}: {}", file.display());
            looked_at += 1;
        }
    }
    assert!(looked_at > 10, "the file is not read right");
    let prometheus: Value = serde_saphyr::from_str(&text("k8s/images/compose/prometheus.yaml")).unwrap();
    let given = prometheus["scrape_configs"][0]["static_configs"][0]["labels"]
        .as_object()
        .unwrap();
    let overview = text("k8s/helm/kafscale/dashboards/overview.json");
    for label in given.keys() {
        assert!(overview.contains(label), "no dashboard knows {label}");
    }
}
