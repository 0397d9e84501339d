//! The scenario `kill-gateway-and-state`, small.

#[test]
fn kill_gateway_and_state() {
    imaccess_e2e::scenario::run_as_test("kill-gateway-and-state");
}
