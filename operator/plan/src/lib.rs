//! What a cluster should look like: a pure function from what is [observed](observed::Observed) to a [plan](plan::Plan).
//!
//! Nothing here does I/O, reads a clock or makes random bytes; the controller gathers, calls [`plan()`], and carries out.

pub mod observed;
pub mod plan;

pub use observed::Observed;
pub use plan::Plan;
