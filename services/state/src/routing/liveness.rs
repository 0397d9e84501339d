//! What a replica may say about an instance's devices. Pure: time is an argument.
//!
//! ```text
//!   Unknown ──connected──▶ Syncing ──snapshot done──▶ InSync
//!      │                    ▲     └──broken──▶ Suspect ◀──broken──┘
//!      │                    └────────connected────┘
//!      └──lost for dead_after──▶ Dead ◀──lost for dead_after, or its pod is known gone
//!                                 └──resume window over──▶ forgotten
//! ```
//!
//! "Offline" is a statement about *all* instances: it is made only while none of them could have the device without
//! our knowing.

use std::time::Duration;

use imaccess_common::clock::CoarseInstant;

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In the membership, never heard of.
    Unknown,
    /// Connected; its snapshot isn't complete.
    Syncing,
    /// All it knows is known here.
    InSync,
    /// Its stream broke: its devices may still be connected.
    Suspect,
    /// Nothing can be connected to it any more; its sessions may still resume elsewhere.
    Dead,
}

impl Phase {
    /// All phases, as labels of the metrics page.
    pub(crate) const ALL: [(Phase, &'static str); 5] = [
        (Phase::Unknown, "unknown"),
        (Phase::Syncing, "syncing"),
        (Phase::InSync, "in_sync"),
        (Phase::Suspect, "suspect"),
        (Phase::Dead, "dead"),
    ];
}

/// The patience a replica has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// From the loss of the stream until the instance is dead.
    pub(crate) dead_after: Duration,
    /// From death until its routes are dropped: its sessions may resume elsewhere meanwhile.
    pub(crate) resume_window: Duration,
}

/// The life of one instance as this replica sees it.
#[derive(Debug)]
pub(crate) struct Liveness {
    phase: Phase,
    /// Since when nothing complete is known; counts on through attempts that don't reach `InSync`.
    lost_at: CoarseInstant,
    dead_at: CoarseInstant,
    /// Everything it had was known when it ended: what has no route then wasn't there.
    complete: bool,
    forgotten: bool,
}

impl Liveness {
    /// It appeared in the membership.
    pub(crate) fn listed(now: CoarseInstant) -> Liveness {
        Liveness {
            phase: Phase::Unknown,
            lost_at: now,
            dead_at: now,
            complete: false,
            forgotten: false,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// It is in the membership again, after it had left.
    pub(crate) fn returned(&mut self, now: CoarseInstant) {
        *self = Liveness::listed(now);
    }

    /// A stream to it is open.
    pub(crate) fn connected(&mut self) {
        self.phase = Phase::Syncing;
        self.forgotten = false;
    }

    /// Its snapshot is complete; nothing if its stream was given up meanwhile.
    pub(crate) fn synced(&mut self) {
        if self.phase == Phase::Syncing {
            self.phase = Phase::InSync;
        }
    }

    /// Its stream ended.
    pub(crate) fn broken(&mut self, now: CoarseInstant) {
        if self.phase == Phase::InSync {
            self.lost_at = now;
        }
        if matches!(self.phase, Phase::InSync | Phase::Syncing) {
            self.phase = Phase::Suspect;
        }
    }

    /// It left the membership: its pod is known gone.
    pub(crate) fn gone(&mut self, now: CoarseInstant) {
        if self.phase != Phase::Dead {
            self.complete = self.phase == Phase::InSync;
            self.die(now);
        }
    }

    /// This replica has stood still for so long until now: it couldn't have heard the instance meanwhile, and nothing is held against it.
    pub(crate) fn stood_still(&mut self, still: Duration, now: CoarseInstant) {
        for since in [&mut self.lost_at, &mut self.dead_at] {
            *since = since.after(still).min(now);
        }
    }

    /// Time passed. Says whether its routes are to be dropped now; says it once.
    #[must_use]
    pub(crate) fn tick(&mut self, now: CoarseInstant, patience: Patience) -> bool {
        let lost = matches!(self.phase, Phase::Unknown | Phase::Suspect);
        if lost && now.since(self.lost_at) >= patience.dead_after {
            self.complete = false;
            self.die(now);
        }
        let over = self.phase == Phase::Dead && now.since(self.dead_at) >= patience.resume_window;
        over && !std::mem::replace(&mut self.forgotten, true)
    }

    /// Whether its routes were dropped, or are being.
    pub(crate) fn is_forgotten(&self) -> bool {
        self.forgotten
    }

    /// Whether a device without a route might be there all the same.
    pub(crate) fn may_hide_devices(&self) -> bool {
        match self.phase {
            Phase::InSync => false,
            Phase::Dead => !self.complete && !self.forgotten,
            Phase::Unknown | Phase::Syncing | Phase::Suspect => true,
        }
    }

    fn die(&mut self, now: CoarseInstant) {
        self.phase = Phase::Dead;
        self.dead_at = now;
        self.forgotten = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        dead_after: Duration::from_secs(100),
        resume_window: Duration::from_secs(30),
    };

    fn at(seconds: u64) -> CoarseInstant {
        CoarseInstant(seconds * 1_000)
    }

    #[test]
    fn a_broken_stream_is_suspect_until_it_is_dead_and_its_window_over() {
        let mut life = Liveness::listed(at(0));
        assert!(life.may_hide_devices());
        life.connected();
        assert!(life.may_hide_devices(), "half a snapshot proves nothing");
        life.synced();
        assert!(!life.may_hide_devices());
        assert!(!life.tick(at(500), PATIENCE));
        life.broken(at(500));
        assert!(!life.tick(at(599), PATIENCE));
        assert_eq!(life.phase(), Phase::Suspect);
        assert!(!life.tick(at(600), PATIENCE));
        assert_eq!(life.phase(), Phase::Dead);
        assert!(life.may_hide_devices(), "its sessions may resume");
        assert!(!life.tick(at(629), PATIENCE));
        assert!(life.tick(at(630), PATIENCE));
        assert!(!life.may_hide_devices());
        assert!(!life.tick(at(631), PATIENCE), "said once");
        life.connected();
        assert!(life.may_hide_devices() && !life.is_forgotten());
    }

    #[test]
    fn attempts_that_never_sync_do_not_prolong_its_life() {
        let mut life = Liveness::listed(at(0));
        for second in 0..99 {
            life.connected();
            life.broken(at(second));
            assert!(!life.tick(at(second), PATIENCE));
        }
        assert!(!life.tick(at(100), PATIENCE));
        assert_eq!(life.phase(), Phase::Dead);
    }

    #[test]
    fn a_pod_known_gone_hides_nothing_if_all_was_known() {
        let mut life = Liveness::listed(at(0));
        life.connected();
        life.synced();
        life.gone(at(10));
        assert_eq!(life.phase(), Phase::Dead);
        assert!(!life.may_hide_devices());
        assert!(
            !life.tick(at(39), PATIENCE),
            "its suspended sessions keep their routes"
        );
        assert!(life.tick(at(40), PATIENCE));

        let mut unheard = Liveness::listed(at(0));
        unheard.gone(at(10));
        assert!(unheard.may_hide_devices());
        assert!(unheard.tick(at(40), PATIENCE));
        assert!(!unheard.may_hide_devices());
        unheard.returned(at(50));
        assert_eq!(unheard.phase(), Phase::Unknown);
    }

    #[test]
    fn the_time_in_which_nobody_listened_counts_for_nothing() {
        let mut life = Liveness::listed(at(0));
        life.connected();
        life.synced();
        life.broken(at(10));
        life.stood_still(Duration::from_secs(300), at(320));
        // It was suspected for 10 s until the end of the standstill.
        assert!(!life.tick(at(409), PATIENCE));
        assert_eq!(life.phase(), Phase::Suspect);
        assert!(!life.tick(at(410), PATIENCE));
        assert_eq!(life.phase(), Phase::Dead);
        life.stood_still(Duration::from_secs(300), at(720));
        assert!(!life.tick(at(739), PATIENCE));
        assert!(life.tick(at(740), PATIENCE));
        // What began while it stood still began at its end.
        let mut late = Liveness::listed(at(1_000));
        late.stood_still(Duration::from_secs(300), at(1_001));
        assert!(!late.tick(at(1_100), PATIENCE));
        assert_eq!(late.phase(), Phase::Unknown);
    }
}
