//! The scenario `five-steps`, small.

#[test]
fn five_steps() {
    imaccess_e2e::scenario::run_as_test("five-steps");
}
