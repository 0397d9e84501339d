//! A history of a cluster under faults, and whether it may have been so.
//!
//! Devices connect, leave, are kicked and pushed to at random while parts are killed and paused; every call, answer, event and
//! fault is written down with its times, and rules judge the whole afterwards:
//!
//! ```text
//!   drive/ (devices, pushers, a business, faults)  ──▶  record  ──▶  rules/  ──▶  verdict
//!                                                          ▲            ▲
//!                                        limits (times) ───┘            │
//!                                        health (what faults excuse), timeline (what devices may have had) ──┘
//! ```
//!
//! - [`record`]: what was seen. [`limits`]: the times that the cluster was configured with. [`kept`]: a history as a file.
//! - [`health`]: when parts were at fault, and for how long that may be felt. [`timeline`]: when a device had a session for certain, and
//!   when it may have had one.
//! - [`rules`]: what must hold; each is one file. [`verdict`]: what didn't. [`story`]: all that happened to one device, for people.
//! - [`drive`]: makes a history of a running cluster.
//!
//! Everything but `drive` is pure. Invariants: a rule only speaks where it is certain, from before a call began until after it was
//! answered; each excuse is named in the rule that grants it, and counted; a fault excuses only what the architecture says that it may do.

pub mod drive;
pub mod health;
pub mod kept;
pub mod limits;
#[cfg(test)]
mod model;
pub mod record;
pub mod rules;
pub mod story;
pub mod timeline;
pub mod verdict;

pub use limits::Limits;
pub use record::History;
pub use verdict::{Verdict, judge};
