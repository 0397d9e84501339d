//! The times that a cluster was configured with, and what an observer allows for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Times by which a history is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// How long a session without a connection may be resumed.
    pub resume_window: Duration,
    /// From when gateway or state is away until the other one ends the clients' connections: the same for both.
    pub dead_man: Duration,
    /// From when an instance isn't heard until it is dead.
    pub dead_after: Duration,
    /// From when a part is silent until the one that listens takes it for gone.
    pub suspect_after: Duration,
    /// From when a routing replica is silent until sidecars go on without its confirmation.
    pub follower_silence: Duration,
    /// How late the cluster may be on a busy machine, beside all these.
    pub slack: Duration,
    /// How late an observer may be: a client that reads, the writing down of a time.
    pub lag: Duration,
}

impl Default for Limits {
    /// Shortened, and in the order that the architecture asks for: a connection ends before its instance is taken for dead, whoever of
    /// the two is away.
    fn default() -> Self {
        Self {
            resume_window: Duration::from_secs(3),
            dead_man: Duration::from_secs(4),
            dead_after: Duration::from_millis(6_500),
            suspect_after: Duration::from_secs(1),
            follower_silence: Duration::from_secs(30),
            slack: Duration::from_secs(2),
            lag: Duration::from_secs(1),
        }
    }
}

impl Limits {
    /// How long news may be on their way: a replica hears of a login at once, and takes a sidecar that says nothing for well until it
    /// suspects it.
    #[must_use]
    pub fn news(&self) -> Duration {
        self.suspect_after + self.slack
    }

    /// From when a session lost its connection until it is over, whatever one fault does meanwhile.
    #[must_use]
    pub fn ghost(&self) -> Duration {
        self.dead_after + self.resume_window + self.slack
    }

    /// Pauses worth trying: each is what something waits for.
    #[must_use]
    pub fn edges(&self) -> [Duration; 5] {
        [
            self.suspect_after,
            self.resume_window,
            self.dead_man,
            self.dead_after,
            self.dead_after + self.resume_window,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_ends_before_its_instance_is_dead() {
        let limits = Limits::default();
        // Noticing takes as long as suspecting does.
        assert!(limits.dead_man + limits.suspect_after < limits.dead_after);
        assert!(limits.suspect_after < limits.resume_window);
        assert!(limits.lag < limits.resume_window);
    }
}
