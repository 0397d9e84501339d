//! `cargo xtask image`: the image of the release binary, as an OCI archive.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use imaccess_image::program::{NONROOT, stripped, surroundings};
use imaccess_image::{Image, Layer, Written};

use crate::workspace::{Workspace, succeed};

/// How the image is named when nobody says otherwise; no registry has it, so that nothing is pulled by mistake.
pub(crate) const REFERENCE: &str = "imaccess.io/imaccess:dev";

/// What a stamp's place is found by in the binary. `services/common/src/stamp.rs` has the same text, and says why.
const MARK: &[u8] = b"IMACCESS-STAMP:";
/// Room for a stamp after the mark, in bytes.
const ROOM: usize = 20;

/// What image to write.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    variation: Variation,
    /// Full reference of the image.
    #[arg(long, value_name = "REF", default_value = REFERENCE)]
    tag: String,
    /// Where the archive goes; `target/image/imaccess.tar` if nothing is said.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Take this binary instead of building one.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// In what an image differs from the ordinary one, for trying upgrades, good ones and bad ones.
#[derive(Args, Default)]
pub(crate) struct Variation {
    /// A number that is written into the binary: it shows on metrics pages (`imaccess_build_info`), and as the image's label
    /// `io.imaccess.stamp`.
    #[arg(long, value_name = "N")]
    stamp: Option<u64>,
    /// A variable that the image sets; may be given several times.
    #[arg(long, value_name = "NAME=VALUE")]
    environment: Vec<String>,
    /// Another program, which is started instead of the binary and finds that as `/imaccess`.
    #[arg(long, value_name = "FILE")]
    wrapper: Option<PathBuf>,
}

/// Builds the binary, writes the archive, and says its size and digest.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let binary = if let Some(binary) = &options.binary {
        binary.clone()
    } else {
        succeed(&mut workspace.cargo(["build", "--release", "--quiet", "-p", "imaccess"]))?;
        workspace.binary("imaccess")
    };
    let output = options
        .output
        .clone()
        .unwrap_or_else(|| workspace.target.join("image/imaccess.tar"));
    let written = write(workspace, &binary, &options.tag, &options.variation, &output)?;
    println!(
        "{} {}\n{} ({:.1} MB, {:.1} MB of files)",
        options.tag,
        written.digest,
        output.display(),
        megabytes(written.archive_bytes),
        megabytes(written.content_bytes),
    );
    Ok(ExitCode::SUCCESS)
}

/// Writes the archive of a binary.
pub(crate) fn write(
    workspace: &Workspace,
    binary: &Path,
    reference: &str,
    variation: &Variation,
    output: &Path,
) -> Result<Written> {
    let scratch = workspace.target.join("image");
    let mut bytes = stripped(binary, &scratch)?;
    let mut labels = BTreeMap::from([
        ("org.opencontainers.image.title".to_owned(), "imaccess".to_owned()),
        (
            "org.opencontainers.image.licenses".to_owned(),
            "Apache-2.0".to_owned(),
        ),
        (
            "org.opencontainers.image.version".to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
        ),
    ]);
    if let Some(stamp) = variation.stamp {
        stamped(&mut bytes, stamp).with_context(|| format!("cannot stamp {}", binary.display()))?;
        labels.insert("io.imaccess.stamp".to_owned(), stamp.to_string());
    }
    let mut program = Layer::default();
    program.file("/imaccess", 0o755, bytes);
    let mut layers = vec![surroundings(binary)?, program];
    let mut entrypoint = "/imaccess";
    if let Some(wrapper) = &variation.wrapper {
        entrypoint = "/wrapper";
        let mut layer = Layer::default();
        layer.file(entrypoint, 0o755, stripped(wrapper, &scratch)?);
        layers.extend([surroundings(wrapper)?, layer]);
    }
    let mut environment = vec!["PATH=/".to_owned()];
    environment.extend(variation.environment.iter().cloned());
    let image = Image {
        reference: reference.to_owned(),
        layers,
        entrypoint: vec![entrypoint.to_owned()],
        environment,
        user: format!("{NONROOT}:{NONROOT}"),
        labels,
    };
    image.write(output)
}

/// Writes a stamp into a binary, over the blanks or the stamp that it has.
fn stamped(binary: &mut [u8], stamp: u64) -> Result<()> {
    let whole = MARK.len() + ROOM;
    let is_marker = |window: &[u8]| {
        let (mark, room) = window.split_at(MARK.len());
        mark == MARK && room.iter().all(|byte| *byte == b' ' || byte.is_ascii_digit())
    };
    let mut places = (0..binary.len().saturating_sub(whole - 1))
        .filter(|place| binary[*place] == MARK[0] && is_marker(&binary[*place..*place + whole]));
    let place = places.next().context("it has no place for a stamp")?;
    if let Some(second) = places.next() {
        bail!("it has two places for a stamp, at {place} and {second}: which one is read?");
    }
    let text = format!("{stamp:<ROOM$}");
    binary[place + MARK.len()..place + whole].copy_from_slice(text.as_bytes());
    Ok(())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a size for people, far below 2^53 bytes"
)]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_replaces_blanks_and_stamps_and_nothing_else() {
        let blank = [b"before".as_slice(), MARK, &[b' '; ROOM], b"after"].concat();
        let mut binary = blank;
        stamped(&mut binary, 12).unwrap();
        let text = String::from_utf8(binary.clone()).unwrap();
        assert_eq!(text, "beforeIMACCESS-STAMP:12                  after");
        stamped(&mut binary, u64::MAX).unwrap();
        let text = String::from_utf8(binary).unwrap();
        assert_eq!(text, "beforeIMACCESS-STAMP:18446744073709551615after");
    }

    #[test]
    fn a_binary_without_one_place_for_a_stamp_is_refused() {
        // The mark alone, as a text that somebody compares with, is no place.
        let mut none = [MARK, b"and more text than a stamp has room"].concat();
        assert!(stamped(&mut none, 1).is_err());
        let one = [MARK, &[b' '; ROOM]].concat();
        assert!(stamped(&mut one.repeat(2), 1).is_err());
        assert!(stamped(&mut [], 1).is_err());
    }
}
