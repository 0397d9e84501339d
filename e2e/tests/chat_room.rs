//! The scenario `chat-room`, small.

#[test]
fn chat_room() {
    imaccess_e2e::scenario::run_as_test("chat-room");
}
