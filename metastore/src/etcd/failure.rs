//! What an error of etcd or of the connection says about the request: the difference between "not applied" and "perhaps".
//!
//! Everything that is not known for sure counts as perhaps applied. That includes answers that sound final: etcd applies
//! a write that goes beyond its space quota and says "database space exceeded" all the same, and "request timed out"
//! says nothing about what becomes of the proposal.

use crate::store::{LeaseId, MetastoreError};
use etcd_client::Error;
use std::error::Error as StdError;
use std::fmt;
use tonic::Code;

/// Why a call did not succeed at one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// Surely not applied; another endpoint, or another time, may do.
    NotApplied(String),
    /// Perhaps applied.
    Unknown(String),
    /// Perhaps applied, and no endpoint does better: etcd is beyond its quota.
    Full(String),
    /// Not applied: our token is no longer valid, a new one will do.
    TokenRefused(String),
    /// Not applied: a lease that it names is not there.
    LeaseNotFound,
    /// The answer is larger than we take.
    TooLarge(String),
    /// Not applied, and never will be.
    Refused(String),
    /// Not applied: there is no connection, since the two ends do not trust each other.
    Tls(String),
    /// Perhaps applied: TLS broke on a connection that stood. A certificate that etcd misses shows like this, too, since
    /// TLS 1.3 lets the client begin before the server has looked at it.
    TlsBroken(String),
}

impl Failure {
    /// What the caller of a read learns.
    pub fn of_read(self) -> MetastoreError {
        match self {
            Failure::Unknown(why) | Failure::Full(why) | Failure::TlsBroken(why) => MetastoreError::Unavailable(why),
            other => other.of_write(None),
        }
    }

    /// What the caller of a write learns; `lease` is the one that it names.
    pub fn of_write(self, lease: Option<LeaseId>) -> MetastoreError {
        match self {
            Failure::NotApplied(why) | Failure::TokenRefused(why) | Failure::Tls(why) => {
                MetastoreError::Unavailable(why)
            }
            Failure::Unknown(why) | Failure::Full(why) | Failure::TooLarge(why) | Failure::TlsBroken(why) => {
                MetastoreError::OutcomeUnknown(why)
            }
            Failure::LeaseNotFound => match lease {
                Some(lease) => MetastoreError::LeaseGone(lease),
                None => MetastoreError::OutcomeUnknown("etcd misses a lease that was not named".to_string()),
            },
            Failure::Refused(why) => MetastoreError::Refused(why),
        }
    }
}

impl Failure {
    /// Whether a write may be tried at another endpoint: it surely did nothing, and there it may do.
    pub fn lets_writes_go_on(&self) -> bool {
        matches!(
            self,
            Failure::NotApplied(_) | Failure::TokenRefused(_) | Failure::Tls(_)
        )
    }

    /// Whether a read may be tried at another endpoint.
    pub fn lets_reads_go_on(&self) -> bool {
        self.lets_writes_go_on() || matches!(self, Failure::Unknown(_) | Failure::TlsBroken(_))
    }

    /// Whether the next call had better begin elsewhere, and over a new connection.
    pub fn blames_endpoint(&self) -> bool {
        matches!(
            self,
            Failure::NotApplied(_) | Failure::Unknown(_) | Failure::Tls(_) | Failure::TlsBroken(_)
        )
    }

    /// Whether waiting may help: credentials and certificates do not become right by it.
    pub fn may_heal(&self) -> bool {
        matches!(
            self,
            Failure::NotApplied(_) | Failure::Unknown(_) | Failure::TokenRefused(_)
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NotApplied(why)
            | Failure::Unknown(why)
            | Failure::Full(why)
            | Failure::TokenRefused(why)
            | Failure::TooLarge(why)
            | Failure::Refused(why)
            | Failure::Tls(why)
            | Failure::TlsBroken(why) => f.write_str(why),
            Failure::LeaseNotFound => f.write_str("lease not found"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::GRpcStatus(status) => {
                let causes = Causes::of(status);
                judge(
                    status.code(),
                    status.message(),
                    &causes,
                    format!("{}: {}{}", status.code(), status.message(), causes.text),
                )
            }
            // The client's word for an answer with a time to live of 0.
            Error::LeaseKeepAliveError(why) if why == "lease not found" => Failure::LeaseNotFound,
            Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => {
                Failure::Refused(error.to_string())
            }
            // Raised while a connection is prepared, before there is one.
            Error::TransportError(transport) => Failure::Refused(format!("{error}{}", Causes::of(transport).text)),
            _ => Failure::Unknown(error.to_string()),
        }
    }
}

/// What lies below an error.
#[derive(Debug, Default)]
struct Causes {
    /// There was no connection to send anything over.
    not_connected: bool,
    /// A certificate, or what is no TLS at all.
    tls: bool,
    /// All of them, each after a colon.
    text: String,
}

impl Causes {
    fn of(error: &dyn StdError) -> Self {
        let mut causes = Causes::default();
        let mut next = error.source();
        while let Some(cause) = next {
            causes.not_connected |= cause.is::<tonic::ConnectError>();
            // rustls reports through IO errors of this kind; plain IO never has it.
            let io = cause.downcast_ref::<std::io::Error>();
            causes.tls |= io.is_some_and(|io| io.kind() == std::io::ErrorKind::InvalidData);
            let text = format!(": {cause}");
            if !causes.text.ends_with(&text) {
                causes.text.push_str(&text);
            }
            next = cause.source();
        }
        causes
    }
}

fn judge(code: Code, message: &str, causes: &Causes, why: String) -> Failure {
    match (causes.not_connected, causes.tls) {
        (true, true) => return Failure::Tls(why),
        (true, false) => return Failure::NotApplied(why),
        (false, true) => return Failure::TlsBroken(why),
        (false, false) => {}
    }
    match (code, message) {
        // Said before anything is proposed.
        (Code::Unavailable, "etcdserver: no leader" | "etcdserver: rpc not supported for learner")
        | (Code::Unavailable, "etcdserver: not capable")
        | (Code::ResourceExhausted, "etcdserver: too many requests") => Failure::NotApplied(why),
        (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded") => Failure::Full(why),
        (Code::Unauthenticated, _) | (Code::InvalidArgument, "etcdserver: revision of auth store is old") => {
            Failure::TokenRefused(why)
        }
        (Code::NotFound, "etcdserver: requested lease not found") => Failure::LeaseNotFound,
        // The client's own limit for an answer.
        (Code::OutOfRange, message) if message.contains("message length too large") => Failure::TooLarge(why),
        (Code::InvalidArgument | Code::PermissionDenied | Code::FailedPrecondition | Code::Unimplemented, _) => {
            Failure::Refused(why)
        }
        _ => Failure::Unknown(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: Code, message: &str) -> Failure {
        Failure::from(Error::GRpcStatus(tonic::Status::new(code, message)))
    }

    fn write(code: Code, message: &str) -> MetastoreError {
        of(code, message).of_write(Some(LeaseId(7)))
    }

    #[test]
    fn only_what_was_surely_not_proposed_is_unavailable() {
        for (code, message) in [
            (Code::Unavailable, "etcdserver: no leader"),
            (Code::ResourceExhausted, "etcdserver: too many requests"),
            (Code::Unauthenticated, "etcdserver: invalid auth token"),
        ] {
            let error = write(code, message);
            assert!(matches!(error, MetastoreError::Unavailable(_)), "{message}: {error}");
        }
    }

    #[test]
    fn whatever_may_have_been_applied_is_unknown() {
        for (code, message) in [
            (Code::Unavailable, "etcdserver: request timed out"),
            (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
            ),
            (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to connection lost",
            ),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "etcdserver: server stopped"),
            (Code::Unavailable, "transport is closing"),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            (Code::DeadlineExceeded, "context deadline exceeded"),
            (Code::Cancelled, "etcdserver: request cancelled"),
            (Code::Unknown, "transport error"),
            (Code::Internal, "h2 protocol error"),
            (Code::DataLoss, "etcdserver: corrupt cluster"),
        ] {
            let error = write(code, message);
            assert!(matches!(error, MetastoreError::OutcomeUnknown(_)), "{message}: {error}");
            let error = of(code, message).of_read();
            assert!(
                matches!(error, MetastoreError::Unavailable(_)),
                "a read is never in doubt: {error}"
            );
        }
    }

    #[test]
    fn what_can_never_work_is_refused() {
        for (code, message) in [
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
            ),
            (Code::InvalidArgument, "etcdserver: request is too large"),
            (Code::InvalidArgument, "etcdserver: user name is empty"),
            (Code::FailedPrecondition, "etcdserver: authentication is not enabled"),
            (Code::PermissionDenied, "etcdserver: permission denied"),
        ] {
            let error = write(code, message);
            assert!(matches!(error, MetastoreError::Refused(_)), "{message}: {error}");
        }
    }

    #[test]
    fn a_transaction_is_in_doubt_if_its_connection_stood_when_tls_broke() {
        let broken = || std::io::Error::new(std::io::ErrorKind::InvalidData, "bad record");
        let stood = Failure::from(Error::GRpcStatus(tonic::Status::from_error(Box::new(broken()))));
        assert!(matches!(stood, Failure::TlsBroken(_)), "{stood:?}");
        assert!(matches!(stood.of_write(None), MetastoreError::OutcomeUnknown(_)));
        let never = tonic::ConnectError(Box::new(broken()));
        let never = Failure::from(Error::GRpcStatus(tonic::Status::from_error(Box::new(never))));
        assert!(matches!(never, Failure::Tls(_)), "{never:?}");
        assert!(matches!(never.of_write(None), MetastoreError::Unavailable(_)));
    }

    #[test]
    fn a_connection_that_never_stood_carried_nothing() {
        let refused = tonic::ConnectError(Box::new(std::io::Error::other("refused")));
        let failure = Failure::from(Error::GRpcStatus(tonic::Status::from_error(Box::new(refused))));
        assert!(matches!(failure, Failure::NotApplied(_)), "{failure:?}");
    }

    #[test]
    fn a_lease_that_is_missing_is_gone() {
        let missing = (Code::NotFound, "etcdserver: requested lease not found");
        assert_eq!(write(missing.0, missing.1), MetastoreError::LeaseGone(LeaseId(7)));
        let expired = Failure::from(Error::LeaseKeepAliveError("lease not found".to_string()));
        assert_eq!(expired, Failure::LeaseNotFound);
    }
}
