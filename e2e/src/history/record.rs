//! What was seen of a cluster, by one observer with one clock.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits::Limits;

/// A moment of the run, in microseconds since its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Moment(pub u64);

impl Moment {
    /// Later than everything.
    pub const NEVER: Self = Self(u64::MAX);

    /// So much later.
    #[must_use]
    pub fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(micros(time)))
    }

    /// So much earlier, but not before the beginning.
    #[must_use]
    pub fn minus(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(micros(time)))
    }

    /// How long after an earlier moment; zero if it isn't.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NEVER {
            return f.write_str("never");
        }
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// From before something was begun until after its outcome was known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// It hadn't begun before.
    pub from: Moment,
    /// It was over by then.
    pub to: Moment,
}

impl Span {
    /// Between two moments.
    #[must_use]
    pub fn new(from: Moment, to: Moment) -> Self {
        Self { from, to }
    }

    /// Whether the two have a moment in common.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

/// A session's id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Session(pub [u8; 16]);

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The first half tells them apart well enough for people.
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A number of a device; its name is made of it.
pub type Device = u32;

/// One attempt of a device to be connected, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Its place in the history's list.
    pub number: u32,
    /// Whose.
    pub device: Device,
    /// The gateway that was dialled; it and its state are one pod.
    pub pod: usize,
    /// When it was begun.
    pub begun: Moment,
    /// Before its LOGIN was written; without it nobody took the connection.
    pub login_sent: Option<Moment>,
    /// The session whose ticket the LOGIN had.
    pub presented: Option<Session>,
    /// What LOGIN_OK said.
    pub login: Option<Login>,
    /// How it ended; without it, it was there when the history ended.
    pub end: Option<End>,
}

/// What a LOGIN_OK said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// When it was read.
    pub at: Moment,
    /// Session.
    pub session: Session,
    /// The login's epoch.
    pub epoch: u64,
    /// Whether the ticket's session goes on.
    pub resumed: bool,
}

/// A connection's end as its client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Until then the client did nothing to end it, and had seen nothing of an end.
    pub from: Moment,
    /// From then on it was over.
    pub at: Moment,
    /// By whom.
    pub how: Ending,
}

/// By whom a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// The client said goodbye.
    Left,
    /// The client closed its socket without a word.
    Cut,
    /// Nobody took the connection.
    NotTaken,
    /// The login was refused with this code.
    Refused {
        /// A code of the protocol.
        code: u16,
    },
    /// A close frame came.
    Closed {
        /// A code of the protocol.
        code: u16,
        /// Whether it said that the session may be resumed.
        resumable: bool,
    },
    /// The stream ended, or was reset.
    Lost,
}

impl Ending {
    /// Whether the session may be resumed after it.
    #[must_use]
    pub fn resumable(self) -> bool {
        match self {
            Self::Cut | Self::Lost => true,
            Self::Closed { resumable, .. } => resumable,
            Self::Left | Self::NotTaken | Self::Refused { .. } => false,
        }
    }
}

/// What a push, or a kick, was answered for one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Said {
    /// Handed to the kernel.
    Written,
    /// Confirmed by the client.
    Acknowledged,
    /// Waiting in the connection's queue.
    Queued,
    /// No session.
    Offline,
    /// The queue was full.
    Refused,
    /// Not known now.
    Retry,
    /// It may have been written, or not.
    Unknown,
    /// The device was kicked.
    Done,
    /// What no business should be answered.
    Nonsense,
}

/// One call of the push API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// In its payload; no two have the same.
    pub id: u64,
    /// The replica that was called.
    pub replica: usize,
    /// For whom.
    pub devices: Vec<Device>,
    /// The call.
    pub span: Span,
    /// In the devices' order; without it the call failed, or nobody waited any longer: it may still be carried out.
    pub answers: Option<Vec<Said>>,
}

impl Push {
    /// What was said of one device.
    #[must_use]
    pub fn said(&self, device: Device) -> Option<Said> {
        let place = self.devices.iter().position(|one| *one == device)?;
        self.answers.as_ref()?.get(place).copied()
    }
}

/// A push that came to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// The id in its payload; without it, the payload wasn't one of ours.
    pub push: Option<u64>,
    /// By number.
    pub connection: u32,
    /// When it was read.
    pub at: Moment,
}

/// A device's sessions were to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kick {
    /// The replica that was called.
    pub replica: usize,
    /// Whose.
    pub device: Device,
    /// The call.
    pub span: Span,
    /// As in [`Push::answers`].
    pub answer: Option<Said>,
}

/// Whether a device has a session, as a replica says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// It has one.
    Online,
    /// It has none.
    Offline,
    /// Not known now.
    Retry,
}

/// A question who is online.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// The replica that was called.
    pub replica: usize,
    /// Of whom.
    pub devices: Vec<Device>,
    /// The call.
    pub span: Span,
    /// As in [`Push::answers`].
    pub answers: Option<Vec<Presence>>,
}

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Told {
    /// A session has begun.
    Online,
    /// It is over, with a code of the protocol.
    Offline {
        /// Why.
        reason: u16,
    },
    /// What it was owed is lost.
    SessionLost,
    /// Events were dropped.
    ResyncNeeded,
    /// What is none of these.
    Nonsense,
}

/// An event that the business was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// When.
    pub at: Moment,
    /// The stream on which it came, by its place in [`History::streams`].
    pub stream: u32,
    /// Its number there.
    pub sequence: u64,
    /// What it says.
    pub told: Told,
    /// Of which device; nonsense if it isn't one of ours.
    pub device: Device,
    /// Its session.
    pub session: Session,
    /// The session's epoch.
    pub epoch: u64,
}

/// A process that can be at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Part {
    /// The gateway of a pod.
    Gateway(usize),
    /// The state sidecar of a pod.
    State(usize),
    /// A routing replica.
    Routing(usize),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(number) => write!(f, "gateway-{number}"),
            Self::State(number) => write!(f, "state-{number}"),
            Self::Routing(number) => write!(f, "routing-{number}"),
        }
    }
}

/// What was done to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FaultKind {
    /// SIGKILL; it is started again.
    Kill,
    /// SIGSTOP, and SIGCONT at the end.
    Pause,
}

/// A fault and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Whose.
    pub part: Part,
    /// What was done.
    pub kind: FaultKind,
    /// Before the signal.
    pub from: Moment,
    /// After SIGCONT, or when another process was there in its place.
    pub until: Moment,
    /// When the part said that it is whole again.
    pub settled: Moment,
}

/// All of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The cluster's times.
    pub limits: Limits,
    /// By number.
    pub connections: Vec<Connection>,
    /// Of the push API.
    pub pushes: Vec<Push>,
    /// What came of them.
    pub sightings: Vec<Sighting>,
    /// Devices kicked.
    pub kicks: Vec<Kick>,
    /// Questions asked.
    pub queries: Vec<Query>,
    /// In the order in which they were heard.
    pub heard: Vec<Heard>,
    /// Who dialled the business, stream by stream.
    pub streams: Vec<String>,
    /// Everything that was done to parts.
    pub faults: Vec<Fault>,
    /// When the last look was taken.
    pub end: Moment,
}
