//! A producer that falls silent for longer than it is remembered (`producer.id.expiration.ms`), and then goes on.

use crate::checkers::ledger::{record_id, value_of, Place, RecordId};
use crate::workload::{produce_request, Work};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::record_batch::BatchBuilder;
use std::io;
use std::rc::Rc;
use std::time::Duration;

const PRODUCE: i16 = 9;
const DESCRIBE_PRODUCERS: i16 = 0;

/// How long producers are remembered in a run that has a sleeper.
pub const EXPIRATION: Duration = Duration::from_secs(12);

/// How long a batch is sent again at most in such a run (`delivery.timeout.ms`). Clocks that disagree and requests that
/// stand still take less than the rest of [`EXPIRATION`], so a batch is never sent to a broker that has forgotten it.
pub const DELIVERY_TIMEOUT: Duration = Duration::from_millis(1_500);

/// After so long a sleep nobody remembers the producer: it has expired, the search for such producers, which begins as
/// often, has been there, and clocks disagree by less than the rest.
const SLEEP: Duration = Duration::from_secs(36);

/// Batches before the sleep, and behind it.
const BATCHES: u32 = 3;

struct Session {
    producer_id: i64,
    producer_epoch: i16,
    sequence: i32,
}

/// Writes, sleeps, looks whether it is forgotten, and writes again where it left off.
pub async fn sleeper(work: Rc<Work>, number: u32, place: Place) {
    let who = format!("sleeper at {place:?}");
    work.doing(&who, || "creates its topic".to_string());
    work.client.create_topic(&place.0, 1, &[]).await;
    work.last_lives.borrow_mut().push(place.clone());
    let mut session = begin(&work).await;
    for number in (0..BATCHES).map(|at| record_id(number, at)) {
        work.doing(&who, || format!("writes {number:#x}"));
        send(&work, &place, &mut session, number).await;
    }
    work.doing(&who, || "sleeps".to_string());
    work.client.world.sleep(SLEEP).await;
    work.doing(&who, || "looks whether it is forgotten".to_string());
    if remembered(&work, &place).await.contains(&session.producer_id) {
        work.client.world.violate(format!(
            "{place:?}: producer {} is remembered {SLEEP:?} after its last batch, and should be for {EXPIRATION:?}",
            session.producer_id
        ));
    }
    for number in (BATCHES..2 * BATCHES).map(|at| record_id(number, at)) {
        work.doing(&who, || format!("writes {number:#x}"));
        send(&work, &place, &mut session, number).await;
    }
    work.done(&who);
}

async fn begin(work: &Work) -> Session {
    let (producer_id, producer_epoch) = work.client.producer_id().await;
    Session {
        producer_id,
        producer_epoch,
        sequence: 0,
    }
}

/// Sends a record until it is acknowledged or its time is over; then the next one begins a new session, as clients do.
async fn send(work: &Work, place: &Place, session: &mut Session, id: RecordId) {
    let until = work.client.world.now() + DELIVERY_TIMEOUT;
    work.ledger.sent(place, id);
    while work.client.world.now() < until {
        let error = match attempt(work, place, session, id).await {
            Ok(ErrorCode::NONE) => {
                session.sequence += 1;
                return;
            }
            Ok(error) => error,
            Err(error) => {
                log::debug!("sleeper: {error}");
                ErrorCode::NONE
            }
        };
        if matches!(
            error,
            ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER | ErrorCode::UNKNOWN_PRODUCER_ID
        ) {
            break;
        }
        work.client.back_off().await;
    }
    *session = begin(work).await;
}

async fn attempt(work: &Work, place: &Place, session: &Session, id: RecordId) -> io::Result<ErrorCode> {
    let timestamp = work.draw_timestamp();
    let mut builder = BatchBuilder::new().producer(session.producer_id, session.producer_epoch, session.sequence);
    builder.push(timestamp, None, Some(&value_of(id)), &[]);
    let batch = builder.build().map_err(io::Error::other)?;
    let mut connection = work.client.leader_of(place).await?;
    let request = produce_request(&place.0, -1, vec![(place.1, batch)]);
    let response = connection.ask(PRODUCE, &request).await?;
    let answer = &response.responses[0].partition_responses[0];
    match answer.error_code {
        ErrorCode::NONE => work.ledger.acknowledged(place, answer.base_offset, &[id]),
        ErrorCode::DUPLICATE_SEQUENCE_NUMBER => {
            work.ledger.acknowledged_somewhere(place, &[id]);
            return Ok(ErrorCode::NONE);
        }
        _ => {}
    }
    Ok(answer.error_code)
}

/// The producers that the partition's leader knows; none if nobody says within a while.
async fn remembered(work: &Work, place: &Place) -> Vec<i64> {
    let request = DescribeProducersRequest {
        topics: vec![DescribeProducersTopic {
            name: place.0.clone(),
            partition_indexes: vec![place.1],
        }],
    };
    for _ in 0..100 {
        let described = async {
            work.client
                .leader_of(place)
                .await?
                .ask(DESCRIBE_PRODUCERS, &request)
                .await
        };
        if let Ok(response) = described.await {
            let answer = &response.topics[0].partitions[0];
            if answer.error_code == ErrorCode::NONE {
                return answer.active_producers.iter().map(|one| one.producer_id).collect();
            }
        }
        work.client.back_off().await;
    }
    Vec::new()
}
