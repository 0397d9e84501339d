//! Which gateway pods there are: one watch of a namespace's pods by label, shared by ipconfig and routing.
//!
//! [`Roster`] (pure) folds the API server's events into snapshots; [`PodWatch`] runs the watch and publishes them.
//!
//! Invariants: nothing is known before the first complete list; when the API server is away or refuses, the last
//! snapshot stands, however long; a snapshot is never half a list.

mod health;
mod pod;
mod roster;
mod watch;

pub use health::WatchHealth;
pub use pod::{Phase, Pod, Pods};
pub use roster::Roster;
pub use watch::{ConnectError, PodSource, PodWatch};
