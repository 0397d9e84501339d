//! The scenario `push-kinds`, small.

use imaccess_e2e::scenario::run_as_test;

#[test]
fn push_kinds() {
    run_as_test("push-kinds");
}
