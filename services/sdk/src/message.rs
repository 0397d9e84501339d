//! What goes up and what comes down.

use std::time::Duration;

use bytes::Bytes;
use imaccess_wire::limits::{MAX_GROUP, MAX_METADATA, MAX_TRACE};

use crate::error::RequestError;

/// How long a request waits for its reply, repetitions included, unless told otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// A business's answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What it sent.
    pub payload: Bytes,
    /// How often the request went out: 1, or more when it was repeated (always with the same message id).
    pub attempts: u32,
}

/// What a request may carry besides its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestOptions {
    /// How long to wait for the answer, repetitions included.
    pub deadline: Duration,
    /// For the business, not interpreted; at most 1,024 bytes.
    pub metadata: Bytes,
    /// W3C traceparent; at most 64 bytes.
    pub trace: String,
}

impl Default for RequestOptions {
    fn default() -> Self {
        Self {
            deadline: DEFAULT_DEADLINE,
            metadata: Bytes::new(),
            trace: String::new(),
        }
    }
}

impl RequestOptions {
    /// Everything as by default but the deadline.
    #[must_use]
    pub fn within(deadline: Duration) -> Self {
        Self {
            deadline,
            ..Self::default()
        }
    }

    pub(crate) fn check(&self) -> Result<(), RequestError> {
        bounded("the metadata", self.metadata.len(), MAX_METADATA)?;
        bounded("the trace", self.trace.len(), MAX_TRACE)
    }
}

/// What a business pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The business that pushed it.
    pub business: u32,
    /// To whom.
    pub target: Target,
    /// The business's id of it, at most 16 bytes; may be empty.
    pub message_id: Bytes,
    /// Unix milliseconds after which it is of no use; 0: none.
    pub expires_unix_ms: u64,
    /// Its content.
    pub payload: Bytes,
}

/// Whom a push was for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// This device.
    Device {
        /// Position in the session's stream of numbered pushes; 0: not numbered.
        sequence: u64,
    },
    /// A group that this device is in.
    Group {
        /// Which.
        group: Bytes,
        /// Names the numbering stream; sequences of different epochs can't be compared.
        epoch: u64,
        /// Position in it.
        sequence: u64,
        /// How many pushes of this group, right before this one, this client didn't get while it was connected or
        /// away; 0 also when nothing is known (first push, or a new epoch).
        missed: u64,
    },
}

/// A group of a business, named as the business names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupName {
    pub(crate) business: u32,
    pub(crate) group: Bytes,
}

impl GroupName {
    pub(crate) fn new(business: u32, group: Bytes) -> Result<Self, RequestError> {
        bounded("the group's name", group.len(), MAX_GROUP)?;
        Ok(Self { business, group })
    }
}

pub(crate) fn bounded(what: &'static str, length: usize, limit: usize) -> Result<(), RequestError> {
    if length > limit {
        Err(RequestError::TooLong { what, limit })
    } else {
        Ok(())
    }
}
