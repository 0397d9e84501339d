//! The scenario `upgrade-gateway-and-state`, small.

#[test]
fn upgrade_gateway_and_state() {
    imaccess_e2e::scenario::run_as_test("upgrade-gateway-and-state");
}
