//! Generations of what parts of different versions exchange or leave to each other, and which ones this build speaks.
//!
//! A part speaks its own generation and the one before. Two parts use the highest that both speak; if there is none, the
//! newcomer is refused, says so, and everything goes on as before. `imaccess compat` prints what a binary speaks.

use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// Changes what this process claims to speak, as `link=3-4,custody=2`: for tests of version skew. Nothing else changes,
/// so a process that claims what it can't do is only good for being refused.
pub const CLAIM_VARIABLE: &str = "IMACCESS_CLAIM_GENERATIONS";

/// What has a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Gateway ⇄ state, gRPC.
    Link,
    /// Gateway ⇄ custodian, descriptors.
    Custody,
    /// Files on the pod's memory volume.
    Volume,
    /// The handover lease.
    Lease,
    /// Sealed tickets.
    Ticket,
}

/// From the oldest to the newest generation spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Oldest generation spoken.
    pub oldest: u32,
    /// Newest generation spoken.
    pub newest: u32,
}

impl Span {
    /// A span; `newest` 0 stands for `oldest`, as on the wire.
    #[must_use]
    pub const fn new(oldest: u32, newest: u32) -> Span {
        Span {
            oldest,
            newest: if newest < oldest { oldest } else { newest },
        }
    }

    /// The highest generation that both speak.
    #[must_use]
    pub fn common(self, other: Span) -> Option<u32> {
        let highest = self.newest.min(other.newest);
        (highest >= self.oldest && highest >= other.oldest).then_some(highest)
    }

    /// Whether this generation is in it.
    #[must_use]
    pub fn contains(self, generation: u32) -> bool {
        (self.oldest..=self.newest).contains(&generation)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            write!(f, "{}", self.oldest)
        } else {
            write!(f, "{}-{}", self.oldest, self.newest)
        }
    }
}

/// All that a build speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generations {
    /// Gateway ⇄ state. 2 adds quiescing, takeovers and ended connections; 3 multicasts.
    pub link: Span,
    /// Gateway ⇄ custodian.
    pub custody: Span,
    /// Files on the volume.
    pub volume: Span,
    /// Handover lease.
    pub lease: Span,
    /// Sealed tickets. 2 says its generation.
    pub ticket: Span,
}

/// What this build's code speaks.
const BUILT: Generations = Generations {
    link: Span::new(1, 3),
    custody: Span::new(1, 1),
    volume: Span::new(1, 1),
    lease: Span::new(1, 1),
    ticket: Span::new(1, 2),
};

static CLAIMED: LazyLock<Generations> = LazyLock::new(|| {
    let claim = std::env::var(CLAIM_VARIABLE).unwrap_or_default();
    BUILT.claiming(&claim).unwrap_or_else(|fault| {
        tracing::error!(%fault, "{CLAIM_VARIABLE} can't be used");
        BUILT
    })
});

/// What this process speaks.
#[must_use]
pub fn spoken() -> &'static Generations {
    &CLAIMED
}

impl Generations {
    /// The span of one format.
    #[must_use]
    pub fn of(&self, format: Format) -> Span {
        match format {
            Format::Link => self.link,
            Format::Custody => self.custody,
            Format::Volume => self.volume,
            Format::Lease => self.lease,
            Format::Ticket => self.ticket,
        }
    }

    /// What two builds have no generation of in common, by name; empty: one can take the other's place.
    #[must_use]
    pub fn strange_to(&self, other: &Generations) -> Vec<String> {
        let all = [
            ("link", self.link, other.link),
            ("custody", self.custody, other.custody),
            ("volume", self.volume, other.volume),
            ("lease", self.lease, other.lease),
            ("ticket", self.ticket, other.ticket),
        ];
        let strange = all
            .into_iter()
            .filter(|(_, one, other)| one.common(*other).is_none());
        strange
            .map(|(name, one, other)| format!("{name} (generations {one} and {other})"))
            .collect()
    }

    fn claiming(mut self, claim: &str) -> Result<Generations, String> {
        for part in claim.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let fault = || format!("{part:?} is not like link=3-4");
            let (name, span) = part.split_once('=').ok_or_else(fault)?;
            let (oldest, newest) = span.split_once('-').unwrap_or((span, span));
            let number = |text: &str| text.trim().parse::<u32>().map_err(|_| fault());
            let span = Span::new(number(oldest)?, number(newest)?);
            match name.trim() {
                "link" => self.link = span,
                "custody" => self.custody = span,
                "volume" => self.volume = span,
                "lease" => self.lease = span,
                "ticket" => self.ticket = span,
                _ => return Err(format!("nothing is called {name:?}")),
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_in_common_holds() {
        let span = Span::new;
        assert_eq!(span(1, 2).common(span(1, 0)), Some(1));
        assert_eq!(span(1, 2).common(span(2, 3)), Some(2));
        assert_eq!(span(1, 2).common(span(3, 4)), None);
        assert_eq!(span(3, 4).common(span(1, 2)), None);
        assert!(span(1, 2).contains(2) && !span(1, 2).contains(3));
        assert_eq!(
            (span(1, 2).to_string(), span(2, 0).to_string()),
            ("1-2".into(), "2".into())
        );
    }

    #[test]
    fn claims_change_what_is_said() {
        let claimed = BUILT.claiming("link=8-9, custody=2").unwrap();
        assert_eq!(
            (claimed.link, claimed.custody),
            (Span::new(8, 9), Span::new(2, 2))
        );
        assert_eq!(claimed.volume, BUILT.volume);
        assert_eq!(claimed.strange_to(&BUILT).len(), 2);
        assert!(BUILT.strange_to(&BUILT).is_empty());
        assert!(BUILT.claiming("lnk=1").is_err() && BUILT.claiming("link").is_err());
        assert_eq!(BUILT.claiming("").unwrap(), BUILT);
    }
}
