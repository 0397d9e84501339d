//! How many messages a second go to a business: a token bucket that costs one number.

use std::time::Duration;

/// Tokens for a second without use are kept, so that a burst of that much passes at once.
const BURST_NANOS: u64 = 1_000_000_000;

/// A bucket: it is full at first, and whenever a second has passed without use.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// When all tokens that were taken will have come back, in nanoseconds.
    level: u64,
}

impl Bucket {
    /// Takes a token of `rate` a second, of which each of `sharers` has an equal part; 0: as many as are wanted. Else how long until
    /// there is one.
    pub(super) fn take(&mut self, rate: u32, sharers: u32, now_micros: u64) -> Result<(), Duration> {
        if rate == 0 {
            return Ok(());
        }
        let interval = BURST_NANOS * u64::from(sharers.max(1)) / u64::from(rate);
        let now = now_micros.saturating_mul(1_000);
        let level = self.level.max(now) + interval;
        // A part of less than one token a second still has one to begin with.
        let depth = BURST_NANOS.max(interval);
        if level - now > depth {
            return Err(Duration::from_nanos(level - now - depth));
        }
        self.level = level;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many of `wanted` at this moment pass.
    fn passes(bucket: &mut Bucket, rate: u32, sharers: u32, now: u64, wanted: u32) -> u32 {
        (0..wanted)
            .filter(|_| bucket.take(rate, sharers, now).is_ok())
            .count() as u32
    }

    #[test]
    fn a_second_of_it_at_once_and_then_the_rate() {
        let mut bucket = Bucket::default();
        assert_eq!(passes(&mut bucket, 100, 1, 5_000_000, 1_000), 100);
        assert_eq!(bucket.take(100, 1, 5_000_000), Err(Duration::from_millis(10)));
        assert_eq!(passes(&mut bucket, 100, 1, 5_100_000, 1_000), 10);
        assert_eq!(
            passes(&mut bucket, 100, 1, 60_000_000, 1_000),
            100,
            "no more is kept"
        );
    }

    #[test]
    fn workers_share_it() {
        let mut buckets: Vec<Bucket> = (0..4).map(|_| Bucket::default()).collect();
        let all = |buckets: &mut Vec<Bucket>, now| -> u32 {
            buckets
                .iter_mut()
                .map(|bucket| passes(bucket, 100, 4, now, 1_000))
                .sum()
        };
        assert_eq!(all(&mut buckets, 0), 100);
        assert_eq!(all(&mut buckets, 1_000_000), 100);
    }

    #[test]
    fn a_rate_below_one_for_each_still_lets_some_through() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(1, 4, 0), Ok(()));
        assert_eq!(bucket.take(1, 4, 1_000_000), Err(Duration::from_secs(3)));
        assert_eq!(bucket.take(1, 4, 4_000_000), Ok(()));
        assert_eq!(Bucket::default().take(1, 0, 0), Ok(()));
    }

    #[test]
    fn none_is_no_limit() {
        let mut bucket = Bucket::default();
        assert_eq!(passes(&mut bucket, 0, 2, 0, 100_000), 100_000);
    }

    proptest! {
        /// Over any span no more pass than a burst and the rate, and who waits as told gets through.
        #[test]
        fn the_rate_holds(rate in 1u32..5_000, sharers in 1u32..9, steps in prop::collection::vec((0u64..400_000, 0u32..300), 1..60)) {
            let mut bucket = Bucket::default();
            let (mut now, mut passed) = (0u64, 0u64);
            for (span, wanted) in steps {
                now += span;
                passed += u64::from(passes(&mut bucket, rate, sharers, now, wanted));
                let share = f64::from(rate) / f64::from(sharers);
                let most = share.max(1.0) + share * now as f64 / 1e6 + 1.0;
                prop_assert!(passed as f64 <= most, "{passed} of {most}");
                if let Err(wait) = bucket.take(rate, sharers, now) {
                    now += wait.as_micros() as u64 + 1;
                    prop_assert_eq!(bucket.take(rate, sharers, now), Ok(()));
                }
                passed += 1;
            }
        }
    }
}
