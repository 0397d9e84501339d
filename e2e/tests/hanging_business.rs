//! The scenario `hanging-business`, small, with custody and without.

use imaccess_e2e::scenario::{Custody, run_as_test_with};

#[test]
fn hanging_business() {
    run_as_test_with("hanging-business", Custody::On);
}

#[test]
fn hanging_business_without_custody() {
    run_as_test_with("hanging-business", Custody::Off);
}
