//! Five seconds of one gateway: a sliding window by time, not by number of samples.
//!
//! Pure. It is read as of its newest sample, so that a gateway which can't be scraped for a moment keeps its last
//! figures instead of losing them sample by sample.
//!
//! Scrapes aren't exactly a second apart: of six that should span five seconds, the first is as often a millisecond too
//! old as not. Were it dropped, a burst within the other four seconds would count a quarter more. So the last sample
//! beyond the window is kept, and the bytes at the window's very beginning are interpolated.

use std::collections::VecDeque;
use std::time::Duration;

use imaccess_common::clock::CoarseInstant;

/// Samples kept at most, however short the scrape interval: 5 s at 20 ms.
const MAX_SAMPLES: usize = 256;

/// What one scrape of a gateway showed, and how often it had been answered first until then.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// When the scrape began.
    pub(crate) at: CoarseInstant,
    /// Live connections.
    pub(crate) connections: f64,
    /// Bytes sent since the gateway started.
    pub(crate) sent_bytes: f64,
    /// Clients sent there by this ipconfig since it knows the gateway.
    pub(crate) answers: u64,
}

/// The samples of the last `length`.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    length: Duration,
    samples: VecDeque<Sample>,
    /// The newest sample older than those, if it isn't older than twice the length.
    before: Option<Sample>,
}

/// What a window says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Means {
    /// Mean number of connections.
    pub(crate) connections: f64,
    /// Mean outbound bytes per second; 0 while there is one sample.
    pub(crate) rate: f64,
    /// Connections at the window's beginning.
    pub(crate) first_connections: f64,
    /// [`Sample::answers`] at the window's beginning.
    pub(crate) first_answers: u64,
}

impl Window {
    /// An empty window.
    pub(crate) fn new(length: Duration) -> Window {
        Window {
            length,
            samples: VecDeque::new(),
            before: None,
        }
    }

    /// Takes a sample, newer than the last; older than `length` before it falls out.
    ///
    /// A counter that went back means that the gateway was restarted: what came before says nothing of it.
    pub(crate) fn push(&mut self, sample: Sample) {
        if self
            .samples
            .back()
            .is_some_and(|last| sample.sent_bytes < last.sent_bytes || sample.at <= last.at)
        {
            self.samples.clear();
            self.before = None;
        }
        self.samples.push_back(sample);
        while self.samples.len() > MAX_SAMPLES
            || self
                .samples
                .front()
                .is_some_and(|first| sample.at.since(first.at) > self.length)
        {
            self.before = self.samples.pop_front();
        }
        self.before = self
            .before
            .filter(|before| sample.at.since(before.at) <= 2 * self.length);
    }

    /// The means as of the newest sample; none before the first.
    pub(crate) fn means(&self) -> Option<Means> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let connections = self.samples.iter().map(|sample| sample.connections).sum::<f64>();
        let (begin, bytes) = self.beginning(first, last);
        let elapsed = last.at.since(begin).as_secs_f64();
        let rate = if elapsed > 0.0 {
            (last.sent_bytes - bytes) / elapsed
        } else {
            0.0
        };
        Some(Means {
            connections: connections / self.samples.len() as f64,
            rate,
            first_connections: first.connections,
            first_answers: first.answers,
        })
    }

    /// The window's beginning, and the bytes sent until then: interpolated if there is a sample from before, else of
    /// the first there is.
    fn beginning(&self, first: &Sample, last: &Sample) -> (CoarseInstant, f64) {
        let Some(before) = self.before else {
            return (first.at, first.sent_bytes);
        };
        // With more samples than are kept, the window is as long as they are.
        let begin = CoarseInstant(
            last.at
                .0
                .saturating_sub(u64::try_from(self.length.as_millis()).unwrap_or(u64::MAX)),
        )
        .max(before.at);
        let span = first.at.since(before.at).as_secs_f64();
        let share = begin.since(before.at).as_secs_f64() / span;
        let bytes = before.sent_bytes + (first.sent_bytes - before.sent_bytes) * share;
        (begin, bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(ms: u64, connections: f64, sent_bytes: f64) -> Sample {
        Sample {
            at: CoarseInstant(ms),
            connections,
            sent_bytes,
            answers: ms,
        }
    }

    #[test]
    fn few_samples_are_a_mean_of_few() {
        let mut window = Window::new(Duration::from_secs(5));
        assert_eq!(window.means(), None);
        window.push(sample(1_000, 10.0, 500.0));
        let one = window.means().unwrap();
        assert_eq!((one.connections, one.rate), (10.0, 0.0));
        window.push(sample(3_000, 20.0, 2_500.0));
        let two = window.means().unwrap();
        assert_eq!(
            (two.connections, two.rate, two.first_connections),
            (15.0, 1_000.0, 10.0)
        );
    }

    #[test]
    fn a_restart_and_a_long_gap_begin_anew() {
        let mut window = Window::new(Duration::from_secs(5));
        window.push(sample(1_000, 10.0, 500.0));
        window.push(sample(2_000, 2.0, 100.0));
        assert_eq!(window.means().unwrap().connections, 2.0);
        window.push(sample(9_000, 7.0, 100.0));
        assert_eq!(window.means().unwrap().connections, 7.0);
        // What was sent in the gap isn't all of the window, nor nothing of it.
        window.push(sample(15_000, 7.0, 6_100.0));
        assert_eq!(window.means().unwrap().rate, 1_000.0);
        window.push(sample(60_000, 7.0, 10_000.0));
        assert_eq!(
            window.means().unwrap().rate,
            0.0,
            "a gap too long to say anything"
        );
    }

    #[test]
    fn a_burst_counts_by_its_share_whatever_the_jitter() {
        // 20 MB within one second are 4 MB/s over five, never 5: scrapes are some milliseconds early or late.
        for jitter in 0..64_u64 {
            let mut window = Window::new(Duration::from_secs(5));
            for second in 1..30_u64 {
                let at = second * 1_000 + (jitter * second * 7) % 11;
                let sent = if at > 12_000 { 20e6 } else { 0.0 };
                window.push(sample(at, 1.0, sent));
                let rate = window.means().unwrap().rate;
                assert!(rate <= 4.01e6, "{rate} at {at}");
            }
        }
    }

    #[test]
    fn a_spike_moves_a_mean_by_its_share() {
        let mut window = Window::new(Duration::from_secs(5));
        for second in 0..60_u64 {
            // 100 bytes a second, and once a hundred times as much.
            let spike = if second >= 57 { 9_900.0 } else { 0.0 };
            window.push(sample(second * 1_000, 100.0, second as f64 * 100.0 + spike));
        }
        assert_eq!(window.means().unwrap().rate, 100.0 + 9_900.0 / 5.0);
    }

    proptest! {
        #[test]
        fn it_is_the_naive_mean_of_the_last_five_seconds(
            steps in prop::collection::vec((1..4_000_u64, 0..1_000_u32, 0..1_000_u32, prop::bool::weighted(0.1)), 1..60),
        ) {
            let length = Duration::from_secs(5);
            let mut window = Window::new(length);
            let mut all: Vec<Sample> = Vec::new();
            let (mut at, mut sent) = (0, 0.0);
            for (step, connections, bytes, restart) in steps {
                at += step;
                if restart && sent > 0.0 {
                    sent = 0.0;
                    all.clear();
                } else {
                    sent += f64::from(bytes);
                }
                all.push(sample(at, f64::from(connections), sent));
                window.push(*all.last().unwrap());

                let recent: Vec<_> = all.iter().filter(|s| s.at.0 + 5_000 >= at).collect();
                let found = window.means().unwrap();
                let mean = recent.iter().map(|s| s.connections).sum::<f64>() / recent.len() as f64;
                prop_assert!((found.connections - mean).abs() < 1e-9);
                prop_assert_eq!(found.first_answers, recent[0].answers);
                // Bytes at the window's beginning: on the line between the samples around it.
                let before = all.iter().rfind(|s| s.at.0 + 5_000 < at && s.at.0 + 10_000 >= at);
                let (begin, bytes) = match before {
                    None => (recent[0].at.0 as f64, recent[0].sent_bytes),
                    Some(before) => {
                        let begin = (at - 5_000) as f64;
                        let span = (recent[0].at.0 - before.at.0) as f64;
                        let slope = (recent[0].sent_bytes - before.sent_bytes) / span;
                        (begin, before.sent_bytes + slope * (begin - before.at.0 as f64))
                    }
                };
                let span = (at as f64 - begin) / 1_000.0;
                let rate = if span > 0.0 { (sent - bytes) / span } else { 0.0 };
                prop_assert!((found.rate - rate).abs() < 1e-6, "{} {}", found.rate, rate);
            }
        }
    }
}
