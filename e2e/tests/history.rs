//! The scenario `history`, small.

#[test]
fn history() {
    imaccess_e2e::scenario::run_as_test("history");
}
