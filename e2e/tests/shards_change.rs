//! The scenario `shards-change`, small.

#[test]
fn shards_change() {
    imaccess_e2e::scenario::run_as_test("shards-change");
}
