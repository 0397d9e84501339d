//! The golden vectors: `proto/vectors/*.json` are what this crate reads from the bytes of `cases`, and what it
//! writes. `IMACCESS_BLESS=1 cargo test --release -p imaccess-wire --test vectors` writes them, and the fuzzers'
//! seeds with them.

#[path = "vectors/cases.rs"]
mod cases;
#[path = "vectors/describe.rs"]
mod describe;
#[path = "vectors/irregular.rs"]
mod irregular;
#[path = "vectors/valid.rs"]
mod valid;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use imaccess_wire::{Frame, Limits, header};
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn blessing() -> bool {
    std::env::var_os("IMACCESS_BLESS").is_some()
}

/// What comes of one vector's bytes.
fn outcome(name: &str, bytes: &[u8]) -> Value {
    let hex = hex::encode(bytes);
    let split = match header::split(bytes, Limits::default()) {
        Err(error) => return json!({"name": name, "hex": hex, "error": error.code().name()}),
        Ok(None) => return json!({"name": name, "hex": hex, "incomplete": true}),
        Ok(Some(split)) => split,
    };
    assert!(split.rest.is_empty(), "{name}: one frame only");
    match Frame::decode(&split) {
        Err(error) => json!({"name": name, "hex": hex, "error": error.code().name()}),
        Ok(None) => json!({"name": name, "hex": hex, "skipped": true}),
        Ok(Some(frame)) => {
            let mut again = Vec::new();
            frame.encode(&mut again);
            let (kind, fields) = describe::describe(&frame);
            json!({"name": name, "hex": hex, "type": kind, "canonical": again == bytes, "fields": fields})
        }
    }
}

#[test]
fn vectors_are_what_is_read_and_written() {
    let mut names = BTreeSet::new();
    for (file, cases) in cases::files() {
        let vectors: Vec<Value> = cases.iter().map(|(name, bytes)| outcome(name, bytes)).collect();
        for (name, _) in &cases {
            assert!(names.insert(name.clone()), "{name} is there twice");
        }
        let mut text = serde_json::to_string_pretty(&vectors).expect("plain values");
        text.push('\n');
        compare(&root().join("proto/vectors").join(file), text.as_bytes());
    }
}

/// Valid frames are written as they were read, unless they were made to differ.
#[test]
fn expectations_of_the_cases_hold() {
    for (file, cases) in cases::files() {
        for (name, bytes) in cases {
            let outcome = outcome(&name, &bytes);
            match file {
                "invalid.json" => {
                    assert!(
                        outcome["error"].is_string() || outcome["incomplete"] == true,
                        "{outcome}"
                    );
                }
                "extended.json" => {
                    assert!(
                        outcome["canonical"] == false || outcome["skipped"] == true,
                        "{outcome}"
                    );
                }
                _ => assert!(outcome["canonical"] == true, "{outcome}"),
            }
        }
    }
}

#[test]
fn seeds_of_the_fuzzers_are_the_vectors() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, name, bytes) in cases::seeds() {
        compare(&corpus.join(target).join(name), &bytes);
    }
}

fn compare(path: &Path, expected: &[u8]) {
    if blessing() {
        fs::create_dir_all(path.parent().expect("a file in a directory")).expect("writable");
        fs::write(path, expected).expect("writable");
    }
    let found = fs::read(path).unwrap_or_default();
    assert!(
        found == expected,
        "{} differs; IMACCESS_BLESS=1 writes it anew",
        path.display()
    );
}

/// A decoder written from the document alone agrees.
#[test]
fn the_second_decoder_agrees() {
    let mut command = Command::new("python3");
    command.arg(root().join("proto/vectors/decode.py"));
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("python3 is missing: proto/vectors/decode.py was not run");
            return;
        }
        output => output.expect("python3 runs"),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let count: usize = cases::files().iter().map(|(_, cases)| cases.len()).sum();
    assert!(said.contains(&format!("{count} vectors")), "{said}");
}
