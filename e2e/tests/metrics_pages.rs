//! The scenario `metrics-pages`, small.

#[test]
fn metrics_pages() {
    imaccess_e2e::scenario::run_as_test("metrics-pages");
}
