//! The scenario `bad-businesses`, small.

use imaccess_e2e::scenario::run_as_test;

#[test]
fn bad_businesses() {
    run_as_test("bad-businesses");
}
