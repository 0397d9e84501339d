//! The scenario `state-away`, small.

#[test]
fn state_away() {
    imaccess_e2e::scenario::run_as_test("state-away");
}
