//! The benches that compare CPU, small: complete and with every figure, without limits on speed.

use imaccess_e2e::scenario::run_as_test;

#[test]
fn ipconfig() {
    run_as_test("ipconfig");
}

#[test]
fn login() {
    run_as_test("login");
}

#[test]
fn echo() {
    run_as_test("echo");
}

#[test]
fn fanout() {
    run_as_test("fanout");
}
