//! The scenario `openapi`, small.

use imaccess_e2e::scenario::run_as_test;

#[test]
fn openapi() {
    run_as_test("openapi");
}
