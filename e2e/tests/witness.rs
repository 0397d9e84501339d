//! The scenario `witness`, small.

#[test]
fn witness() {
    imaccess_e2e::scenario::run_as_test("witness");
}
