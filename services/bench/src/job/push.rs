//! Pushes at a fixed pace, and what connections receive of them.

use serde::{Deserialize, Serialize};

use super::Failures;
use crate::latency::LatencyCounts;

/// Pushes at a fixed pace, whatever becomes of them (open loop).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pushes {
    /// How the first of the streams is pushed; `None`: others push, this worker only receives.
    pub(crate) publish: Option<Publish>,
    /// What the connections are to receive.
    pub(crate) streams: Vec<Stream>,
    /// When everything begins, on the machine's monotonic clock.
    pub(crate) start_ns: u64,
    /// For how long it is pushed.
    pub(crate) seconds: f64,
}

/// Messages with numbers of their own, one after the other at an even pace.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Stream {
    /// Number of the first one; the others follow.
    pub(crate) first: u64,
    /// Messages a second.
    pub(crate) per_second: f64,
    /// Who gets each.
    pub(crate) receivers: Receivers,
}

/// Who gets a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Receivers {
    /// One of the worker's connections, each in its turn.
    One,
    /// All of the worker's connections.
    All,
}

/// A caller of the push API.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Publish {
    /// Its URL.
    pub(crate) url: String,
    /// For which business.
    pub(crate) business: u32,
    /// To whom.
    pub(crate) to: To,
    /// Length of the payload.
    pub(crate) bytes: usize,
}

/// To whom it is pushed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum To {
    /// The worker's own devices in turn, one a call.
    Devices {
        /// Their app.
        app: String,
        /// They are named `<prefix><number>`.
        prefix: String,
    },
    /// A group's members.
    Group {
        /// The group's id.
        id: String,
    },
    /// Every device that is connected, at low priority.
    Everybody,
}

/// What came of [`Pushes`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pushed {
    /// Of what this worker pushed.
    pub(crate) published: Option<Published>,
    /// In the order of the job's streams.
    pub(crate) received: Vec<Received>,
    /// Connections that were lost, and what should never come.
    pub(crate) failures: Failures,
}

/// What the push API said.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Published {
    /// Calls by their answer.
    pub(crate) answers: Failures,
    /// Of a group and of devices: calls that were taken. Of a broadcast: the devices that it was handed on for, in all.
    pub(crate) promised: u64,
    /// Pushes to devices that were said to be written or queued, and never came.
    pub(crate) lost: u64,
    /// What the first call that failed was told.
    pub(crate) fault: Option<String>,
    /// How much later than they were due calls began: the load's own fault.
    pub(crate) late: LatencyCounts,
    /// From when each call was due to its answer.
    pub(crate) answered: LatencyCounts,
}

/// What came of one stream.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Received {
    /// Messages that it has.
    pub(crate) messages: u64,
    /// Deliveries of these, one per receiver.
    pub(crate) expected: u64,
    /// Deliveries that came, each counted once.
    pub(crate) received: u64,
    /// From the beginning to the last of them.
    pub(crate) seconds: f64,
    /// From when each message was due to each delivery.
    pub(crate) latency: LatencyCounts,
    /// Length of one message on the wire.
    pub(crate) frame_bytes: usize,
}
