//! The scenario `idle`, small.

#[test]
fn idle() {
    imaccess_e2e::scenario::run_as_test("idle");
}
