//! The scenario `bad-binary`, small.

#[test]
fn bad_binary() {
    imaccess_e2e::scenario::run_as_test("bad-binary");
}
