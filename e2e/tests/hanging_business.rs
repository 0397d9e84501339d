//! The scenario `hanging-business`, small.

#[test]
fn hanging_business() {
    imaccess_e2e::scenario::run_as_test("hanging-business");
}
