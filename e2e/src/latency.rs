//! Round trips at a fixed rate, counted from the moment at which each request was due: a stall that delays the
//! next requests is counted for each of them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::raw_client::RawClient;

/// Rounds of a comparison; medians are taken over them.
pub const ROUNDS: usize = 5;

/// The load of one round.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Between two requests of one client.
    pub interval: Duration,
    /// How long.
    pub length: Duration,
    /// Which business, by id.
    pub business: u32,
    /// Bytes of each request.
    pub payload: usize,
}

/// The round trips of one round, sorted, in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<u64>);

impl Latencies {
    /// The round trip that this share of all stayed within.
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        if self.0.is_empty() {
            return f64::NAN;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        let micros = self.0[rank.clamp(1, self.0.len()) - 1];
        #[expect(clippy::cast_precision_loss, reason = "microseconds are far below 2^52")]
        let micros = micros as f64;
        micros
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// One load on all clients, which are given back.
///
/// # Errors
/// When a request isn't answered with its own payload.
pub async fn round(clients: &mut Vec<RawClient>, load: Load) -> Result<Latencies> {
    let mut tasks = JoinSet::new();
    let begin = Instant::now();
    let count = u32::try_from(clients.len()).context("clients")?.max(1);
    for (number, client) in clients.drain(..).enumerate() {
        // The clients' requests are spread over the interval, as those of real devices are.
        let offset = load.interval / count * u32::try_from(number).context("clients")?;
        tasks.spawn(drive(client, begin + offset, load));
    }
    let mut all = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        let (client, latencies) = ended.context("a client's task")??;
        clients.push(client);
        all.extend(latencies);
    }
    all.sort_unstable();
    Ok(Latencies(all))
}

async fn drive(mut client: RawClient, begin: Instant, load: Load) -> Result<(RawClient, Vec<u64>)> {
    let payload = vec![b'x'; load.payload];
    let (mut due, end) = (begin, begin + load.length);
    let mut latencies = Vec::new();
    while due < end {
        // A call that was due while the one before was under way has waited since then (coordinated omission). If
        // nothing was under way, only our own timer is late, by its milliseconds, which is nobody's latency.
        let waited = Instant::now() > due;
        sleep_until(due).await;
        let since = if waited { due } else { Instant::now() };
        let id = client.next_message_id();
        let (code, answer) = client.call(load.business, id, &payload).await?;
        if code != 0 || answer != payload {
            bail!(
                "a request was answered with code {code} and {} of {} bytes",
                answer.len(),
                payload.len()
            );
        }
        latencies.push(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX));
        due += load.interval;
    }
    Ok((client, latencies))
}

/// Two loads, compared round by round so that a drift of the machine hits both.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Median p99 without the disturbance, µs.
    pub calm_p99_us: f64,
    /// Median p99 with it, µs.
    pub disturbed_p99_us: f64,
    /// Round trips in total.
    pub count: usize,
}

impl Comparison {
    /// From the p99 of each round, and the number of round trips.
    #[must_use]
    pub fn new(mut calm: Vec<f64>, mut disturbed: Vec<f64>, count: usize) -> Self {
        Self {
            calm_p99_us: median(&mut calm),
            disturbed_p99_us: median(&mut disturbed),
            count,
        }
    }

    /// With ÷ without.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.disturbed_p99_us / self.calm_p99_us
    }
}

/// The middle one; not a number if there is none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let latencies = Latencies((1..=100).collect());
        assert!((latencies.quantile(0.99) - 99.0).abs() < f64::EPSILON);
        assert!((latencies.quantile(0.5) - 50.0).abs() < f64::EPSILON);
        assert!(Latencies::default().quantile(0.99).is_nan());
    }

    #[test]
    fn a_comparison_is_of_medians() {
        let comparison = Comparison::new(vec![1.0, 9.0, 2.0], vec![3.0, 4.0, 100.0], 6);
        assert!((comparison.ratio() - 2.0).abs() < f64::EPSILON);
    }
}
