//! Follows one stream of changes and sees to it that silence means "no changes".
//!
//! A stream over a connection that hangs would be silent for ever. So a silent stream is asked for its progress, and one
//! that does not answer ends. etcd itself ends the streams of a member that has lost the others, since each is opened with
//! the wish for a leader. The follower lists again and begins a new watch then.

use super::convert::{etcd_revision, Keys};
use super::endpoints::Endpoints;
use super::failure::Failure;
use super::queue::{next_revision, queue, EtcdWatch, Feed};
use crate::history::revision_of;
use crate::store::{MetastoreError, Revision, WatchEvent};
use etcd_client::{Client, GetOptions, WatchOptions, WatchResponse, WatchStream};
use futures::future::{select, Either};
use futures::StreamExt;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{timeout_at, Instant};

/// Silence after which a stream is asked whether it lives.
const SILENCE: Duration = Duration::from_secs(2);
/// One message may hold all that a reader has missed: revisions are not split.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Opens a watch, at the first endpoint that lets us.
pub(super) async fn open(
    endpoints: &Rc<Endpoints>,
    keys: &Keys,
    prefix: &[u8],
    from: Revision,
) -> Result<EtcdWatch, MetastoreError> {
    // Etcd since 3.5 tells no progress of a watch that begins in the future, as one after a listing does. So it begins
    // one earlier, and what is too old is left out. To etcd 0 means "from now on".
    let begin = from.saturating_sub(1).max(1);
    let (start, end) = keys.all_of(prefix);
    let options = WatchOptions::new()
        .with_range(end.clone())
        .with_start_revision(etcd_revision(begin));
    let opened = endpoints
        .read_at(async |client: Client| {
            // A watch that is denied does not say whether by rights or for an old token; a read does.
            let allowed = GetOptions::new().with_range(end.clone()).with_limit(1).with_keys_only();
            client.kv_client().get(start.clone(), Some(allowed)).await?;
            let mut watches = client.watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
            let mut stream = watches.watch(start.clone(), Some(options.clone())).await?;
            let first = stream.next().await.transpose()?;
            match first.as_ref().map_or(Some("the stream ended"), cancel_reason) {
                Some(why) => Err(etcd_client::Error::WatchError(why.to_string())),
                None => Ok(stream),
            }
        })
        .await;
    let (at, stream) = opened.map_err(Failure::of_read)?;
    let (feed, watch) = queue();
    let follower = Follower {
        endpoints: endpoints.clone(),
        at,
        keys: keys.clone(),
        from,
        next: from,
    };
    tokio::task::spawn_local(follower.run(stream, feed));
    Ok(watch)
}

/// Why etcd refuses the watch, if it does.
fn cancel_reason(first: &WatchResponse) -> Option<&str> {
    // That history is gone is told once the watch stands.
    (first.canceled() && first.compact_revision() == 0).then(|| first.cancel_reason())
}

struct Follower {
    endpoints: Rc<Endpoints>,
    at: usize,
    keys: Keys,
    /// The first revision that was asked for.
    from: Revision,
    /// Changes before this revision were handed on.
    next: Revision,
}

impl Follower {
    /// Hands on changes until the stream fails or nobody reads any more.
    async fn run(mut self, mut stream: WatchStream, mut feed: Feed) {
        let mut asked = false;
        let mut wake = Instant::now() + SILENCE;
        loop {
            let message = {
                let received = pin!(timeout_at(wake, stream.next()));
                let abandoned = pin!(feed.abandoned());
                match select(received, abandoned).await {
                    Either::Left((message, _)) => message,
                    Either::Right(_) => return,
                }
            };
            let taken = match message {
                Ok(Some(Ok(response))) => self.take(&response),
                Ok(Some(Err(error))) => Err(self.failed(Failure::from(error))),
                Ok(None) => Err(self.failed(Failure::Unknown("the stream has ended".to_string()))),
                Err(_) if asked => Err(self.failed(Failure::Unknown("the stream is silent".to_string()))),
                Err(_) => {
                    asked = true;
                    wake = Instant::now() + self.endpoints.deadline;
                    match timeout_at(wake, stream.request_progress()).await {
                        Ok(Ok(())) => continue,
                        _ => Err(self.failed(Failure::Unknown("the stream takes no request".to_string()))),
                    }
                }
            };
            match taken {
                Ok(events) => {
                    if feed.push(events).is_err() {
                        log::warn!("a watch was not read for so long that its reader has to list again");
                        return;
                    }
                }
                Err(why) => return feed.end(why),
            }
            asked = false;
            wake = Instant::now() + SILENCE;
        }
    }

    /// The changes in a message; none if it only says that the stream lives.
    fn take(&mut self, response: &WatchResponse) -> Result<Vec<WatchEvent>, MetastoreError> {
        if response.compact_revision() > 0 {
            return Err(MetastoreError::Compacted(self.next));
        }
        if response.canceled() {
            let why = format!("etcd ended the watch: {}", response.cancel_reason());
            return Err(self.failed(Failure::Unknown(why)));
        }
        let events: Vec<_> = response
            .events()
            .iter()
            .map(|event| self.keys.event(event))
            .filter(|event| !event.as_ref().is_ok_and(|event| revision_of(event) < self.from))
            .collect::<Result<_, _>>()?;
        self.next = next_revision(&events, self.next).ok_or_else(|| {
            MetastoreError::Unavailable(format!("etcd told of changes before revision {} again", self.next))
        })?;
        Ok(events)
    }

    fn failed(&self, failure: Failure) -> MetastoreError {
        self.endpoints.leave(self.at, &failure);
        failure.of_read()
    }
}
