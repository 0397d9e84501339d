//! How much each business may push: a token bucket each, for as many devices a second as its configuration says.
//!
//! Pure: time is an argument. A bucket is one point in time, that at which it is full again; a push moves it on by what the
//! push costs, and is refused if that would be further away than a full bucket lasts.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use imaccess_common::business::BusinessConfig;

use super::calls::DEVICES;

/// A bucket holds one second, and at least this much: one call of the most devices that a call may name.
const LEAST_BURST: u32 = DEVICES as u32;

/// A push is over the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exceeded {
    /// Devices a second.
    pub(crate) rate: u32,
    /// The same push is let through after this long, if nothing else is pushed.
    pub(crate) retry_after: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: u32,
    full_at: Instant,
}

/// The buckets of the businesses that have a limit.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    buckets: HashMap<u32, Bucket>,
}

// === impl Rates ===

impl Rates {
    /// Takes other businesses. What one has used up stays used up, also when its rate changes.
    pub(crate) fn set_businesses(&mut self, businesses: &[BusinessConfig], now: Instant) {
        let limited = businesses
            .iter()
            .filter(|business| business.push_rate > 0)
            .map(|business| (business.id, business.push_rate));
        let buckets = limited.map(|(id, rate)| {
            let full_at = self
                .buckets
                .get(&id)
                .map_or(now, |old| now + time_of(old.missing(now), rate));
            (id, Bucket { rate, full_at })
        });
        self.buckets = buckets.collect();
    }

    /// Takes what a push to `devices` devices costs from the business's bucket.
    pub(crate) fn take(&mut self, business: u32, devices: u32, now: Instant) -> Result<(), Exceeded> {
        let Some(bucket) = self.buckets.get_mut(&business) else {
            return Ok(());
        };
        let rate = bucket.rate;
        let full_at = bucket.full_at.max(now) + time_of(devices.into(), rate);
        let latest = now + time_of(rate.max(LEAST_BURST).into(), rate);
        if full_at > latest {
            let retry_after = full_at - latest;
            return Err(Exceeded { rate, retry_after });
        }
        bucket.full_at = full_at;
        Ok(())
    }

    /// Gives back what a push took that came to nothing.
    pub(crate) fn give_back(&mut self, business: u32, devices: u32) {
        if let Some(bucket) = self.buckets.get_mut(&business) {
            let time = time_of(devices.into(), bucket.rate);
            bucket.full_at = bucket.full_at.checked_sub(time).unwrap_or(bucket.full_at);
        }
    }
}

impl Bucket {
    /// Devices that were pushed and that time hasn't made up for yet.
    fn missing(&self, now: Instant) -> u64 {
        let until_full = self.full_at.saturating_duration_since(now).as_nanos();
        u64::try_from(until_full * u128::from(self.rate) / NANOS).unwrap_or(u64::MAX)
    }
}

/// How long it takes until `devices` may be pushed.
fn time_of(devices: u64, rate: u32) -> Duration {
    let nanos = u128::from(devices) * NANOS / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

const NANOS: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limited(rates: &[(u32, u32)]) -> Vec<BusinessConfig> {
        let business = |&(id, push_rate): &(u32, u32)| BusinessConfig {
            push_rate,
            ..BusinessConfig::new(id, &format!("b{id}"), "http://b:1")
        };
        rates.iter().map(business).collect()
    }

    fn rates(given: &[(u32, u32)], now: Instant) -> Rates {
        let mut rates = Rates::default();
        rates.set_businesses(&limited(given), now);
        rates
    }

    #[test]
    fn a_full_call_passes_and_the_next_waits_for_its_share() {
        let now = Instant::now();
        let mut rates = rates(&[(1, 100), (2, 0)], now);
        assert_eq!(rates.take(1, 10_000, now), Ok(()));
        let exceeded = |seconds| {
            Err(Exceeded {
                rate: 100,
                retry_after: Duration::from_secs_f64(seconds),
            })
        };
        assert_eq!(rates.take(1, 1, now), exceeded(0.01));
        assert_eq!(rates.take(1, 500, now), exceeded(5.0));
        let later = now + Duration::from_secs(2);
        assert_eq!(rates.take(1, 500, later), exceeded(3.0));
        assert_eq!(rates.take(1, 200, later), Ok(()));
        assert_eq!(rates.take(1, 1, later), exceeded(0.01));
        // Others aren't limited by it, nor who isn't listed.
        for _ in 0..10 {
            assert_eq!(rates.take(2, 10_000, now), Ok(()));
            assert_eq!(rates.take(99, 10_000, now), Ok(()));
        }
        // A bucket holds no more than its burst, however long nothing was pushed.
        let much_later = now + Duration::from_secs(1_000_000);
        assert_eq!(rates.take(1, 10_000, much_later), Ok(()));
        assert!(rates.take(1, 1, much_later).is_err());
    }

    #[test]
    fn a_high_rate_holds_one_second() {
        let now = Instant::now();
        let mut rates = rates(&[(1, 50_000)], now);
        for _ in 0..5 {
            assert_eq!(rates.take(1, 10_000, now), Ok(()));
        }
        let refused = rates.take(1, 10_000, now).unwrap_err();
        assert_eq!(refused.retry_after, Duration::from_millis(200));
    }

    #[test]
    fn what_came_to_nothing_costs_nothing() {
        let now = Instant::now();
        let mut rates = rates(&[(1, 1)], now);
        assert_eq!(rates.take(1, 10_000, now), Ok(()));
        rates.give_back(1, 10_000);
        assert_eq!(rates.take(1, 10_000, now), Ok(()));
        rates.give_back(2, 10_000);
        // More than was taken fills no bucket beyond its burst.
        rates.give_back(1, 10_000);
        rates.give_back(1, 10_000);
        assert_eq!(rates.take(1, 10_000, now), Ok(()));
        assert!(rates.take(1, 1, now).is_err());
    }

    #[test]
    fn another_list_forgets_nothing() {
        let now = Instant::now();
        let mut rates = rates(&[(1, 100), (2, 100)], now);
        assert_eq!(rates.take(1, 10_000, now), Ok(()));
        rates.set_businesses(&limited(&[(1, 1_000), (2, 100)]), now);
        let refused = rates.take(1, 10_000, now).unwrap_err();
        assert_eq!(
            (refused.rate, refused.retry_after),
            (1_000, Duration::from_secs(10))
        );
        assert_eq!(rates.take(2, 10_000, now), Ok(()));
        rates.set_businesses(&limited(&[(1, 0)]), now);
        assert_eq!(rates.take(1, 10_000, now), Ok(()));
        assert_eq!(rates.take(2, 10_000, now), Ok(()));
    }

    proptest! {
        /// Over any time, no more than the burst and the rate of that time gets through; and who waits as told gets through.
        #[test]
        fn never_more_than_burst_and_rate(
            rate in 1_u32..40_000,
            calls in prop::collection::vec((1_u32..=10_000, 0_u64..2_000), 1..100),
        ) {
            let start = Instant::now();
            let mut rates = rates(&[(1, rate)], start);
            let (mut now, mut through) = (start, 0_u64);
            for (devices, pause_ms) in calls {
                now += Duration::from_millis(pause_ms);
                match rates.take(1, devices, now) {
                    Ok(()) => through += u64::from(devices),
                    Err(exceeded) => {
                        now += exceeded.retry_after + Duration::from_nanos(1);
                        prop_assert_eq!(rates.take(1, devices, now), Ok(()));
                        through += u64::from(devices);
                    }
                }
                let burst = f64::from(rate.max(LEAST_BURST));
                let most = burst + f64::from(rate) * (now - start).as_secs_f64() + 1.0;
                prop_assert!(through as f64 <= most, "{} are more than {}", through, most);
            }
        }
    }
}
