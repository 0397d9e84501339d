//! The life of the cluster's certificate authority. It is replaced while everything goes on: the next one is trusted by all before
//! it signs, and the former one is trusted until nothing that it signed is in use.

use imaccess_operator_api::names::{
    AUTHORITY_CURRENT_ANNOTATION, AUTHORITY_NEXT_ANNOTATION, AUTHORITY_PREVIOUS_ANNOTATION,
    AUTHORITY_SINCE_ANNOTATION, key,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::observed::SecretFacts;
use crate::plan::AuthorityStep;
use crate::validity::{Validity, time};

/// From when a Secret has changed until every part has surely read it: the kubelet takes up to a minute and a half when nothing hurries
/// it, parts look every second.
const PROPAGATION: SignedDuration = SignedDuration::from_mins(10);

/// What is to be done now, or else when to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// A step is due.
    Step(AuthorityStep),
    /// None is due before this time.
    Until(Timestamp),
    /// The next step waits for certificates that are made first.
    AfterCertificates,
}

/// The next step, from what is known of the authority's Secret; `all_issued` says whether all certificates are signed and accompanied
/// by what the Secret has now.
pub(crate) fn decide(facts: Option<&SecretFacts>, all_issued: bool, now: Timestamp) -> Decision {
    let Some(facts) = facts.filter(|facts| is_whole(facts)) else {
        return Decision::Step(AuthorityStep::Make);
    };
    let validity = Validity::of(facts);
    if validity.is_some_and(|validity| validity.is_over(now)) {
        // Nobody trusts it any more: there is nothing to be careful with.
        return Decision::Step(AuthorityStep::Make);
    }
    let has = |key: &str| facts.annotations.contains_key(key);
    let step = if has(AUTHORITY_PREVIOUS_ANNOTATION) {
        AuthorityStep::Forget
    } else if has(AUTHORITY_NEXT_ANNOTATION) {
        AuthorityStep::Switch
    } else {
        return match validity.map(|validity| validity.due()) {
            Some(due) if due > now => Decision::Until(due),
            _ => Decision::Step(AuthorityStep::AddNext),
        };
    };
    if !all_issued {
        return Decision::AfterCertificates;
    }
    let since = time(&facts.annotations, AUTHORITY_SINCE_ANNOTATION);
    let propagated = since.and_then(|since| since.checked_add(PROPAGATION).ok());
    match propagated {
        Some(when) if when > now => Decision::Until(when),
        _ => Decision::Step(step),
    }
}

/// What a certificate depends on of the authority: who signs it, and whom those that have it trust.
pub(crate) fn fingerprints(facts: &SecretFacts) -> Value {
    let annotation = |key: &str| facts.annotations.get(key);
    json!([
        annotation(AUTHORITY_CURRENT_ANNOTATION),
        annotation(AUTHORITY_NEXT_ANNOTATION),
        annotation(AUTHORITY_PREVIOUS_ANNOTATION),
    ])
}

/// Whether there is an authority that can sign: one that somebody wrote to is replaced, for what it would sign nobody knows.
fn is_whole(facts: &SecretFacts) -> bool {
    let has = |name: &str| facts.keys.iter().any(|key| key == name);
    facts.as_made
        && has(key::AUTHORITY)
        && has(key::AUTHORITY_KEY)
        && facts.annotations.contains_key(AUTHORITY_CURRENT_ANNOTATION)
}
