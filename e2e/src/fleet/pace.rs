//! At which pace many were told the same thing.

use std::time::Duration;

/// The pace of some moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// How many moments.
    pub count: usize,
    /// From the first to the last, in seconds.
    pub seconds: f64,
    /// The most within any second.
    pub most_in_a_second: usize,
}

impl Pace {
    /// Of these moments, in any order.
    #[must_use]
    pub fn of(moments: &[Duration]) -> Self {
        let mut moments = moments.to_vec();
        moments.sort_unstable();
        let mut most = 0;
        let mut first = 0;
        for (last, moment) in moments.iter().enumerate() {
            while *moment - moments[first] >= Duration::from_secs(1) {
                first += 1;
            }
            most = most.max(last + 1 - first);
        }
        let span = match (moments.first(), moments.last()) {
            (Some(first), Some(last)) => *last - *first,
            _ => Duration::ZERO,
        };
        Self {
            count: moments.len(),
            seconds: span.as_secs_f64(),
            most_in_a_second: most,
        }
    }

    /// Per second, over the whole time; not a number for less than two moments.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        if self.count < 2 || self.seconds <= 0.0 {
            return f64::NAN;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let intervals = (self.count - 1) as f64;
        intervals / self.seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_pace_is_its_rate() {
        let moments: Vec<_> = (0..=100)
            .map(|number| Duration::from_millis(number * 20))
            .collect();
        let pace = Pace::of(&moments);
        assert_eq!((pace.count, pace.most_in_a_second), (101, 50));
        assert!((pace.per_second() - 50.0).abs() < 1e-9, "{pace:?}");
    }

    #[test]
    fn a_burst_is_seen_wherever_it_is() {
        let mut moments: Vec<_> = (0..10).map(Duration::from_secs).collect();
        moments.extend((0..30).map(|number| Duration::from_millis(4_500 + number)));
        let pace = Pace::of(&moments);
        assert_eq!(pace.most_in_a_second, 31);
    }

    #[test]
    fn nothing_has_no_pace() {
        assert_eq!(Pace::of(&[]).count, 0);
        assert!(Pace::of(&[Duration::ZERO]).per_second().is_nan());
    }
}
