//! What a watch has received and its reader has not taken yet: bounded, so a reader that stays away costs a new listing and
//! no memory.

use crate::history::revision_of;
use crate::store::{LocalFuture, MetastoreError, Revision, Watch, WatchEvent};
use futures::channel::oneshot;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Changes kept for one reader: minutes of a busy cluster.
const EVENTS_MAX: usize = 65_536;
/// Bytes of keys and values kept for one reader.
const BYTES_MAX: usize = 32 << 20;

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<Vec<WatchEvent>>,
    events: usize,
    bytes: usize,
    /// Why there will be no more.
    ended: Option<MetastoreError>,
}

/// A watch of etcd.
pub(crate) struct EtcdWatch {
    waiting: Arc<Mutex<Waiting>>,
    woken: async_channel::Receiver<()>,
    /// Tells the other end that this one is gone.
    _reader: oneshot::Receiver<()>,
}

/// The other end; dropping it ends the watch.
pub(super) struct Feed {
    waiting: Arc<Mutex<Waiting>>,
    waker: async_channel::Sender<()>,
    reader: oneshot::Sender<()>,
}

/// The reader is gone, or stayed away for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NobodyReads;

pub(super) fn queue() -> (Feed, EtcdWatch) {
    let waiting = Arc::new(Mutex::new(Waiting::default()));
    let (waker, woken) = async_channel::bounded(1);
    let (reader, gone) = oneshot::channel();
    let feed = Feed {
        waiting: waiting.clone(),
        waker,
        reader,
    };
    let watch = EtcdWatch {
        waiting,
        woken,
        _reader: gone,
    };
    (feed, watch)
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    // Each change of it is complete before anything could panic.
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// Adds changes, whole revisions in order. What waits already is dropped if it becomes too much.
    pub fn push(&self, events: Vec<WatchEvent>) -> Result<(), NobodyReads> {
        if events.is_empty() {
            return Ok(());
        }
        let mut waiting = lock(&self.waiting);
        waiting.events += events.len();
        waiting.bytes += events.iter().map(byte_count).sum::<usize>();
        waiting.batches.push_back(events);
        let overflows = waiting.batches.len() > 1 && (waiting.events > EVENTS_MAX || waiting.bytes > BYTES_MAX);
        if overflows {
            let from = waiting
                .batches
                .front()
                .and_then(|batch| batch.first())
                .map_or(0, revision_of);
            *waiting = Waiting {
                ended: Some(MetastoreError::Compacted(from)),
                ..Waiting::default()
            };
        }
        drop(waiting);
        self.wake();
        if overflows {
            return Err(NobodyReads);
        }
        Ok(())
    }

    /// Ends the watch after what waits.
    pub fn end(self, why: MetastoreError) {
        lock(&self.waiting).ended.get_or_insert(why);
    }

    /// Waits until the reader is gone.
    pub async fn abandoned(&mut self) {
        self.reader.cancellation().await;
    }

    fn wake(&self) {
        // Full means that the reader will look anyway.
        let _ = self.waker.try_send(());
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let closed = MetastoreError::Unavailable("the metastore was closed".to_string());
        lock(&self.waiting).ended.get_or_insert(closed);
        self.wake();
    }
}

impl Watch for EtcdWatch {
    fn next(&mut self) -> LocalFuture<'_, Result<Vec<WatchEvent>, MetastoreError>> {
        Box::pin(async move {
            loop {
                if let Some(found) = lock(&self.waiting).take() {
                    return found;
                }
                // A closed channel means that the end is there to be seen.
                let _ = self.woken.recv().await;
            }
        })
    }
}

impl Waiting {
    fn take(&mut self) -> Option<Result<Vec<WatchEvent>, MetastoreError>> {
        match self.batches.pop_front() {
            Some(batch) => {
                self.events -= batch.len();
                self.bytes -= batch.iter().map(byte_count).sum::<usize>();
                Some(Ok(batch))
            }
            None => self.ended.clone().map(Err),
        }
    }
}

fn byte_count(event: &WatchEvent) -> usize {
    match event {
        WatchEvent::Put(item) => item.key.len() + item.value.len(),
        WatchEvent::Delete { key, .. } => key.len(),
    }
}

/// Whether changes come in the order of their revisions, none before `from`; and where to go on.
pub(super) fn next_revision(events: &[WatchEvent], from: Revision) -> Option<Revision> {
    let mut last = from;
    for event in events {
        let revision = revision_of(event);
        if revision < last {
            return None;
        }
        last = revision;
    }
    match events {
        [] => Some(from),
        _ => Some(last + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::executor::block_on;
    use futures::FutureExt;

    fn deletion(revision: Revision) -> WatchEvent {
        WatchEvent::Delete {
            key: Bytes::from_static(b"k"),
            revision,
        }
    }

    #[test]
    fn a_reader_gets_everything_and_then_the_end() {
        let (feed, mut watch) = queue();
        assert!(watch.next().now_or_never().is_none());
        feed.push(vec![deletion(1)]).unwrap();
        feed.push(Vec::new()).unwrap();
        feed.push(vec![deletion(2), deletion(3)]).unwrap();
        let why = MetastoreError::Unavailable("gone".to_string());
        feed.end(why.clone());
        assert_eq!(block_on(watch.next()), Ok(vec![deletion(1)]));
        assert_eq!(block_on(watch.next()), Ok(vec![deletion(2), deletion(3)]));
        assert_eq!(block_on(watch.next()), Err(why.clone()));
        assert_eq!(block_on(watch.next()), Err(why));
    }

    #[test]
    fn a_reader_that_stays_away_lists_again_and_memory_stays_bounded() {
        let (feed, mut watch) = queue();
        let mut pushed = 0;
        while feed.push(vec![deletion(pushed + 5); 1_000]).is_ok() {
            pushed += 1;
            assert!(pushed < 1_000);
        }
        assert_eq!(pushed as usize, EVENTS_MAX / 1_000);
        assert_eq!(lock(&feed.waiting).events, 0);
        drop(feed);
        assert_eq!(block_on(watch.next()), Err(MetastoreError::Compacted(5)));
    }

    #[test]
    fn bytes_count_and_what_is_read_counts_no_more() {
        let (feed, mut watch) = queue();
        let large = WatchEvent::Delete {
            key: Bytes::from(vec![0; BYTES_MAX / 2 + 1]),
            revision: 1,
        };
        for _ in 0..3 {
            feed.push(vec![large.clone()]).unwrap();
            block_on(watch.next()).unwrap();
        }
        feed.push(vec![large.clone()]).unwrap();
        assert_eq!(feed.push(vec![large]), Err(NobodyReads));
    }

    #[test]
    fn each_end_learns_that_the_other_is_gone() {
        let (mut feed, watch) = queue();
        assert!(feed.abandoned().now_or_never().is_none());
        drop(watch);
        block_on(feed.abandoned());
        let (feed, mut watch) = queue();
        drop(feed);
        assert!(matches!(block_on(watch.next()), Err(MetastoreError::Unavailable(_))));
    }

    #[test]
    fn changes_out_of_order_are_noticed() {
        assert_eq!(next_revision(&[], 4), Some(4));
        assert_eq!(next_revision(&[deletion(4), deletion(4), deletion(6)], 4), Some(7));
        assert_eq!(next_revision(&[deletion(3)], 4), None);
        assert_eq!(next_revision(&[deletion(6), deletion(5)], 4), None);
    }
}
