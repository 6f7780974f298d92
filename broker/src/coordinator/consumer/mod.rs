//! Groups of the consumer protocol (KIP-848): members say what they subscribe to, the coordinator says who has what, and
//! each member gets there at its own pace, with heartbeats alone.
//!
//! A heartbeat that changes nothing is answered from memory. Those that change something are worked on together, on a
//! copy: the copy is stored in one write, and then all of them are answered. So a group of many members that rebalances
//! takes few writes.

mod assignor;
mod describe;
mod heartbeat;
mod mixed;
mod reconcile;
mod state;

pub use assignor::Assignor;
pub use describe::{not_described, without_id};
pub use heartbeat::{
    check, refused, subscribed_topics, ConsumerHeartbeat, Session, HEARTBEAT_INTERVAL_MS, SESSION_TIMEOUT_MS,
};
#[cfg(test)]
pub use state::{Assignment, ClassicMember, LEFT_FOR_A_WHILE};
pub use state::{ConsumerMember, ConsumerState, MemberPhase, KIND_CONSUMER};
