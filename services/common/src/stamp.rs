//! A stamp that can be put into a built binary, so that two builds of the same code can be told apart.
//!
//! Trying an upgrade needs binaries that really differ, and that say which one runs. Compiling for each would take minutes, so
//! `cargo xtask image --stamp N` writes the stamp over the blanks that stand here. A binary as it was built has none.

use std::hint::black_box;

/// What the stamp is found by in a binary. `e2e/xtask/src/image.rs` has the same text: it depends on none of our crates.
const MARK: &str = "IMACCESS-STAMP:";
/// Room for a stamp, in bytes: any `u64` in decimal.
const ROOM: usize = 20;

/// Mark and room, in the binary's data exactly once: a `const` would be copied to wherever it is used.
static MARKER: [u8; MARK.len() + ROOM] = *b"IMACCESS-STAMP:                    ";

/// This binary's stamp; empty if it has none.
#[must_use]
pub fn stamp() -> &'static str {
    // Without the box the compiler reads the blanks while it compiles, and what is written over them later is never seen.
    let marker: &'static [u8] = black_box(&MARKER);
    let room = marker.get(MARK.len()..).unwrap_or_default();
    std::str::from_utf8(room).unwrap_or_default().trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_as_it_was_built_has_no_stamp() {
        assert!(MARKER.starts_with(MARK.as_bytes()));
        assert_eq!(stamp(), "");
    }

    #[test]
    fn the_mark_is_in_the_binary_once() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        // Room included, and found as the marker has it: mark and blanks.
        let found = program
            .windows(MARKER.len())
            .filter(|window| *window == black_box(&MARKER));
        assert_eq!(found.count(), 1);
    }
}
