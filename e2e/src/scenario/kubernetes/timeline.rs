//! How one gateway stood over time: looks in, moments out. Pure.

use std::time::Duration;

/// One look at a gateway's standing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Look {
    /// When.
    pub(super) at: Duration,
    /// Its dynamic score.
    pub(super) score: Option<f64>,
    /// Its mean rate in MB/s.
    pub(super) rate: Option<f64>,
    /// Its place in an answer to a client, from 0, if one was asked for and it was in it.
    pub(super) place: Option<usize>,
    /// How many were in that answer; 0 if none was asked for.
    pub(super) places: usize,
}

/// Looks in the order of time.
#[derive(Clone, Debug, Default)]
pub(super) struct Timeline(Vec<Look>);

impl Timeline {
    pub(super) fn new(looks: Vec<Look>) -> Self {
        Self(looks)
    }

    pub(super) fn looks(&self) -> usize {
        self.0.len()
    }

    /// The looks from one moment until before another.
    pub(super) fn between(&self, from: Duration, to: Duration) -> Self {
        let within = self.0.iter().filter(|look| look.at >= from && look.at < to);
        Self(within.cloned().collect())
    }

    fn answers(&self) -> impl DoubleEndedIterator<Item = &Look> {
        self.0.iter().filter(|look| look.places > 0)
    }

    /// Answers in which it wasn't the first.
    pub(super) fn not_first(&self) -> u64 {
        self.answers().filter(|look| look.place != Some(0)).count() as u64
    }

    /// From when on every answer had it first; nothing if the last hadn't.
    pub(super) fn always_first_from(&self) -> Option<Duration> {
        self.always_from(|look| look.place == Some(0))
    }

    /// From when on every answer had it last.
    pub(super) fn always_last_from(&self) -> Option<Duration> {
        self.always_from(|look| {
            look.place
                .is_some_and(|place| place > 0 && place + 1 == look.places)
        })
    }

    fn always_from(&self, holds: impl Fn(&Look) -> bool) -> Option<Duration> {
        let held = self.answers().rev().take_while(|look| holds(look));
        held.last().map(|look| look.at)
    }

    /// The lowest score; not a number if there is none.
    pub(super) fn lowest(&self) -> f64 {
        self.0
            .iter()
            .filter_map(|look| look.score)
            .fold(f64::NAN, f64::min)
    }

    /// The last score.
    pub(super) fn last_score(&self) -> f64 {
        self.0
            .iter()
            .rev()
            .find_map(|look| look.score)
            .unwrap_or(f64::NAN)
    }

    /// The highest mean rate, in MB/s.
    pub(super) fn highest_rate(&self) -> f64 {
        self.0
            .iter()
            .filter_map(|look| look.rate)
            .fold(f64::NAN, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: u64, place: Option<usize>, score: f64) -> Look {
        Look {
            at: Duration::from_secs(at),
            score: Some(score),
            rate: Some(at as f64),
            place,
            places: place.map_or(0, |_| 2),
        }
    }

    #[test]
    fn the_moment_counts_from_which_on_it_holds() {
        let timeline = Timeline::new(vec![
            look(0, Some(0), 1.0),
            look(1, Some(1), 0.98),
            look(2, Some(0), 0.98),
            look(3, Some(1), 0.98),
            look(4, None, 0.97),
            look(5, Some(1), 0.98),
        ]);
        assert_eq!(timeline.always_last_from(), Some(Duration::from_secs(3)));
        assert_eq!(timeline.always_first_from(), None);
        assert_eq!(timeline.not_first(), 3);
        assert_eq!((timeline.lowest(), timeline.last_score()), (0.97, 0.98));
        let early = timeline.between(Duration::ZERO, Duration::from_secs(1));
        assert_eq!(
            (early.always_first_from(), early.looks()),
            (Some(Duration::ZERO), 1)
        );
        assert!((timeline.highest_rate() - 5.0).abs() < f64::EPSILON);
    }

    #[test]
    fn nothing_holds_of_no_looks() {
        let nothing = Timeline::default();
        assert_eq!((nothing.always_last_from(), nothing.not_first()), (None, 0));
        assert!(nothing.lowest().is_nan() && nothing.last_score().is_nan());
    }
}
