//! Words for what became of one device: for scripts one word, for people a few.

use imaccess_proto::v1::{Outcome, PresenceStatus};

/// How a device's outcome counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// It is as it was wanted.
    Fine,
    /// Not known now: try again.
    Retry,
    /// It isn't, and trying again won't help by itself.
    Failed,
}

/// An outcome in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Worded {
    /// For scripts: it never changes.
    pub(crate) word: &'static str,
    /// For people.
    pub(crate) text: &'static str,
    pub(crate) verdict: Verdict,
    /// Whether people want this device named when there are many.
    pub(crate) named: bool,
}

const fn worded(word: &'static str, text: &'static str, verdict: Verdict) -> Worded {
    Worded {
        word,
        text,
        verdict,
        named: !matches!(verdict, Verdict::Fine),
    }
}

/// What became of a push.
pub(crate) fn of_push(outcome: Outcome) -> Worded {
    use Verdict::{Failed, Fine, Retry};
    match outcome {
        Outcome::Written => worded("written", "written", Fine),
        Outcome::Acknowledged => worded("acknowledged", "acknowledged", Fine),
        Outcome::Queued => worded("queued", "queued", Fine),
        Outcome::Done => worded("done", "done", Fine),
        Outcome::Offline => worded("offline", "offline", Failed),
        Outcome::Refused => worded("refused", "refused: its queue is full", Failed),
        Outcome::Retry => worded("retry", "retry: not known now, try again", Retry),
        Outcome::Unknown => worded(
            "unknown",
            "unknown: a part died meanwhile; pushed again it may arrive twice",
            Failed,
        ),
        Outcome::Unspecified => worded("unspecified", "no answer", Failed),
    }
}

/// What became of a kick. A device that was offline has no session to end: that is what was wanted.
pub(crate) fn of_kick(outcome: Outcome) -> Worded {
    match outcome {
        Outcome::Done => worded("kicked", "kicked", Verdict::Fine),
        Outcome::Offline => worded("offline", "offline: there was no session to end", Verdict::Fine),
        Outcome::Unknown => worded(
            "unknown",
            "unknown: a part died meanwhile; kick it again",
            Verdict::Retry,
        ),
        other => of_push(other),
    }
}

/// What became of a new membership.
pub(crate) fn of_join(outcome: Outcome) -> Worded {
    match outcome {
        Outcome::Done => worded("joined", "joined", Verdict::Fine),
        Outcome::Offline => worded(
            "offline",
            "offline: only a device with a session can join",
            Verdict::Failed,
        ),
        Outcome::Refused => worded(
            "refused",
            "refused: it is in as many groups as it may be",
            Verdict::Failed,
        ),
        Outcome::Unknown => worded(
            "unknown",
            "unknown: a part died meanwhile; join it again",
            Verdict::Retry,
        ),
        other => of_push(other),
    }
}

/// What became of a membership that was to end. It ended with the session of a device that is offline.
pub(crate) fn of_leave(outcome: Outcome) -> Worded {
    match outcome {
        Outcome::Done => worded("left", "left", Verdict::Fine),
        Outcome::Offline => worded(
            "offline",
            "offline: its membership ended with its session",
            Verdict::Fine,
        ),
        Outcome::Unknown => worded(
            "unknown",
            "unknown: a part died meanwhile; repeat it",
            Verdict::Retry,
        ),
        other => of_push(other),
    }
}

/// Whether a device is online. Both answers are fine; people want to see who isn't.
pub(crate) fn of_presence(status: PresenceStatus) -> Worded {
    match status {
        PresenceStatus::Online => worded("online", "online", Verdict::Fine),
        PresenceStatus::Offline => Worded {
            named: true,
            ..worded("offline", "offline", Verdict::Fine)
        },
        PresenceStatus::Retry => worded("retry", "retry: not known now, try again", Verdict::Retry),
        PresenceStatus::Unspecified => worded("unspecified", "no answer", Verdict::Failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_depends_on_the_verb() {
        let verdicts = |outcome| [of_push, of_kick, of_join, of_leave].map(|of| of(outcome).verdict);
        use Verdict::{Failed, Fine, Retry};
        assert_eq!(verdicts(Outcome::Done), [Fine; 4]);
        assert_eq!(verdicts(Outcome::Offline), [Failed, Fine, Failed, Fine]);
        assert_eq!(verdicts(Outcome::Retry), [Retry; 4]);
        assert_eq!(verdicts(Outcome::Unknown), [Failed, Retry, Retry, Retry]);
        assert_eq!(verdicts(Outcome::Unspecified), [Failed; 4]);
        assert!(of_presence(PresenceStatus::Offline).named && !of_presence(PresenceStatus::Online).named);
    }
}
