//! The scenario `multicast-messages`, small.

#[test]
fn multicast_messages() {
    imaccess_e2e::scenario::run_as_test("multicast-messages");
}
