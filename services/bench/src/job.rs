//! What the bench asks of its load workers and what they answer: JSON lines over their standard input and output.

mod push;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use self::push::{Publish, Published, Pushed, Pushes, Received, Receivers, Stream, To};
use crate::latency::LatencyCounts;

/// One thing to do. A worker answers each with one [`Answer`] before it takes the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Job {
    /// Open connections and log in; answered with [`Answer::Connected`].
    Connect(Connect),
    /// Send and be answered on all open connections; answered with [`Answer::Exchanged`].
    Exchange(Exchange),
    /// Publish to the group that all open connections are in; answered with [`Answer::FannedOut`].
    Fanout(Fanout),
    /// Push at a fixed pace and receive what is pushed; answered with [`Answer::Pushed`].
    Push(Pushes),
    /// Make connections members of a group; answered with [`Answer::Exchanged`].
    Join(Join),
    /// Ask an HTTP server over connections of its own; answered with [`Answer::Exchanged`].
    Http(Http),
    /// End all connections, keeping their tickets; answered with [`Answer::Closed`].
    Close,
}

/// Connections to open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Connect {
    /// Where to, in turn.
    pub(crate) targets: Vec<SocketAddr>,
    /// How many more.
    pub(crate) count: u64,
    /// How many may be under way at a time.
    pub(crate) in_flight: usize,
    /// `None`: a bare server, which knows no login.
    pub(crate) login: Option<LoginAs>,
    /// None is begun after so long.
    pub(crate) seconds: Option<f64>,
}

/// Who logs in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LoginAs {
    /// App of all devices.
    pub(crate) app: String,
    /// Devices are `<prefix><number>`, numbered on from those before.
    pub(crate) device_prefix: String,
    /// How it is proved.
    pub(crate) proof: Proof,
    /// A group to be in.
    pub(crate) group: Option<Group>,
}

/// What a login is proved with.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Proof {
    /// Development tokens, issued before the clock starts.
    Issue {
        /// The signing key.
        key: PathBuf,
        /// Id of the key; `None`: its thumbprint.
        key_id: Option<String>,
        /// The cluster that they are for.
        cluster: String,
    },
    /// The tickets of the connections closed before, which go on with their sessions.
    Tickets,
}

/// A group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Group {
    /// Its business.
    pub(crate) business: u32,
    /// Its id.
    pub(crate) id: String,
}

/// Messages to exchange.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Exchange {
    /// What is sent.
    pub(crate) message: Message,
    /// When.
    pub(crate) pace: Pace,
    /// For how long.
    pub(crate) seconds: f64,
}

/// What is sent; a bare server sends the same bytes back.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// A ping.
    Ping,
    /// A request with this many bytes of payload.
    Request {
        /// To which business.
        business: u32,
        /// Length of the payload.
        bytes: usize,
    },
}

/// When it is sent.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pace {
    /// Each connection sends when it has its answer (closed loop).
    Saturated,
    /// So many a second over all connections, answered or not (open loop).
    PerSecond(f64),
}

/// Messages to a group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Fanout {
    /// Through what.
    pub(crate) publisher: Publisher,
    /// How many messages may be on their way to some member.
    pub(crate) outstanding: usize,
    /// Length of the payload.
    pub(crate) bytes: usize,
    /// For how long.
    pub(crate) seconds: f64,
}

/// Who hands a message to all members.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Publisher {
    /// The push API.
    Push {
        /// Its URL.
        url: String,
        /// The group.
        group: Group,
    },
    /// A bare server's control port.
    Bare {
        /// Its address.
        address: SocketAddr,
        /// Length of one message on the wire, as a member of ours gets it.
        frame_bytes: usize,
    },
}

/// Connections that join a group by themselves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Join {
    /// The group.
    pub(crate) group: Group,
    /// The first connection to join, from 0.
    pub(crate) first: usize,
    /// How many from there on.
    pub(crate) count: usize,
}

/// HTTP requests over keep-alive connections, the next as soon as the answer is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Http {
    /// The server.
    pub(crate) address: SocketAddr,
    /// What is asked for.
    pub(crate) path: String,
    /// Over how many connections.
    pub(crate) connections: u64,
    /// For how long.
    pub(crate) seconds: f64,
}

/// What came of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// The worker runs.
    Ready,
    /// Of [`Job::Connect`].
    Connected(Connected),
    /// Of [`Job::Exchange`], [`Job::Join`] and [`Job::Http`].
    Exchanged(Exchanged),
    /// Of [`Job::Fanout`].
    FannedOut(FannedOut),
    /// Of [`Job::Push`].
    Pushed(Pushed),
    /// Of [`Job::Close`].
    Closed,
    /// It could not be done.
    Failed(String),
}

/// Failures by what they were.
pub(crate) type Failures = BTreeMap<String, u64>;

/// Connections that were opened.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Connected {
    /// Opened, and logged in where asked.
    pub(crate) count: u64,
    /// Of these, how many went on with their session.
    pub(crate) resumed: u64,
    /// Those that failed.
    pub(crate) failures: Failures,
    /// From the first to the last.
    pub(crate) seconds: f64,
    /// Ping interval that the server asked for; 0: none.
    pub(crate) ping_interval_s: u32,
    /// From the start of each connection to its login.
    pub(crate) latency: LatencyCounts,
}

/// Messages that were exchanged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Exchanged {
    /// Sent, or meant to be.
    pub(crate) sent: u64,
    /// Answered, and rightly.
    pub(crate) answered: u64,
    /// Those that failed.
    pub(crate) failures: Failures,
    /// From the first message to the last answer.
    pub(crate) seconds: f64,
    /// From the intended time of sending to the answer.
    pub(crate) latency: LatencyCounts,
    /// Length of a sent frame.
    pub(crate) request_bytes: usize,
    /// Length of an answer.
    pub(crate) answer_bytes: usize,
}

/// Messages to a group that were received.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct FannedOut {
    /// Published.
    pub(crate) messages: u64,
    /// Messages × members.
    pub(crate) expected: u64,
    /// Received, each once.
    pub(crate) received: u64,
    /// From the first publish to the last receipt.
    pub(crate) seconds: f64,
    /// From each publish to its last receipt.
    pub(crate) latency: LatencyCounts,
    /// Length of one message as a member gets it.
    pub(crate) frame_bytes: usize,
    /// Members that lost their connection, and the like.
    pub(crate) failures: Failures,
}

impl FannedOut {
    /// Deliveries per second.
    #[must_use]
    pub(crate) fn rate(&self) -> f64 {
        if self.seconds > 0.0 {
            self.received as f64 / self.seconds
        } else {
            0.0
        }
    }
}
