//! The scenario `hundred-upgrades`, small.

#[test]
fn hundred_upgrades() {
    imaccess_e2e::scenario::run_as_test("hundred-upgrades");
}
