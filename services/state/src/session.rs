//! The session role: what a sidecar knows of the connections of its pod, and what it does for them.
//!
//! ```text
//!  gateway shard n ──link──▶ worker n ──streams──▶ businesses
//!        (UDS)        ◀──      │  ▲      ◀──
//!                              ▼  │  announcements, retractions, receipts / pushes, verdicts
//!                            control ──RouteFeed──▶ routing replicas
//! ```
//!
//! One [`worker`] per gateway shard: a thread, a `current_thread` runtime, the shard's link, its own business
//! streams, and one [`machine`] that decides everything. Workers share nothing on the hot path; [`hub`] joins
//! them where the instance as a whole speaks: routes, groups, pushes.
//!
//! Invariant: nothing in `machine` and below it awaits or reads a clock. A worker never waits for the hub
//! (it keeps what the hub can't take, within a bound); the hub may wait for a worker.

pub mod attributes;
pub mod events;
pub mod feed;
pub mod follower;
pub mod groups;
pub mod hub;
pub mod inflight;
pub mod link;
pub mod machine;
pub mod mailbox;
pub mod metrics;
pub mod out;
pub mod record;
pub mod replies;
pub mod table;
pub mod window;
pub mod worker;

/// A moment, read once per turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Microseconds since the worker began; never goes backwards.
    pub micros: u64,
    /// The host's clock, Unix milliseconds: for epochs, expiries and tickets only.
    pub unix_ms: u64,
}
