//! What an attempt's failure says: about the outcome, and about trying again. Pure; the table is in the tests.

use crate::object_store::StoreError;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Read,
    List,
    Delete,
}

/// How an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing of the request left this process.
    NotSent(String),
    /// Some of it left, and no answer came. `stale`: on a connection that had served before.
    Cut { why: String, stale: bool },
    /// The store answered with an error.
    Answered { status: u16, code: String, message: String },
    /// The answer is not what the store promises (short, damaged, not understood).
    Damaged(String),
}

/// When to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    AtOnce,
    AfterPause,
}

/// What the caller is told if it ends here, and when to try again otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) error: StoreError,
    pub(super) again: Again,
}

/// What is known after an answer that is an error.
enum Meaning {
    /// Not done; the same request may work later.
    NotDone,
    /// Perhaps done.
    InDoubt,
    /// The key is taken.
    Exists,
    /// No such object.
    NotFound,
    /// No room.
    Full,
    /// It can never work.
    Never,
}

/// Judges a failure of `operation` on `key`.
pub(super) fn judge(operation: Operation, key: &str, failure: &Failure) -> Verdict {
    let meaning = match failure {
        Failure::NotSent(_) => Meaning::NotDone,
        Failure::Cut { .. } | Failure::Damaged(_) => Meaning::InDoubt,
        Failure::Answered { status, code, .. } => meaning(operation, *status, code),
    };
    let text = || format!("{key}: {}", describe(failure));
    match meaning {
        Meaning::Exists => Verdict::never(StoreError::Conflict(key.to_string())),
        Meaning::NotFound => Verdict::never(StoreError::NotFound(key.to_string())),
        Meaning::Full => Verdict::never(StoreError::Full(text())),
        Meaning::Never => Verdict::never(StoreError::Refused(text())),
        Meaning::NotDone => Verdict {
            error: StoreError::Unavailable(text()),
            again: Again::AfterPause,
        },
        // Tried again it might meet itself, and be told that somebody else has the name.
        Meaning::InDoubt if operation == Operation::Create => Verdict::never(StoreError::OutcomeUnknown(text())),
        Meaning::InDoubt => Verdict {
            error: match operation {
                Operation::Delete => StoreError::OutcomeUnknown(text()),
                // To read changes nothing.
                Operation::Create | Operation::Read | Operation::List => StoreError::Unavailable(text()),
            },
            again: match failure {
                Failure::Cut { stale: true, .. } => Again::AtOnce,
                _ => Again::AfterPause,
            },
        },
    }
}

impl Verdict {
    fn never(error: StoreError) -> Self {
        let again = Again::Never;
        Verdict { error, again }
    }
}

fn meaning(operation: Operation, status: u16, code: &str) -> Meaning {
    match (status, code) {
        (_, "QuotaExceeded" | "XMinioStorageFull" | "InsufficientCapacity" | "XMinioAdminBucketQuotaExceeded") => {
            Meaning::Full
        }
        (507, _) => Meaning::Full,
        // Credentials end and are replaced; bytes are damaged on their way; bodies arrive too slowly.
        (
            _,
            "ExpiredToken"
            | "TokenRefreshRequired"
            | "RequestTimeout"
            | "BadDigest"
            | "XAmzContentChecksumMismatch"
            | "IncompleteBody"
            | "OperationAborted",
        ) => Meaning::NotDone,
        // The store itself says that it has not begun. A 503 that says less may come from a proxy whose other side broke
        // in the middle, or from a store that could write to some of its disks.
        (429, _) | (503, "SlowDown" | "ServiceUnavailable" | "RequestLimitExceeded") => Meaning::NotDone,
        (503, code) if code.starts_with("Throttling") => Meaning::NotDone,
        (412, _) if operation == Operation::Create => Meaning::Exists,
        // Two conditional writes at the same time: this one was dropped.
        (409, "ConditionalRequestConflict") => Meaning::NotDone,
        (404, "NoSuchKey") if operation == Operation::Read => Meaning::NotFound,
        // A bucket that has moved is somewhere else for some time.
        (307, _) => Meaning::NotDone,
        (408 | 500.., _) => Meaning::InDoubt,
        _ => Meaning::Never,
    }
}

fn describe(failure: &Failure) -> String {
    match failure {
        Failure::NotSent(why) => format!("not sent: {why}"),
        Failure::Cut { why, .. } => format!("no answer: {why}"),
        Failure::Damaged(why) => format!("damaged answer: {why}"),
        Failure::Answered { status, code, message } => {
            let separator = if message.is_empty() { "" } else { ": " };
            format!("{status} {code}{separator}{message}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, code: &str) -> Failure {
        Failure::Answered {
            status,
            code: code.to_string(),
            message: "why".to_string(),
        }
    }

    fn kind(error: &StoreError) -> &'static str {
        match error {
            StoreError::NotFound(_) => "not found",
            StoreError::Conflict(_) => "conflict",
            StoreError::Unavailable(_) => "unavailable",
            StoreError::OutcomeUnknown(_) => "unknown",
            StoreError::Full(_) => "full",
            StoreError::Refused(_) => "refused",
            StoreError::Damaged(_) => "damaged",
        }
    }

    const OPERATIONS: [Operation; 4] = [Operation::Create, Operation::Read, Operation::List, Operation::Delete];

    #[test]
    fn each_failure_says_what_is_known() {
        let cut = |stale| Failure::Cut {
            why: "reset".to_string(),
            stale,
        };
        // What a create, a read, a listing and a delete are told.
        let table = [
            (Failure::NotSent("x".to_string()), ["unavailable"; 4]),
            (cut(false), ["unknown", "unavailable", "unavailable", "unknown"]),
            (cut(true), ["unknown", "unavailable", "unavailable", "unknown"]),
            (
                Failure::Damaged("x".to_string()),
                ["unknown", "unavailable", "unavailable", "unknown"],
            ),
            (
                answered(500, "InternalError"),
                ["unknown", "unavailable", "unavailable", "unknown"],
            ),
            (answered(502, ""), ["unknown", "unavailable", "unavailable", "unknown"]),
            (answered(504, ""), ["unknown", "unavailable", "unavailable", "unknown"]),
            (answered(408, ""), ["unknown", "unavailable", "unavailable", "unknown"]),
            (answered(503, "SlowDown"), ["unavailable"; 4]),
            (answered(503, "ServiceUnavailable"), ["unavailable"; 4]),
            (answered(503, "ThrottlingException"), ["unavailable"; 4]),
            (answered(503, ""), ["unknown", "unavailable", "unavailable", "unknown"]),
            (
                answered(503, "SlowDownWrite"),
                ["unknown", "unavailable", "unavailable", "unknown"],
            ),
            (answered(429, ""), ["unavailable"; 4]),
            (answered(400, "RequestTimeout"), ["unavailable"; 4]),
            (answered(400, "BadDigest"), ["unavailable"; 4]),
            (answered(400, "ExpiredToken"), ["unavailable"; 4]),
            (answered(409, "ConditionalRequestConflict"), ["unavailable"; 4]),
            (
                answered(412, "PreconditionFailed"),
                ["conflict", "refused", "refused", "refused"],
            ),
            (
                answered(404, "NoSuchKey"),
                ["refused", "not found", "refused", "refused"],
            ),
            (answered(404, "NoSuchBucket"), ["refused"; 4]),
            (answered(404, ""), ["refused"; 4]),
            (answered(403, "AccessDenied"), ["refused"; 4]),
            (answered(403, "SignatureDoesNotMatch"), ["refused"; 4]),
            (answered(400, "InvalidRequest"), ["refused"; 4]),
            (answered(301, "PermanentRedirect"), ["refused"; 4]),
            (answered(507, ""), ["full"; 4]),
            (answered(403, "QuotaExceeded"), ["full"; 4]),
        ];
        for (failure, expected) in table {
            for (operation, expected) in OPERATIONS.into_iter().zip(expected) {
                let verdict = judge(operation, "key", &failure);
                assert_eq!(kind(&verdict.error), expected, "{operation:?} {failure:?}");
            }
        }
    }

    #[test]
    fn a_create_in_doubt_is_never_tried_again() {
        for status in 100..=599 {
            for code in [
                "",
                "InternalError",
                "SlowDown",
                "PreconditionFailed",
                "ConditionalRequestConflict",
            ] {
                let verdict = judge(Operation::Create, "key", &answered(status, code));
                let in_doubt = matches!(verdict.error, StoreError::OutcomeUnknown(_));
                assert!(!in_doubt || verdict.again == Again::Never, "{status} {code}");
            }
        }
    }

    #[test]
    fn what_the_store_has_decided_is_not_asked_again() {
        for operation in OPERATIONS {
            for status in [301, 400, 403, 404, 412, 416] {
                let verdict = judge(operation, "key", &answered(status, "X"));
                assert_eq!(verdict.again, Again::Never, "{operation:?} {status}");
            }
        }
    }

    #[test]
    fn a_connection_that_had_gone_stale_costs_no_pause() {
        for (stale, again) in [(true, Again::AtOnce), (false, Again::AfterPause)] {
            let why = "reset".to_string();
            let verdict = judge(Operation::Read, "key", &Failure::Cut { why, stale });
            assert_eq!(verdict.again, again);
        }
    }
}
