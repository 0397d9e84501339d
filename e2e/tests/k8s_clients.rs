//! What clients and businesses notice of a cluster on Kubernetes, small.

use imaccess_e2e::scenario::run_as_test;

#[test]
#[ignore = "needs a Kubernetes cluster: cargo xtask e2e"]
fn quickstart() {
    run_as_test("k8s-quickstart");
}

#[test]
#[ignore = "needs a Kubernetes cluster: cargo xtask e2e"]
fn businesses() {
    run_as_test("k8s-businesses");
}

#[test]
#[ignore = "needs a Kubernetes cluster: cargo xtask e2e"]
fn mesh() {
    run_as_test("k8s-mesh");
}

#[test]
#[ignore = "needs a Kubernetes cluster: cargo xtask e2e"]
fn drain() {
    run_as_test("k8s-drain");
}

#[test]
#[ignore = "needs a Kubernetes cluster: cargo xtask e2e"]
fn lost_node() {
    run_as_test("k8s-lost-node");
}

#[test]
#[ignore = "needs a Kubernetes cluster: cargo xtask e2e"]
fn scoring() {
    run_as_test("k8s-scoring");
}

#[test]
#[ignore = "needs a Kubernetes cluster: cargo xtask e2e"]
fn scoring_by_prometheus() {
    run_as_test("k8s-scoring-prometheus");
}
