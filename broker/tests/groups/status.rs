//! The status page and its facts.

use super::*;
use serde_json::{json, Value};

/// The facts at a path that exists.
fn facts(broker: &Broker, path: &str) -> Value {
    let (head, body) = broker.get(path);
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"),
        "{head}\n{body}"
    );
    serde_json::from_str(&body).expect("JSON")
}

/// The names of a list's items, how many match, and what comes next.
fn listed(broker: &Broker, path: &str) -> (Vec<String>, Value, Value) {
    let list = facts(broker, path);
    let items = list["items"].as_array().expect("items");
    let names = items
        .iter()
        .map(|item| item["name"].as_str().expect("a name").to_string());
    (names.collect(), list["matching"].clone(), list["next"].clone())
}

#[test]
fn the_facts_of_topics_and_groups_are_what_clients_see() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let mut client = broker.connect();
    client.create_topic("t", 2);
    client.create_topic("a-topic", 3);
    client.create_topic("b-topic", 1);
    let [(mut a, a_joined), _b] = two_members(&broker);
    assert_eq!(commit(&mut a, Some(&a_joined), "t", &[1], 40), [ErrorCode::NONE]);

    let overview = facts(&broker, "/api/v1/overview");
    assert_eq!((&overview["topics"], &overview["partitions"]), (&json!(3), &json!(6)));
    assert_eq!(overview["leaderless"], 0);
    let shards = overview["shards"].as_array().unwrap();
    let owned = shards.iter().map(|shard| shard["partitions"].as_u64().unwrap());
    assert_eq!((shards.len(), owned.sum::<u64>()), (2, 6));
    let requests = shards.iter().map(|shard| shard["connections"].as_i64().unwrap());
    assert_eq!(requests.sum::<i64>(), 3);

    let topic = facts(&broker, "/api/v1/topics/a-topic");
    assert_eq!(topic["topic"]["partitions"], 3);
    let last = &topic["partitions"][2];
    assert_eq!((&last["partition"], &last["leader"]), (&json!(2), &json!(1)));
    assert_eq!((&last["start_offset"], &last["end_offset"]), (&json!(0), &json!(0)));

    let group = facts(&broker, "/api/v1/groups/g");
    assert_eq!(
        (&group["group"]["state"], &group["group"]["members"]),
        (&json!("Stable"), &json!(2))
    );
    assert_eq!(group["group"]["type"], "classic");
    let expected = json!({
        "topic": "t", "partition": 1, "committed_offset": 41, "end_offset": 0, "lag": 0, "member": null,
    });
    assert_eq!(group["partitions"], json!([expected]));
    assert_eq!(facts(&broker, "/api/v1/groups")["items"], json!([group["group"]]));
}

#[test]
fn a_list_comes_in_parts_and_wrong_questions_are_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let mut client = broker.connect();
    for name in ["a", "b", "b2", "c"] {
        client.create_topic(name, 1);
    }
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let first = listed(&broker, "/api/v1/topics?limit=2");
    assert_eq!(first, (names(&["a", "b"]), json!(4), json!("b")));
    let second = listed(&broker, "/api/v1/topics?limit=2&after=b");
    assert_eq!(second, (names(&["b2", "c"]), json!(4), Value::Null));
    let matching = listed(&broker, "/api/v1/topics?contains=b&after=");
    assert_eq!(matching, (names(&["b", "b2"]), json!(2), Value::Null));
    for (path, status) in [
        ("/api/v1/topics/nope", "404 Not Found"),
        ("/api/v1/groups/%3Cb%3E%20%FF", "404 Not Found"),
        ("/api/v1/nothing", "404 Not Found"),
        ("/api/v1/nothing/at-all", "404 Not Found"),
        ("/api/v1/topics?limit=0", "400 Bad Request"),
        ("/api/v1/groups?order=lag", "400 Bad Request"),
    ] {
        let (head, body) = broker.get(path);
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {head}");
        let told: Value = serde_json::from_str(&body).expect("JSON");
        assert!(told["error"].is_string(), "{path}: {body}");
    }
}

#[test]
fn the_page_and_its_parts_are_served_and_nothing_else_may_run_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let (_, page) = broker.get("/");
    for (path, content_type) in [
        ("/", "text/html"),
        ("/status.js", "text/javascript"),
        ("/status.css", "text/css"),
    ] {
        let (head, _) = broker.get(path);
        let expected = format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}; charset=utf-8\r\n");
        assert!(head.starts_with(&expected), "{head}");
        assert!(
            head.contains("\r\nContent-Security-Policy: default-src 'self'"),
            "{head}"
        );
        assert!(
            path == "/" || page.contains(&format!("\"{path}\"")),
            "{path} is not in the page"
        );
    }
}
