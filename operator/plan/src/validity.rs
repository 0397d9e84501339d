//! From when until when a certificate is good, as its Secret's annotations say, and when it is due.

use std::collections::BTreeMap;

use imaccess_operator_api::names::{NOT_AFTER_ANNOTATION, NOT_BEFORE_ANNOTATION};
use jiff::{SignedDuration, Timestamp};

use crate::observed::SecretFacts;

/// A certificate's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    from: Timestamp,
    until: Timestamp,
}

impl Validity {
    /// `None` when the annotations don't tell: then it is time for a new one.
    pub(crate) fn of(facts: &SecretFacts) -> Option<Validity> {
        let from = time(&facts.annotations, NOT_BEFORE_ANNOTATION)?;
        let until = time(&facts.annotations, NOT_AFTER_ANNOTATION)?;
        Some(Validity { from, until })
    }

    /// When two thirds of its life are over: what is left is for everything that may go wrong meanwhile.
    pub(crate) fn due(&self) -> Timestamp {
        let life = self.until.duration_since(self.from);
        let used = SignedDuration::from_secs(life.as_secs() / 3 * 2);
        self.from.checked_add(used).unwrap_or(self.until)
    }

    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        now >= self.until
    }
}

/// A time among annotations.
pub(crate) fn time(annotations: &BTreeMap<String, String>, key: &str) -> Option<Timestamp> {
    annotations.get(key)?.parse().ok()
}
