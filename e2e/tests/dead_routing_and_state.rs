//! The scenario `dead-routing-and-state`, small.

#[test]
fn dead_routing_and_state() {
    imaccess_e2e::scenario::run_as_test("dead-routing-and-state");
}
