//! Containers of gateway pods that are replaced or killed under load, small.

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
    k8s_witness "k8s-witness"
    k8s_containers_killed "k8s-containers-killed"
    k8s_ten_upgrades "k8s-ten-upgrades"
    k8s_upgrade "k8s-upgrade"
    k8s_upgrade_operator_killed "k8s-upgrade-operator-killed"
    k8s_upgrade_order "k8s-upgrade-order"
    k8s_upgrade_refused "k8s-upgrade-refused"
}
