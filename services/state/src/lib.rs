//! The state part of imaccess, in two roles: both are about where a session is and what it is owed.
//!
//! - **sidecar** ([`sidecar`], [`session`], [`business`]): the session layer of one gateway pod. Logins, the
//!   session machine, uplink to businesses, connection events, and the announcements that feed the routes. And the
//!   custody of the gateway's sockets, so that the gateway can be replaced.
//! - **routing** ([`routing`]): the index over all sidecars, and the push API for businesses.
//!
//! Invariants: the sidecars are the truth about sessions, routing is rebuilt from them; what decides
//! ([`session::machine`]) awaits nothing and reads no clock; a dependency's outage never closes a client's
//! connection.

mod accepted;
pub mod business;
mod config;
mod custody;
mod reload;
pub mod routing;
pub mod session;
pub mod sidecar;

/// The throw-away authorities of `imaccess-common`'s tests: its own test code is no part of its library.
#[cfg(test)]
#[path = "../../common/src/tls/tests/authority.rs"]
mod authority;
