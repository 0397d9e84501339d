//! The fuzzers' committed corpus, replayed without a fuzzer.

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "a library of its own elsewhere")]
mod targets;

use std::fs;
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut count = 0;
    for entry in fs::read_dir(&directory).expect("a committed corpus") {
        let path = entry.expect("readable").path();
        println!("{}", path.display());
        run(&fs::read(&path).expect("readable"));
        count += 1;
    }
    assert!(count > 0, "no seeds in {}", directory.display());
}

#[test]
fn frame() {
    replay("frame", targets::frame);
}

#[test]
fn client() {
    replay("client", targets::client);
}

#[test]
fn login() {
    replay("login", targets::login);
}
