//! The scenario `hostile-clients`, small.

#[test]
fn hostile_clients() {
    imaccess_e2e::scenario::run_as_test("hostile-clients");
}
