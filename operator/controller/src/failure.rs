//! How a failure shows in the status.

use imaccess_operator_api::{ImAccessClusterStatus, condition};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::error::{Class, Error};

/// A failure that may pass by itself shows from this one in a row on: before that, a new look is on its way.
const SHOWN_FROM: u32 = 3;

/// Characters of a message at most.
const MESSAGE: usize = 1_024;

/// Puts `failure`, the `count`th of its class in a row, into `status`.
///
/// Nothing of a conflict, or of not leading, is the cluster's fault or lasts: the status stays.
pub fn show(
    status: &mut ImAccessClusterStatus,
    generation: Option<i64>,
    failure: &Error,
    count: u32,
    now: Timestamp,
) {
    status.observed_generation = generation;
    let stalled = match failure.class() {
        Class::Conflict | Class::NotLeading => return,
        Class::Transient if count < SHOWN_FROM => return,
        Class::Transient => false,
        Class::Refused | Class::Defect => true,
    };
    let message = sentence(failure);
    let mut put = |type_: &str, truth: &str| {
        put(
            status,
            Condition {
                type_: type_.to_owned(),
                status: truth.to_owned(),
                reason: failure.reason().to_owned(),
                message: message.clone(),
                observed_generation: generation,
                last_transition_time: Time(now),
            },
        );
    };
    put(condition::READY, "False");
    if stalled {
        put(condition::STALLED, "True");
        take(status, condition::RECONCILING);
    } else {
        put(condition::RECONCILING, "True");
        take(status, condition::STALLED);
    }
}

/// Puts what failed and isn't needed into `status`.
pub fn show_degraded(
    status: &mut ImAccessClusterStatus,
    generation: Option<i64>,
    failures: &[Error],
    now: Timestamp,
) {
    let Some(first) = failures.first() else { return };
    let messages: Vec<String> = failures.iter().map(Error::to_string).collect();
    put(
        status,
        Condition {
            type_: condition::DEGRADED.to_owned(),
            status: "True".to_owned(),
            reason: first.reason().to_owned(),
            message: shortened(&messages.join("; ")),
            observed_generation: generation,
            last_transition_time: Time(now),
        },
    );
}

/// What went wrong, and what to do, in a sentence that doesn't change while nothing else does.
#[must_use]
pub fn sentence(failure: &Error) -> String {
    let advice = match failure.reason() {
        "Forbidden" => ". Give the operator's service account this right, or raise the quota that forbids it",
        "Rejected" => ". Change what the sentence names, in the specification or in the cluster",
        "InvalidSpecification" => ". Correct the field that is named",
        "OperatorDefect" => ". Please report it, with the operator's log",
        _ => "",
    };
    shortened(&format!("{failure}{advice}"))
}

fn shortened(message: &str) -> String {
    message.chars().take(MESSAGE).collect()
}

fn put(status: &mut ImAccessClusterStatus, mut new: Condition) {
    match status
        .conditions
        .iter_mut()
        .find(|known| known.type_ == new.type_)
    {
        Some(known) => {
            if known.status == new.status {
                new.last_transition_time = known.last_transition_time.clone();
            }
            *known = new;
        }
        None => status.conditions.push(new),
    }
}

fn take(status: &mut ImAccessClusterStatus, type_: &str) {
    status.conditions.retain(|known| known.type_ != type_);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn types(status: &ImAccessClusterStatus) -> Vec<(&str, &str, &str)> {
        status
            .conditions
            .iter()
            .map(|known| (known.type_.as_str(), known.status.as_str(), known.reason.as_str()))
            .collect()
    }

    #[test]
    fn a_failure_shows_and_its_time_stands_while_it_lasts() {
        let mut status = ImAccessClusterStatus::default();
        let broken = Error::Panicked("index out of bounds".to_owned());
        show(&mut status, Some(4), &broken, 1, at(1));
        assert_eq!(
            types(&status),
            [
                ("Ready", "False", "OperatorDefect"),
                ("Stalled", "True", "OperatorDefect")
            ]
        );
        assert_eq!(status.observed_generation, Some(4));
        let before = status.clone();
        show(&mut status, Some(4), &broken, 2, at(9));
        assert_eq!(status, before, "nothing has changed, so nothing is written");
        show(&mut status, Some(4), &Error::TooLong, 3, at(9));
        assert_eq!(
            types(&status),
            [
                ("Ready", "False", "TimedOut"),
                ("Reconciling", "True", "TimedOut")
            ]
        );
        assert_eq!(status.conditions[0].last_transition_time, Time(at(1)));
    }

    #[test]
    fn what_passes_by_itself_shows_only_when_it_lasts() {
        let mut status = ImAccessClusterStatus::default();
        show(&mut status, Some(1), &Error::TooLong, 2, at(1));
        assert!(status.conditions.is_empty());
        show(&mut status, Some(1), &Error::TooLong, 3, at(1));
        assert_eq!(types(&status).len(), 2);
    }

    #[test]
    fn what_a_cluster_does_without_degrades_it() {
        let mut status = ImAccessClusterStatus::default();
        show_degraded(&mut status, Some(1), &[], at(1));
        assert!(status.conditions.is_empty());
        show_degraded(&mut status, Some(1), &[Error::TooLong], at(1));
        assert_eq!(types(&status), [("Degraded", "True", "TimedOut")]);
    }
}
