//! The scenario `quickstart`, small.

#[test]
fn quickstart() {
    imaccess_e2e::scenario::run_as_test("quickstart");
}
