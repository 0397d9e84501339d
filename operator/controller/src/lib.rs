//! Observes, plans, applies: the only part of imaccess that writes to Kubernetes.
//!
//! ```text
//!   watches ──▶ reconcile ── observe ──▶ plan (pure, its own crate) ──▶ apply ──▶ status, Events
//!                                                                        │
//!                                   leader: lease ──▶ gate ◀─────────────┘  every write passes the gate
//! ```
//!
//! [`app`] puts it together; [`reconcile`] is one pass over one cluster; [`leader`] says whether this process may write at all;
//! [`authority`] makes certificates, and [`secrets`] brings them to where they belong.

pub mod app;
pub mod apply;
pub mod authority;
pub mod backoff;
pub mod clock;
mod contents;
pub mod error;
pub mod failure;
pub mod gateways;
pub mod health;
pub mod kinds;
pub mod leader;
pub mod memory;
pub mod metrics;
pub mod observe;
pub mod reconcile;
pub mod secrets;
pub mod upgrade;
pub mod watches;

#[cfg(test)]
mod testing;

pub use app::{Options, RunError, run};
pub use authority::Lifetimes;
pub use reconcile::Planner;
