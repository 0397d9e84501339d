//! The scenario `gateway-away`, small.

#[test]
fn gateway_away() {
    imaccess_e2e::scenario::run_as_test("gateway-away");
}
