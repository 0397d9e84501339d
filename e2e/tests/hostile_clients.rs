//! The scenario `hostile-clients`, small, with custody and without.

use imaccess_e2e::scenario::{Custody, run_as_test_with};

#[test]
fn hostile_clients() {
    run_as_test_with("hostile-clients", Custody::On);
}

#[test]
fn hostile_clients_without_custody() {
    run_as_test_with("hostile-clients", Custody::Off);
}
