//! The scenario `capacity`, small.

#[test]
fn capacity() {
    imaccess_e2e::scenario::run_as_test("capacity");
}
