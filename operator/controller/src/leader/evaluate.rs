//! Deciding about a lease: pure, by the caller's clock.

use std::time::Duration;

use jiff::Timestamp;

/// The times of an election. All processes of one election should have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// For how long a record that doesn't change keeps others away.
    pub duration: Duration,
    /// How long after a renewal the holder renews again.
    pub renew: Duration,
    /// How long after a look, or a failed renewal, there is another.
    pub retry: Duration,
    /// After which a request is given up: of the lease, and of every write.
    pub request: Duration,
}

impl Timing {
    /// 15 s; renewed each 3 s. One renewal may be lost without a write being refused, and a killed holder is replaced within
    /// 17 s: 15 from when its last record was seen, which was at most 2 s after it was written.
    pub const DEFAULT: Timing = Timing {
        duration: Duration::from_secs(15),
        renew: Duration::from_secs(3),
        retry: Duration::from_secs(2),
        request: Duration::from_secs(4),
    };

    /// For how long after it was sent a renewal entitles to write.
    #[must_use]
    pub fn entitles(&self) -> Duration {
        self.duration * 2 / 3
    }
}

/// What a Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; nobody if it was released.
    pub holder: Option<String>,
    /// The holder's own duration.
    pub duration: Duration,
    /// When it was renewed, by the holder's clock: never compared with ours, only with what it was before.
    pub renewed: Option<Timestamp>,
    /// How often it has changed hands.
    pub transitions: i32,
}

/// What to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is none: make it.
    Create,
    /// Nobody holds it any more: take it.
    Take,
    /// It is ours: renew it.
    Renew,
    /// It is somebody else's, at least until then by our clock.
    Wait {
        /// By the clock that the record was seen by.
        until: Duration,
    },
}

/// What one process knows of the lease.
#[derive(Clone, Debug)]
pub struct Elector {
    me: String,
    timing: Timing,
    /// The record as it stands, and since when we have known it like this.
    seen: Option<(Record, Duration)>,
}

impl Elector {
    /// A process by the name `me`, which must be nobody else's: not another process's of the same pod either.
    #[must_use]
    pub fn new(me: String, timing: Timing) -> Elector {
        Elector {
            me,
            timing,
            seen: None,
        }
    }

    /// The process's name.
    #[must_use]
    pub fn me(&self) -> &str {
        &self.me
    }

    /// The times.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Who holds it, as far as is known.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.seen
            .as_ref()
            .and_then(|(record, _)| record.holder.as_deref())
    }

    /// Takes note of the record as it was read or written. Only a change starts the holder's time anew.
    pub fn see(&mut self, record: Option<Record>, now: Duration) {
        match (record, &self.seen) {
            (Some(record), Some((known, _))) if record == *known => {}
            (record, _) => self.seen = record.map(|record| (record, now)),
        }
    }

    /// What to do now.
    #[must_use]
    pub fn verdict(&self, now: Duration) -> Verdict {
        let Some((record, since)) = &self.seen else {
            return Verdict::Create;
        };
        match record.holder.as_deref() {
            None | Some("") => Verdict::Take,
            Some(holder) if holder == self.me => Verdict::Renew,
            Some(_) => {
                // The holder may have been told another duration than we have.
                let until = *since + record.duration.max(self.timing.duration);
                if now >= until {
                    Verdict::Take
                } else {
                    Verdict::Wait { until }
                }
            }
        }
    }

    /// The record to write for a verdict that isn't `Wait`.
    #[must_use]
    pub fn record(&self, wall: Timestamp) -> Record {
        let before = self.seen.as_ref().map(|(record, _)| record);
        let ours = before.is_some_and(|record| record.holder.as_deref() == Some(self.me.as_str()));
        let transitions = before.map_or(0, |record| record.transitions);
        Record {
            holder: Some(self.me.clone()),
            duration: self.timing.duration,
            renewed: Some(wall),
            transitions: if ours || before.is_none() {
                transitions
            } else {
                transitions.saturating_add(1)
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn record(holder: &str, renewed: i64) -> Record {
        Record {
            holder: (!holder.is_empty()).then(|| holder.to_owned()),
            duration: seconds(15),
            renewed: Some(Timestamp::from_second(renewed).unwrap()),
            transitions: 3,
        }
    }

    #[test]
    fn verdicts() {
        let wait = |until| Verdict::Wait {
            until: seconds(until),
        };
        type Sights<'a> = &'a [(Option<Record>, u64)];
        // What was seen when, asked when, the answer.
        let table: [(Sights<'_>, u64, Verdict); 9] = [
            (&[], 0, Verdict::Create),
            (&[(None, 5)], 5, Verdict::Create),
            (&[(Some(record("", 1)), 5)], 5, Verdict::Take),
            (&[(Some(record("me", 1)), 5)], 6, Verdict::Renew),
            // Ours, and long past: nobody has taken it, and a PUT with its resource version shows whether that is still so.
            (&[(Some(record("me", 1)), 5)], 100, Verdict::Renew),
            (&[(Some(record("other", 1)), 5)], 19, wait(20)),
            (&[(Some(record("other", 1)), 5)], 20, Verdict::Take),
            // Seen again unchanged: the time goes on. Seen changed: it starts anew.
            (
                &[(Some(record("other", 1)), 5), (Some(record("other", 1)), 15)],
                20,
                Verdict::Take,
            ),
            (
                &[(Some(record("other", 1)), 5), (Some(record("other", 4)), 15)],
                20,
                wait(30),
            ),
        ];
        for (sights, now, verdict) in table {
            let mut elector = Elector::new("me".to_owned(), Timing::DEFAULT);
            for (record, at) in sights {
                elector.see(record.clone(), seconds(*at));
            }
            assert_eq!(elector.verdict(seconds(now)), verdict, "{sights:?} at {now}");
        }
    }

    #[test]
    fn a_longer_duration_of_the_holder_is_respected() {
        let mut elector = Elector::new("me".to_owned(), Timing::DEFAULT);
        let long = Record {
            duration: seconds(60),
            ..record("other", 1)
        };
        elector.see(Some(long), seconds(0));
        assert_eq!(elector.verdict(seconds(59)), Verdict::Wait { until: seconds(60) });
    }

    #[test]
    fn transitions_count_changes_of_hands() {
        let mut elector = Elector::new("me".to_owned(), Timing::DEFAULT);
        let now = Timestamp::from_second(9).unwrap();
        assert_eq!(elector.record(now).transitions, 0);
        elector.see(Some(record("other", 1)), seconds(0));
        assert_eq!(elector.record(now).transitions, 4);
        elector.see(Some(record("me", 1)), seconds(0));
        assert_eq!(elector.record(now).transitions, 3);
    }

    #[test]
    fn a_renewal_that_is_given_up_leaves_time_for_another() {
        let timing = Timing::DEFAULT;
        assert!(timing.renew + timing.request < timing.entitles());
        assert!(timing.entitles() + timing.request < timing.duration);
    }
}
