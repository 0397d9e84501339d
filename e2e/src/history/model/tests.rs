//! The rules against the model.

use super::super::rules::Rule;
use super::super::verdict::judge;
use super::change::{CHANGES, Change};
use super::*;

/// Histories that are made.
const SEEDS: u64 = 400;

#[test]
fn what_may_have_been_breaks_no_rule() {
    let (mut pushes, mut events, mut faults) = (0, 0, 0);
    for seed in 0..SEEDS {
        let history = legal(seed);
        let verdict = judge(&history);
        let story = verdict.violations.first().map_or_else(String::new, |violation| {
            let device = violation.device.unwrap_or_default();
            super::super::story::of(&history, device, violation.at)
        });
        assert!(
            verdict.violations.is_empty(),
            "seed {seed}: {}\n{story}",
            verdict.violations[0]
        );
        pushes += history.pushes.len();
        events += history.heard.len();
        faults += history.faults.len();
    }
    // The model must not have become one that does nothing.
    assert!(
        pushes > 10_000 && events > 5_000 && faults > 500,
        "{pushes} {events} {faults}"
    );
}

#[test]
fn what_can_not_have_been_breaks_its_rule() {
    for Change { name, rule, make } in CHANGES {
        let mut changed = 0;
        for seed in 0..SEEDS {
            let mut history = legal(seed);
            let mut random = Rng::with_seed(seed ^ 0x5eed);
            if !make(&mut history, &mut random) {
                continue;
            }
            changed += 1;
            let verdict = judge(&history);
            assert!(
                verdict.count(*rule) > 0,
                "seed {seed}: {name} doesn't break {rule}, but: {:?}",
                verdict.violations
            );
        }
        assert!(changed > 20, "{name} could be done {changed} times only");
    }
}

#[test]
fn every_rule_is_broken_by_some_change() {
    for rule in Rule::ALL {
        assert!(CHANGES.iter().any(|change| change.rule == *rule), "{rule}");
    }
}
