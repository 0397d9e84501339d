//! The connection layer: sockets, frames, write queues, pings, and local fan-out. Nothing else.
//!
//! - [`config`]: what can be set, with defaults that run.
//! - [`app`]: binds everything, starts a thread per shard, runs until the drain ends.
//! - `control`: where it is told what to do, under certificates.
//! - `shard`: one OS thread, one epoll set, one slab of connections, one link stream to the state sidecar.
//! - `link`: the gRPC service that the sidecar dials, one Unix socket per shard.
//! - `takeover`: what a gateway begins with when it takes another process's place; `handover`: how one leaves.
//! - `drain`: the stages of an end; `reload`: what of the configuration may change meanwhile.
//! - `volume`: what a pod's gateways share over time: instance id and incarnation.
//!
//! Invariants: only this crate reads and writes client sockets; it never looks into a payload and never calls a
//! business; nothing per idle connection could be per shard.

pub mod app;
pub mod config;
mod control;
mod drain;
mod handover;
mod limits;
mod link;
mod metrics;
mod reload;
mod shard;
mod takeover;
mod volume;

pub use app::{BindError, Gateway};
pub use config::GatewayConfig;
pub use takeover::TakeBackError;
