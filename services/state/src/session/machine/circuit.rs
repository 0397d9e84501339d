//! When a stream to a business isn't asked for a while, because nothing comes back.
//!
//! Closed, everything passes and failures are counted; one answer forgets them. [`FAILURES`] in a row open it: nothing passes for a pause.
//! Then one request passes as a probe. An answer closes the circuit, whichever request it is to; the probe's own failure opens it for
//! twice as long. Requests that were under way when it opened fail later, and say nothing new.
//!
//! One-way sends cost nobody a wait: they are refused during the pause only, and are no probes, but their success is an answer like
//! any other where the protocol tells of it.

/// Failures in a row that open it: a restarting server breaks its connection and isn't counted, and a single request that hangs in a
/// business is the request's fault more often than the server's.
pub(super) const FAILURES: u32 = 8;

/// The first pause: a server that only stalled for a moment is asked again before its clients' second try.
const FIRST_PAUSE_MICROS: u64 = 500_000;

/// The longest pause, which is the longest that a server that is well again waits for its first request.
const LONGEST_PAUSE_MICROS: u64 = 10_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: u64,
        pause: u64,
    },
    /// The request with this id decides.
    Probing {
        probe: u64,
        pause: u64,
    },
}

/// What may go to the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passage {
    /// Everything.
    Free,
    /// One request, and sends.
    Probe,
    /// Sends: a probe is under way.
    Sends,
    /// Nothing.
    Nothing,
}

/// What became of the circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing passes from now on.
    Opened,
    /// Everything does.
    Closed,
}

/// The circuit of one stream. Times are in microseconds.
#[derive(Debug)]
pub(super) struct Circuit {
    state: State,
}

impl Default for Circuit {
    fn default() -> Self {
        Self {
            state: State::Closed { failures: 0 },
        }
    }
}

impl Circuit {
    pub(super) fn passage(&self, now: u64) -> Passage {
        match self.state {
            State::Closed { .. } => Passage::Free,
            State::Open { until, .. } if now < until => Passage::Nothing,
            State::Open { .. } => Passage::Probe,
            State::Probing { .. } => Passage::Sends,
        }
    }

    /// Whether not everything passes.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    /// A request was handed to the stream: it is the probe, if the circuit is open.
    pub(super) fn passed(&mut self, id: u64) {
        if let State::Open { pause, .. } = self.state {
            self.state = State::Probing { probe: id, pause };
        }
    }

    /// An answer came.
    pub(super) fn succeeded(&mut self) -> Option<Change> {
        let was_open = self.is_open();
        self.state = State::Closed { failures: 0 };
        was_open.then_some(Change::Closed)
    }

    /// A request got no answer, or the server's failure. `jitter` is in 0..1.
    pub(super) fn failed(&mut self, id: u64, now: u64, jitter: f32) -> Option<Change> {
        match self.state {
            State::Closed { failures } if failures + 1 < FAILURES => {
                self.state = State::Closed {
                    failures: failures + 1,
                };
                None
            }
            State::Closed { .. } => {
                self.open(now, FIRST_PAUSE_MICROS, jitter);
                Some(Change::Opened)
            }
            State::Probing { probe, pause } if probe == id => {
                self.open(now, (pause * 2).min(LONGEST_PAUSE_MICROS), jitter);
                None
            }
            State::Open { .. } | State::Probing { .. } => None,
        }
    }

    /// This request ended without saying anything of the server. If it was the probe, another one may pass.
    pub(super) fn undecided(&mut self, id: u64, now: u64) {
        if let State::Probing { probe, pause } = self.state
            && probe == id
        {
            self.state = State::Open { until: now, pause };
        }
    }

    /// The connection is gone, and the probe with it: the next one is asked at once, but with one request.
    pub(super) fn disconnected(&mut self, now: u64) {
        match self.state {
            State::Closed { .. } => self.state = State::Closed { failures: 0 },
            State::Open { pause, .. } | State::Probing { pause, .. } => {
                self.state = State::Open { until: now, pause };
            }
        }
    }

    /// A quarter of the pause is left to chance, so that workers and pods don't probe together.
    fn open(&mut self, now: u64, pause: u64, jitter: f32) {
        let until = now + pause + (pause as f32 * jitter / 4.0) as u64;
        self.state = State::Open { until, pause };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn opened(at: u64) -> Circuit {
        let mut circuit = Circuit::default();
        for id in 1..u64::from(FAILURES) {
            assert_eq!(circuit.failed(id, at, 0.0), None);
            assert_eq!(circuit.passage(at), Passage::Free);
        }
        assert_eq!(circuit.failed(99, at, 0.0), Some(Change::Opened));
        circuit
    }

    #[test]
    fn failures_in_a_row_open_it_and_an_answer_between_them_doesnt() {
        let mut circuit = Circuit::default();
        for round in 0..3 {
            for id in 1..u64::from(FAILURES) {
                assert_eq!(circuit.failed(id, round, 0.0), None);
            }
            assert_eq!(circuit.succeeded(), None);
        }
        let circuit = opened(1_000);
        assert!(circuit.is_open());
        assert_eq!(circuit.passage(1_000 + FIRST_PAUSE_MICROS - 1), Passage::Nothing);
        assert_eq!(circuit.passage(1_000 + FIRST_PAUSE_MICROS), Passage::Probe);
    }

    #[test]
    fn one_probe_per_pause_and_the_pause_doubles_to_its_limit() {
        let mut circuit = opened(0);
        let mut now = 0;
        let mut pauses = Vec::new();
        for probe in 1..=7 {
            let mut pause = 0;
            while circuit.passage(now + pause) == Passage::Nothing {
                pause += 100_000;
            }
            pauses.push(pause);
            now += pause;
            circuit.passed(probe);
            assert_eq!(circuit.passage(now), Passage::Sends, "only one");
            // What was under way before says nothing new.
            assert_eq!(circuit.failed(1_000 + probe, now, 0.0), None);
            assert_eq!(circuit.passage(now), Passage::Sends);
            now += 3_000_000;
            assert_eq!(circuit.failed(probe, now, 0.0), None, "it was open");
        }
        let expected = [
            500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000, 10_000_000, 10_000_000,
        ];
        assert_eq!(pauses, expected);
        assert_eq!(circuit.succeeded(), Some(Change::Closed));
        assert_eq!(circuit.passage(now), Passage::Free);
        assert_eq!(circuit.succeeded(), None);
    }

    #[test]
    fn a_probe_that_says_nothing_makes_room_for_another_without_a_pause() {
        let mut circuit = opened(0);
        circuit.passed(1);
        circuit.undecided(2, 7);
        assert_eq!(circuit.passage(7), Passage::Sends);
        circuit.undecided(1, 7);
        assert_eq!(circuit.passage(7), Passage::Probe);
        circuit.passed(3);
        circuit.failed(3, 10, 0.0);
        assert_eq!(circuit.passage(10 + 2 * FIRST_PAUSE_MICROS - 1), Passage::Nothing);
        assert_eq!(circuit.passage(10 + 2 * FIRST_PAUSE_MICROS), Passage::Probe);
    }

    #[test]
    fn a_new_connection_is_probed_at_once() {
        let mut circuit = opened(0);
        circuit.disconnected(5);
        assert_eq!(circuit.passage(5), Passage::Probe);
        circuit.passed(1);
        circuit.disconnected(6);
        assert_eq!(circuit.passage(6), Passage::Probe);
        assert!(circuit.is_open());
    }

    #[test]
    fn chance_only_lengthens_the_pause_by_up_to_a_quarter() {
        for jitter in [0.0, 0.5, 0.999] {
            let mut circuit = Circuit::default();
            for id in 1..=u64::from(FAILURES) {
                circuit.failed(id, 0, jitter);
            }
            let end = (0..)
                .step_by(1_000)
                .find(|&at| circuit.passage(at) == Passage::Probe);
            let end = end.unwrap();
            assert!(
                (FIRST_PAUSE_MICROS..=FIRST_PAUSE_MICROS * 5 / 4 + 1_000).contains(&end),
                "{end}"
            );
        }
    }

    proptest! {
        /// Whatever happens, an open circuit lets one request at a time through, and one always gets through in the end.
        #[test]
        fn it_never_stays_shut(steps in prop::collection::vec((0u8..5, 0u64..3_000_000, 1u64..6), 1..200)) {
            let mut circuit = Circuit::default();
            let (mut now, mut probe) = (0, None);
            for (step, span, id) in steps {
                now += span;
                match step {
                    0 => if circuit.passage(now) == Passage::Probe {
                        prop_assert_eq!(probe, None, "two probes at a time");
                        circuit.passed(id);
                        probe = Some(id);
                    },
                    1 => {
                        circuit.failed(id, now, 0.5);
                        probe = probe.filter(|probe| *probe != id);
                    }
                    2 => {
                        circuit.succeeded();
                        probe = None;
                    }
                    3 => {
                        circuit.undecided(id, now);
                        probe = probe.filter(|probe| *probe != id);
                    }
                    _ => {
                        circuit.disconnected(now);
                        probe = None;
                    }
                }
                prop_assert_eq!(circuit.passage(now) == Passage::Sends, probe.is_some());
                if probe.is_none() {
                    let later = circuit.passage(now + LONGEST_PAUSE_MICROS * 5 / 4);
                    prop_assert!(matches!(later, Passage::Free | Passage::Probe), "{later:?}");
                }
            }
        }
    }
}
