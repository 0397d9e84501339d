//! What is computed from the measurements. Pure, so that the figures can be checked by hand.

use std::time::Duration;

/// CPU per bare echo, in microseconds, on machines whose figures may be compared with the published ones.
pub(crate) const COMPARABLE_BARE_ECHO_US: std::ops::RangeInclusive<f64> = 3.5..=7.0;

/// The middle value, or the mean of the two in the middle; 0 for none.
#[must_use]
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

/// Microseconds per operation; 0 when there was none.
#[must_use]
pub(crate) fn us_per(spent: Duration, operations: u64) -> f64 {
    if operations == 0 {
        0.0
    } else {
        spent.as_secs_f64() * 1e6 / operations as f64
    }
}

/// `ours` ÷ `bare`; 0 when there is nothing to compare with.
#[must_use]
pub(crate) fn ratio(ours: f64, bare: f64) -> f64 {
    if bare > 0.0 { ours / bare } else { 0.0 }
}

/// Operations per second of one core, from the microseconds that one takes.
#[must_use]
pub(crate) fn per_core(us_per_operation: f64) -> f64 {
    if us_per_operation > 0.0 {
        1e6 / us_per_operation
    } else {
        0.0
    }
}

/// Share of one core, in percent.
#[must_use]
pub(crate) fn cpu_percent(spent: Duration, window: Duration) -> f64 {
    if window.is_zero() {
        0.0
    } else {
        100.0 * spent.as_secs_f64() / window.as_secs_f64()
    }
}

/// Bytes per connection, seen in two ways. What a process takes in steps (tables that double) hides in one or
/// the other, so the larger one counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Slopes {
    /// From a third of the connections to all of them.
    pub(crate) upper: f64,
    /// From none to all of them.
    pub(crate) whole: f64,
}

impl Slopes {
    /// From the bytes held with no connection, with `third` and with `all` of them.
    #[must_use]
    pub(crate) fn of(start: u64, at_third: u64, at_all: u64, third: u64, all: u64) -> Self {
        let slope = |from: u64, to: u64, connections: u64| {
            if connections == 0 {
                0.0
            } else {
                (to as f64 - from as f64) / connections as f64
            }
        };
        Self {
            upper: slope(at_third, at_all, all - third),
            whole: slope(start, at_all, all),
        }
    }

    /// The larger of the two.
    #[must_use]
    pub(crate) fn larger(self) -> f64 {
        self.upper.max(self.whole)
    }
}

/// Splits `total` over `parts` as evenly as it goes.
#[must_use]
pub(crate) fn shares(total: u64, parts: u64) -> Vec<u64> {
    (0..parts)
        .map(|part| total / parts + u64::from(part < total % parts))
        .collect()
}

/// Rounds to what a reader can use: two decimals, four below 1.
#[must_use]
pub(crate) fn readable(value: f64) -> f64 {
    let scale = if value.abs() < 1.0 { 10_000.0 } else { 100.0 };
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([]), 0.0);
        assert_eq!(median([3.0]), 3.0);
        assert_eq!(median([9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median([4.0, 1.0, 2.0, 100.0]), 3.0);
    }

    #[test]
    fn costs_are_per_operation_and_never_divide_by_zero() {
        assert_eq!(us_per(Duration::from_millis(5), 1_000), 5.0);
        assert_eq!(us_per(Duration::from_secs(1), 0), 0.0);
        assert_eq!(ratio(6.0, 4.0), 1.5);
        assert_eq!(ratio(6.0, 0.0), 0.0);
        assert_eq!(per_core(20.0), 50_000.0);
        assert_eq!(per_core(0.0), 0.0);
        assert_eq!(
            cpu_percent(Duration::from_millis(30), Duration::from_secs(2)),
            1.5
        );
        assert_eq!(cpu_percent(Duration::from_secs(1), Duration::ZERO), 0.0);
    }

    #[test]
    fn the_larger_slope_counts() {
        // A table allocated at once for everything: the upper slope alone would not see it.
        let table = Slopes::of(1_000, 4_000, 4_000, 100, 300);
        assert_eq!(
            table,
            Slopes {
                upper: 0.0,
                whole: 10.0
            }
        );
        assert_eq!(table.larger(), 10.0);
        // A table that doubled late: the whole slope would spread it.
        let late = Slopes::of(1_000, 1_100, 3_100, 100, 300);
        assert_eq!(
            late,
            Slopes {
                upper: 10.0,
                whole: 7.0
            }
        );
        assert_eq!(late.larger(), 10.0);
        // Memory that was given back is a negative slope, not an overflow.
        assert_eq!(Slopes::of(500, 400, 300, 100, 300).whole, -200.0 / 300.0);
    }

    #[test]
    fn shares_add_up() {
        assert_eq!(shares(10, 3), [4, 3, 3]);
        assert_eq!(shares(2, 3), [1, 1, 0]);
        assert_eq!(shares(50_000, 3).iter().sum::<u64>(), 50_000);
    }

    #[test]
    fn small_figures_keep_their_digits() {
        assert_eq!(readable(1.234_9), 1.23);
        assert_eq!(readable(-12.346), -12.35);
        assert_eq!(readable(0.091_26), 0.0913);
    }
}
