//! The benches that compare CPU, latency and memory, small: complete and with every figure, without limits on speed.

use std::sync::{Mutex, PoisonError};

/// One at a time: each starts a cluster, a load and a bare server, and measures CPU.
static TURN: Mutex<()> = Mutex::new(());

fn run_as_test(name: &str) {
    // A poisoned lock says that another bench failed, which that one reports itself.
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    imaccess_e2e::scenario::run_as_test(name);
}

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

#[test]
fn group_beside_unicasts() {
    run_as_test("group-beside-unicasts");
}

#[test]
fn broadcast_beside_unicasts() {
    run_as_test("broadcast-beside-unicasts");
}

#[test]
fn group_memory() {
    run_as_test("group-memory");
}
