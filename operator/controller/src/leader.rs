//! Which of several operators writes.
//!
//! ```text
//!   lease.rs ── reads and renews a Lease ──▶ evaluate.rs (pure) ── until when ──▶ gate.rs ── refuses writes after that
//! ```
//!
//! Safety rests on three things. A candidate takes a lease only when *it* has watched the same record for the lease's whole
//! duration, by its own clock, and by a PUT with the resource version that it read. The holder counts from *before* it sent
//! its last successful renewal, so its own view is never later than anybody else's. And it sends nothing that might still be
//! under way after two thirds of the duration: the gate lets a write through only if its timeout ends before then. The last
//! third is for what a clock's rate, or a packet in the network, may be off.

pub mod evaluate;
pub mod gate;
pub mod lease;

#[cfg(test)]
mod simulation;
