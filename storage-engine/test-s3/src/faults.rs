//! What can be made to go wrong, and what is counted: both as JSON.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// PUT of an object.
    Put,
    /// GET of an object.
    Get,
    /// HEAD of an object.
    Head,
    /// A listing.
    List,
    /// DELETE, or POST with a list of keys.
    Delete,
}

/// How a server behaves that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gone {
    /// Takes connections and requests, and never answers.
    Hang,
    /// Closes every connection at once.
    Refuse,
}

/// What is to go wrong from now on; by default nothing. Probabilities are from 0 to 1.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Milliseconds that each request of a kind waits before anything else happens to it.
    pub delay_ms: BTreeMap<Kind, u64>,
    /// Kinds of request that what follows is for; empty is all.
    pub kinds: Vec<Kind>,
    /// How many requests what follows is for; then they work again. Absent is no limit.
    pub times: Option<u64>,
    /// An answer (status and code) with this probability, and nothing is done.
    pub answer_before: f64,
    /// Status of that answer; 0 is 503.
    pub status: u16,
    /// Code of that answer; empty is `SlowDown`.
    pub code: String,
    /// 500 InternalError with this probability, although everything is done.
    pub error_after: f64,
    /// The connection is cut with this probability, once everything is done.
    pub cut_after: f64,
    /// The connection is cut with this probability, before anything is done.
    pub cut_before: f64,
    /// The connection is cut with this probability in the middle of an answer's body.
    pub cut_body: f64,
    /// One bit of an answer's body is wrong with this probability.
    pub corrupt_body: f64,
    /// 412 PreconditionFailed with this probability, although everything is done.
    pub conflict_after: f64,
    /// Connections are closed 20 ms after their answer, as by a server that has enough of them.
    pub close_after_answer: bool,
    /// `If-None-Match` is taken for what it was in S3 until 2024: nothing.
    pub ignore_conditions: bool,
    /// Whether the server is there at all.
    pub gone: Option<Gone>,
    /// Milliseconds until it is there again; absent is until the next change.
    pub gone_ms: Option<u64>,
}

/// What was counted of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Requests that came.
    pub requests: u64,
    /// Of these, those that were done, whatever was answered.
    pub done: u64,
    /// Bytes of their bodies, as `Content-Length` says.
    pub bytes: u64,
}

/// What was counted since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// By kind of request.
    pub kinds: BTreeMap<Kind, Counts>,
    /// Connections that were ever opened.
    pub connections: u64,
    /// Connections that are open.
    pub open: u64,
    /// Connections that were open at the same time at most.
    pub open_max: u64,
    /// Requests at the same time at most.
    pub concurrent_max: u64,
    /// Header fields of the last PUT.
    pub last_put: BTreeMap<String, String>,
}

impl Counters {
    /// The counts of one kind.
    pub fn of(&self, kind: Kind) -> Counts {
        self.kinds.get(&kind).copied().unwrap_or_default()
    }
}

/// What happens to one request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fate {
    Works,
    AnswerBefore(u16, String),
    ErrorAfter,
    CutAfter,
    CutBefore,
    CutBody,
    CorruptBody,
    ConflictAfter,
}

impl Faults {
    /// Deals a request its fate, and counts it off.
    pub(crate) fn deal(&mut self, kind: Kind) -> Fate {
        if !self.kinds.is_empty() && !self.kinds.contains(&kind) || self.times == Some(0) {
            return Fate::Works;
        }
        let fate = self.draw();
        if let (Some(times), true) = (&mut self.times, fate != Fate::Works) {
            *times -= 1;
        }
        fate
    }

    fn draw(&self) -> Fate {
        let hit = |probability: f64| probability > 0.0 && fastrand::f64() < probability;
        if hit(self.cut_before) {
            Fate::CutBefore
        } else if hit(self.answer_before) {
            let status = if self.status == 0 { 503 } else { self.status };
            let code = if self.code.is_empty() { "SlowDown" } else { &self.code };
            Fate::AnswerBefore(status, code.to_string())
        } else if hit(self.error_after) {
            Fate::ErrorAfter
        } else if hit(self.cut_after) {
            Fate::CutAfter
        } else if hit(self.cut_body) {
            Fate::CutBody
        } else if hit(self.corrupt_body) {
            Fate::CorruptBody
        } else if hit(self.conflict_after) {
            Fate::ConflictAfter
        } else {
            Fate::Works
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_for_some_kinds_and_so_many_requests() {
        let text = r#"{"kinds": ["put"], "times": 2, "cut_after": 1.0, "delay_ms": {"get": 5}}"#;
        let mut faults: Faults = serde_json::from_str(text).unwrap();
        assert_eq!(faults.delay_ms[&Kind::Get], 5);
        assert_eq!(faults.deal(Kind::Get), Fate::Works);
        assert_eq!(faults.deal(Kind::Put), Fate::CutAfter);
        assert_eq!(faults.deal(Kind::Put), Fate::CutAfter);
        assert_eq!(faults.deal(Kind::Put), Fate::Works);
    }

    #[test]
    fn a_misspelt_fault_is_no_fault() {
        assert!(serde_json::from_str::<Faults>(r#"{"cut_afer": 1.0}"#).is_err());
    }
}
