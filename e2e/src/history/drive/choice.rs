//! What is done next, by chance. Pure: chance is an argument.

use std::time::Duration;

use fastrand::Rng;

use crate::history::limits::Limits;
use crate::history::record::FaultKind;

/// How a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Temper {
    /// It stays until it is sent away, and comes back at once.
    Steady,
    /// It comes and goes.
    Restless,
}

impl Temper {
    /// Two of five are steady: "was connected throughout" needs somebody who is.
    pub(super) fn of(random: &mut Rng) -> Self {
        if random.u8(..5) < 2 {
            Self::Steady
        } else {
            Self::Restless
        }
    }
}

/// What a connected device does when its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parting {
    /// It says goodbye.
    Leave,
    /// It is gone without a word.
    Cut,
    /// It logs in once more, with its ticket or without, and keeps reading the old connection.
    Elsewhere {
        /// With the ticket.
        resume: bool,
    },
}

impl Parting {
    pub(super) fn by(random: &mut Rng) -> Self {
        match random.u8(..10) {
            0..3 => Self::Leave,
            3..7 => Self::Cut,
            _ => Self::Elsewhere {
                resume: random.bool(),
            },
        }
    }
}

fn between(random: &mut Rng, from: Duration, to: Duration) -> Duration {
    from + (to - from).mul_f64(random.f64())
}

/// How long a restless device stays.
pub(super) fn stay(random: &mut Rng) -> Duration {
    let most = if random.u8(..4) == 0 { 30.0 } else { 6.0 };
    Duration::from_secs_f64(0.05 + most * random.f64())
}

/// How long it is away: within the resume window, around its end, or well beyond.
pub(super) fn absence(random: &mut Rng, limits: &Limits) -> Duration {
    let window = limits.resume_window;
    match random.u8(..4) {
        0 | 1 => between(random, Duration::from_millis(5), window / 2),
        2 => between(random, window.mul_f64(0.8), window.mul_f64(1.3)),
        _ => between(random, window + limits.news(), window * 4 + limits.news()),
    }
}

/// How long a client waits for the answer to its LOGIN: some are impatient.
pub(super) fn patience(random: &mut Rng) -> Duration {
    match random.u8(..10) {
        0 => Duration::from_millis(random.u64(1..200)),
        1 => Duration::from_secs(1),
        _ => Duration::from_secs(7),
    }
}

/// The pause after a login that failed.
pub(super) fn backoff(random: &mut Rng) -> Duration {
    between(random, Duration::from_millis(100), Duration::from_millis(800))
}

/// The time until the next of things that happen so often per second, independently of each other.
pub(super) fn gap(random: &mut Rng, per_second: f64) -> Duration {
    // 1 − u is never 0.
    let wait = -(1.0 - random.f64()).ln() / per_second.max(1e-6);
    Duration::from_secs_f64(wait.min(3_600.0))
}

/// Which faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// All kinds, of all parts.
    Everything,
    /// Pauses of routing replicas, from which they come back with routes of the past: too short for them to know that they stood still.
    RoutingPauses,
}

/// What is to be done to which part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Blow {
    /// To the gateway of a pod.
    Gateway(FaultKind, Duration),
    /// To its state.
    State(FaultKind, Duration),
    /// Both are killed: the pod's loss.
    Pod,
    /// To a replica.
    Routing(FaultKind, Duration),
}

impl Blow {
    pub(super) fn by(random: &mut Rng, mix: Mix, limits: &Limits) -> Self {
        let pause = pause(random, limits);
        let kind = if random.bool() {
            FaultKind::Kill
        } else {
            FaultKind::Pause
        };
        if mix == Mix::RoutingPauses {
            let short = limits.suspect_after.mul_f64(0.5 + 0.45 * random.f64());
            return Self::Routing(FaultKind::Pause, short);
        }
        match random.u8(..100) {
            0..38 => Self::Gateway(kind, pause),
            38..76 => Self::State(kind, pause),
            76..80 => Self::Pod,
            _ => Self::Routing(kind, pause),
        }
    }
}

/// How long a part is stopped: on either side of one of the limits, or for a moment.
fn pause(random: &mut Rng, limits: &Limits) -> Duration {
    let edges = limits.edges();
    let edge = edges[random.usize(..edges.len())];
    match random.u8(..3) {
        0 => between(random, Duration::from_millis(50), Duration::from_millis(300)),
        1 => edge.mul_f64(0.3 + 0.65 * random.f64()),
        _ => edge.mul_f64(1.05 + 0.5 * random.f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_lie_on_both_sides_of_each_limit() {
        let limits = Limits::default();
        let mut random = Rng::with_seed(1);
        let pauses: Vec<Duration> = (0..2_000).map(|_| pause(&mut random, &limits)).collect();
        for edge in limits.edges() {
            let near = |from: f64, to: f64| {
                let (from, to) = (edge.mul_f64(from), edge.mul_f64(to));
                pauses
                    .iter()
                    .filter(|pause| **pause > from && **pause < to)
                    .count()
            };
            assert!(near(0.5, 1.0) > 30 && near(1.0, 1.5) > 30, "{edge:?}");
        }
        let moments = pauses
            .iter()
            .filter(|pause| **pause <= Duration::from_millis(300));
        assert!(
            moments.count() > 500,
            "each has its share, whatever the limits are"
        );
    }

    #[test]
    fn absences_lie_on_both_sides_of_the_window() {
        let limits = Limits::default();
        let mut random = Rng::with_seed(2);
        let absences: Vec<Duration> = (0..1_000).map(|_| absence(&mut random, &limits)).collect();
        let short = absences
            .iter()
            .filter(|time| **time < limits.resume_window)
            .count();
        assert!(short > 300 && short < 900, "{short}");
    }

    #[test]
    fn gaps_have_the_mean_that_was_asked_for() {
        let mut random = Rng::with_seed(3);
        let sum: Duration = (0..10_000).map(|_| gap(&mut random, 20.0)).sum();
        assert!((sum.as_secs_f64() / 500.0 - 1.0).abs() < 0.1, "{sum:?}");
    }
}
