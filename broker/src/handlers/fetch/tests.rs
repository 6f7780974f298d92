use super::session::{Reading, TopicName};
use super::{cut, is_news, ConnectionSession, SessionLimit, TOLD_NOTHING};
use crate::mailbox::FetchResult;
use crate::metrics::Metrics;
use bytes::Bytes;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::{FetchPartition, FetchRequest, FetchTopic, ForgottenTopic};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::rc::Rc;

const BY_NAME: i16 = 12;
const BY_ID: i16 = 13;
const TOPICS: [&str; 3] = ["a", "b", "c"];

/// Topic, partition, offset.
type Place = (&'static str, i32, i64);

fn limit() -> Rc<SessionLimit> {
    SessionLimit::new(Metrics::new(0))
}

fn request(session_id: i32, session_epoch: i32, places: &[Place], forgotten: &[(&str, i32)]) -> FetchRequest {
    let topic = |(topic, partition, fetch_offset): &Place| FetchTopic {
        topic: topic.to_string(),
        partitions: vec![FetchPartition {
            partition: *partition,
            fetch_offset: *fetch_offset,
            ..FetchPartition::default()
        }],
        ..FetchTopic::default()
    };
    let forget = |(topic, partition): &(&str, i32)| ForgottenTopic {
        topic: topic.to_string(),
        partitions: vec![*partition],
        ..ForgottenTopic::default()
    };
    FetchRequest {
        session_id,
        session_epoch,
        topics: places.iter().map(topic).collect(),
        forgotten_topics_data: forgotten.iter().map(forget).collect(),
        ..FetchRequest::default()
    }
}

fn places(reading: &Reading) -> BTreeMap<(String, i32), i64> {
    let named = reading
        .partitions
        .iter()
        .map(|partition| match &reading.topics[partition.topic as usize] {
            TopicName::Name(name) => ((name.clone(), partition.index), partition.offset),
            TopicName::Id(id) => panic!("{id:?}"),
        });
    let found: Vec<_> = named.collect();
    let places: BTreeMap<_, _> = found.iter().cloned().collect();
    assert_eq!(places.len(), found.len(), "a partition stands twice in {found:?}");
    places
}

fn open(
    connection: &ConnectionSession,
    limit: &Rc<SessionLimit>,
    mut request: FetchRequest,
) -> Result<Box<Reading>, ErrorCode> {
    connection.open(limit, &mut request, BY_NAME)
}

#[test]
fn a_session_is_known_by_its_id_and_epoch_on_its_connection_alone() {
    let (connection, limit) = (ConnectionSession::default(), limit());
    let first = open(&connection, &limit, request(0, 0, &[("a", 0, 0)], &[])).unwrap();
    let id = first.session_id();
    assert!(id > 0 && !first.only_changes);
    let busy = open(&connection, &limit, request(id, 1, &[], &[])).unwrap_err();
    assert_eq!(busy, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    connection.keep(first);
    let refused = |id, epoch| open(&connection, &limit, request(id, epoch, &[], &[])).unwrap_err();
    assert_eq!(refused(id + 1, 1), ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    assert_eq!(refused(0, 1), ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    assert_eq!(refused(id, 2), ErrorCode::INVALID_FETCH_SESSION_EPOCH);
    assert_eq!(refused(id, -2), ErrorCode::INVALID_FETCH_SESSION_EPOCH);
    let by_id = connection
        .open(&limit, &mut request(id, 1, &[], &[]), BY_ID)
        .unwrap_err();
    assert_eq!(by_id, ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
    let other = open(&ConnectionSession::default(), &limit, request(id, 1, &[], &[])).unwrap_err();
    assert_eq!(other, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    // None of that has harmed it.
    let second = open(&connection, &limit, request(id, 1, &[], &[])).unwrap();
    assert!(second.only_changes);
    assert_eq!(places(&second).len(), 1);
    connection.keep(second);
    assert_eq!(refused(id, 1), ErrorCode::INVALID_FETCH_SESSION_EPOCH);
}

#[test]
fn a_session_ends_with_another_one_or_when_the_client_says_so_or_has_nothing_left() {
    let (connection, limit) = (ConnectionSession::default(), limit());
    let begin = |old| open(&connection, &limit, request(old, 0, &[("a", 0, 0)], &[])).unwrap();
    let first = begin(0);
    let id = first.session_id();
    connection.keep(first);
    let replaced = begin(id);
    assert_ne!(replaced.session_id(), id);
    assert_eq!(limit.counts(), (1, 1));
    // A request of a session that was replaced meanwhile does not bring it back.
    let newest = begin(replaced.session_id());
    let id = newest.session_id();
    connection.keep(newest);
    connection.keep(replaced);
    let reading = open(&connection, &limit, request(id, 1, &[], &[])).unwrap();
    connection.keep(reading);
    assert_eq!(limit.counts(), (1, 1));
    // A fetch without a session leaves the connection's alone; one with its id ends it.
    assert_eq!(
        open(&connection, &limit, request(0, -1, &[("b", 0, 0)], &[]))
            .unwrap()
            .session_id(),
        0
    );
    assert_eq!(limit.counts(), (1, 1));
    let last = open(&connection, &limit, request(id, -1, &[("b", 0, 0)], &[])).unwrap();
    assert_eq!((last.session_id(), limit.counts()), (0, (0, 0)));
    let first = begin(0);
    let id = first.session_id();
    connection.keep(first);
    let empty = open(&connection, &limit, request(id, 1, &[], &[("a", 0)])).unwrap();
    assert_eq!((empty.session_id(), limit.counts()), (0, (0, 0)));
    connection.keep(empty);
    let over = open(&connection, &limit, request(id, 2, &[], &[])).unwrap_err();
    assert_eq!(over, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
}

#[test]
fn beyond_the_limit_fetches_have_no_session_and_sessions_do_not_grow() {
    let (full, small, limit) = (ConnectionSession::default(), ConnectionSession::default(), limit());
    let many = |count| {
        let mut request = request(0, 0, &[("a", 0, 0)], &[]);
        request.topics[0].partitions = (0..count)
            .map(|partition| FetchPartition {
                partition,
                ..FetchPartition::default()
            })
            .collect();
        request
    };
    let kept = open(&small, &limit, many(1)).unwrap();
    let id = kept.session_id();
    small.keep(kept);
    let large = open(&full, &limit, many(499_999)).unwrap();
    assert_ne!(large.session_id(), 0);
    assert_eq!(
        open(&ConnectionSession::default(), &limit, many(1))
            .unwrap()
            .session_id(),
        0
    );
    let grown = open(&small, &limit, request(id, 1, &[("a", 1, 0)], &[])).unwrap_err();
    assert_eq!(grown, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    assert_eq!(limit.counts(), (1, 499_999));
    drop((full, large));
    assert_eq!(limit.counts(), (0, 0));
}

#[test]
fn an_epoch_follows_the_largest_with_the_first() {
    let (connection, limit) = (ConnectionSession::default(), limit());
    let mut reading = open(&connection, &limit, request(0, 0, &[("a", 0, 0)], &[])).unwrap();
    let id = reading.session_id();
    reading.set_epoch(i32::MAX);
    connection.keep(reading);
    let reading = open(&connection, &limit, request(id, i32::MAX, &[], &[])).unwrap();
    connection.keep(reading);
    open(&connection, &limit, request(id, 1, &[], &[])).unwrap();
}

#[test]
fn a_session_gives_each_partition_its_turn() {
    let mut reading = Reading::default();
    let (connection, limit) = (ConnectionSession::default(), limit());
    let all: Vec<Place> = (0..5).map(|partition| ("a", partition, 0)).collect();
    let found = |high_watermark| FetchResult {
        high_watermark,
        records: if high_watermark > 0 {
            vec![Bytes::from_static(&[0; 10])]
        } else {
            vec![]
        },
        ..FetchResult::default()
    };
    std::mem::swap(
        &mut reading,
        &mut open(&connection, &limit, request(0, 0, &all, &[])).unwrap(),
    );
    let mut served = Vec::new();
    for _ in 0..4 {
        // The third has nothing.
        let mut results: Vec<FetchResult> = [9, 9, 0, 9, 9].map(found).into();
        assert_eq!(cut(&mut reading, &mut results, 20), (20, false));
        served.push(results.iter().map(|result| result.len() / 10).collect::<Vec<_>>());
    }
    assert_eq!(
        served,
        [[1, 1, 0, 0, 0], [0, 0, 0, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 1, 1]]
    );
    // Whatever is larger than the limit comes alone.
    let mut results: Vec<FetchResult> = [9, 9, 0, 9, 9].map(found).into();
    assert_eq!(cut(&mut reading, &mut results, 5), (10, false));
}

#[test]
fn errors_records_and_moved_ends_are_news_and_nothing_else() {
    let mut told = TOLD_NOTHING;
    let at = |high_watermark, log_start_offset| FetchResult {
        high_watermark,
        log_start_offset,
        ..FetchResult::default()
    };
    let with_records = FetchResult {
        records: vec![Bytes::from_static(b"x")],
        ..at(2, 1)
    };
    let error = FetchResult::error(ErrorCode::NOT_LEADER_OR_FOLLOWER);
    let course = [
        (at(0, 0), true),
        (at(0, 0), false),
        (at(1, 0), true),
        (at(1, 0), false),
        (at(1, 1), true),
        (with_records.clone(), true),
        (with_records, true),
        (at(2, 1), false),
        (error.clone(), true),
        (error, true),
        (at(2, 1), true),
        (at(2, 1), false),
    ];
    for (step, (result, expected)) in course.into_iter().enumerate() {
        assert_eq!(is_news(&mut told, &result), expected, "step {step}");
    }
}

fn any_place() -> impl Strategy<Value = Place> {
    (0..TOPICS.len(), 0..4i32, 0..9i64).prop_map(|(topic, partition, offset)| (TOPICS[topic], partition, offset))
}

proptest! {
    #[test]
    fn a_session_reads_what_was_named_and_not_forgotten(
        first in proptest::collection::vec(any_place(), 1..12),
        steps in proptest::collection::vec(
            (proptest::collection::vec(any_place(), 0..4), proptest::collection::vec(any_place(), 0..4)),
            0..12,
        ),
    ) {
        let (connection, limit) = (ConnectionSession::default(), limit());
        let mut expected: BTreeMap<(String, i32), i64> = BTreeMap::new();
        let name = |place: &Place| ((place.0.to_string(), place.1), place.2);
        expected.extend(first.iter().map(name));
        let mut reading = open(&connection, &limit, request(0, 0, &first, &[])).unwrap();
        let id = reading.session_id();
        for (epoch, (named, forgotten)) in (1..).zip(&steps) {
            prop_assert_eq!(places(&reading), expected.clone());
            prop_assert_eq!(limit.counts(), (1, expected.len() as i64));
            connection.keep(reading);
            let forget: Vec<(&str, i32)> = forgotten.iter().map(|place| (place.0, place.1)).collect();
            reading = open(&connection, &limit, request(id, epoch, named, &forget)).unwrap();
            expected.extend(named.iter().map(name));
            forget.iter().for_each(|(topic, at)| {
                expected.remove(&(topic.to_string(), *at));
            });
            if expected.is_empty() {
                prop_assert_eq!(reading.session_id(), 0);
                return Ok(());
            }
        }
        prop_assert_eq!(places(&reading), expected);
    }
}
