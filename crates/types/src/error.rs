//! The one taxonomy of failures: every error a person or a peer sees has one of these kinds, and
//! each kind has one gRPC status, one HTTP status and one exit code.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// What sort of failure it is. Exit codes are stable and documented in the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong.
    InvalidInput,
    /// No such model, expert or peer is known.
    NotFound,
    /// Experts are known, none may or can answer now; or the mesh is empty.
    Unavailable,
    /// The deadline passed.
    DeadlineExceeded,
    /// The caller went away.
    Cancelled,
    /// A bound was reached: queue, memory, disk.
    ResourceExhausted,
    /// The prompt does not fit the expert's context.
    ContextOverflow,
    /// Not allowed to this caller.
    PermissionDenied,
    /// Something must be done first: home in use, port in use, other mesh.
    FailedPrecondition,
    /// Bytes are not what their checksum says.
    DataLoss,
    /// The other side speaks another version.
    VersionMismatch,
    /// The configuration cannot be read.
    Config,
    /// A fault of our own.
    Internal,
}

impl ErrorKind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 13] = [
        Self::InvalidInput,
        Self::NotFound,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::Cancelled,
        Self::ResourceExhausted,
        Self::ContextOverflow,
        Self::PermissionDenied,
        Self::FailedPrecondition,
        Self::DataLoss,
        Self::VersionMismatch,
        Self::Config,
        Self::Internal,
    ];

    /// Its stable name, as in JSON and in gRPC metadata.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::NotFound => "not_found",
            Self::Unavailable => "unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Cancelled => "cancelled",
            Self::ResourceExhausted => "resource_exhausted",
            Self::ContextOverflow => "context_overflow",
            Self::PermissionDenied => "permission_denied",
            Self::FailedPrecondition => "failed_precondition",
            Self::DataLoss => "data_loss",
            Self::VersionMismatch => "version_mismatch",
            Self::Config => "config",
            Self::Internal => "internal",
        }
    }

    /// The kind with this stable name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == name)
    }

    /// The gRPC status code (grpc.io, "Status codes and their use in gRPC").
    pub const fn grpc_code(self) -> i32 {
        match self {
            Self::Cancelled => 1,
            Self::InvalidInput | Self::Config => 3,
            Self::DeadlineExceeded => 4,
            Self::NotFound => 5,
            Self::PermissionDenied => 7,
            Self::ResourceExhausted => 8,
            Self::FailedPrecondition | Self::VersionMismatch => 9,
            Self::ContextOverflow => 11,
            Self::Internal => 13,
            Self::Unavailable => 14,
            Self::DataLoss => 15,
        }
    }

    /// The kind a bare gRPC status stands for, when its sender named none.
    pub const fn from_grpc_code(code: i32) -> Self {
        match code {
            1 => Self::Cancelled,
            3 => Self::InvalidInput,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            7 | 16 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            9 | 10 | 12 => Self::FailedPrecondition,
            11 => Self::ContextOverflow,
            14 => Self::Unavailable,
            15 => Self::DataLoss,
            _ => Self::Internal,
        }
    }

    /// The HTTP status of the gateway.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::InvalidInput | Self::ContextOverflow | Self::Config => 400,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::FailedPrecondition => 409,
            Self::ResourceExhausted => 429,
            Self::Cancelled => 499,
            Self::Internal | Self::DataLoss => 500,
            Self::VersionMismatch => 502,
            Self::Unavailable => 503,
            Self::DeadlineExceeded => 504,
        }
    }

    /// The exit code of the CLI.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::InvalidInput | Self::Config => 2,
            Self::NotFound => 3,
            Self::Unavailable => 4,
            Self::DeadlineExceeded => 5,
            Self::ContextOverflow => 6,
            Self::DataLoss => 7,
            Self::FailedPrecondition => 8,
            Self::VersionMismatch => 9,
            Self::ResourceExhausted => 10,
            Self::PermissionDenied => 11,
            Self::Cancelled => 130,
        }
    }

    /// Whether another replica may succeed where this one failed.
    pub const fn worth_another_replica(self) -> bool {
        matches!(
            self,
            Self::Unavailable
                | Self::ResourceExhausted
                | Self::NotFound
                | Self::DataLoss
                | Self::VersionMismatch
                | Self::PermissionDenied
                | Self::FailedPrecondition
                | Self::Internal
        )
    }
}

/// One try that failed on the way to a [`Failure`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The expert asked, by name.
    pub expert: String,
    /// The peer asked.
    pub peer: String,
    /// What came of it.
    pub outcome: String,
}

/// An error ready to be shown: its kind, one clear line, and what was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Failure {
    /// What sort of failure.
    pub kind: ErrorKind,
    /// One line that says what went wrong and what to do.
    pub message: String,
    /// Each try and its outcome, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// When it may be worth asking again, milliseconds from now, where whoever refused could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// A failure without attempts.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            attempts: Vec::new(),
            retry_after_ms: None,
        }
    }

    /// The same failure, worth another try after `wait`.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.attempts.as_slice() {
            [only] => write!(f, "{} on {}: {}", only.expert, only.peer, self.message),
            attempts => {
                f.write_str(&self.message)?;
                for a in attempts {
                    write!(f, "; tried {} on {}: {}", a.expert, a.peer, a.outcome)?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_lead_back_to_their_kind() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_name(kind.as_str()), Some(kind));
            assert_eq!(
                ErrorKind::from_grpc_code(kind.grpc_code()).grpc_code(),
                kind.grpc_code()
            );
            assert_ne!(kind.exit_code(), 0);
        }
    }
}
