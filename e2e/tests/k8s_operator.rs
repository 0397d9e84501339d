//! The scenarios of the operator, the chart and the custom resource on Kubernetes, small.

use imaccess_e2e::scenario::run_as_test;

macro_rules! scenarios {
    ($($test:ident $name:literal)*) => {$(
        #[test]
        #[ignore = "needs a Kubernetes cluster: cargo xtask e2e"]
        fn $test() {
            run_as_test($name);
        }
    )*};
}

scenarios! {
    k8s_bad_spec "k8s-bad-spec"
    k8s_chart "k8s-chart"
    k8s_idle "k8s-idle"
    k8s_operator_killed "k8s-operator-killed"
    k8s_operator_version "k8s-operator-version"
    k8s_repair "k8s-repair"
    k8s_rights "k8s-rights"
    k8s_scale "k8s-scale"
    k8s_two_operators "k8s-two-operators"
}
