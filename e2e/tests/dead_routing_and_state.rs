//! The scenario `dead-routing-and-state`, small, with custody and without.

use imaccess_e2e::scenario::{Custody, run_as_test_with};

#[test]
fn dead_routing_and_state() {
    run_as_test_with("dead-routing-and-state", Custody::On);
}

#[test]
fn dead_routing_and_state_without_custody() {
    run_as_test_with("dead-routing-and-state", Custody::Off);
}
