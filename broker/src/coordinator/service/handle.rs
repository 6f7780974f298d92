//! The way to the coordinator: from any shard, in order, with an answer even if there is no coordinator any more.

use super::super::{GroupReply, GroupRequest};
use async_channel::TrySendError;
use futures::channel::oneshot;
use kafscale_codec::error_code::ErrorCode;

/// A request with the way back.
#[derive(Debug)]
pub struct GroupMessage {
    pub(in super::super) request: GroupRequest,
    pub(in super::super) reply: oneshot::Sender<GroupReply>,
}

/// How other shards reach the coordinator.
#[derive(Debug, Clone)]
pub struct CoordinatorHandle {
    inbox: async_channel::Sender<GroupMessage>,
}

/// The coordinator's side: whoever has it coordinates.
#[derive(Debug)]
pub struct CoordinatorInbox(pub(in super::super) async_channel::Receiver<GroupMessage>);

/// A way to a coordinator that may still have to start. `capacity` requests wait in it before their senders do.
pub fn inbox(capacity: usize) -> (CoordinatorHandle, CoordinatorInbox) {
    let (sender, receiver) = async_channel::bounded(capacity);
    (CoordinatorHandle { inbox: sender }, CoordinatorInbox(receiver))
}

/// A request that is in the coordinator's inbox.
#[derive(Debug)]
pub struct PendingReply {
    reply: oneshot::Receiver<GroupReply>,
    refusal: GroupReply,
}

impl CoordinatorHandle {
    /// Asks, and waits for the answer.
    pub async fn call(&self, request: GroupRequest) -> GroupReply {
        self.submit(request).await.reply().await
    }

    /// Passes a request on that came to another inbox. One that has no room for it is as good as loading still.
    pub(in super::super) fn forward(&self, message: GroupMessage) {
        match self.inbox.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(message)) => message.refuse(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS),
            Err(TrySendError::Closed(message)) => message.refuse(ErrorCode::NOT_COORDINATOR),
        }
    }

    /// Puts a request into the inbox, waiting for room. Requests of one sender are handled in the order in which this
    /// returned.
    pub async fn submit(&self, request: GroupRequest) -> PendingReply {
        let refusal = request.refuse(ErrorCode::NOT_COORDINATOR);
        let (sender, reply) = oneshot::channel();
        // A closed inbox drops the sender with the message, and the reply says so.
        let _ = self.inbox.send(GroupMessage { request, reply: sender }).await;
        PendingReply { reply, refusal }
    }
}

impl GroupMessage {
    /// Answers nothing but `error`.
    pub(in super::super) fn refuse(self, error: ErrorCode) {
        // Whoever asked may have gone.
        let _ = self.reply.send(self.request.refuse(error));
    }
}

impl PendingReply {
    /// The answer. If the coordinator ended meanwhile: the error that makes clients look for its successor.
    pub async fn reply(self) -> GroupReply {
        self.reply.await.unwrap_or(self.refusal)
    }
}
