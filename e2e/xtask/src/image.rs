//! `cargo xtask image`: the image of the release binary, as an OCI archive.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use imaccess_image::program::{NONROOT, stripped, surroundings};
use imaccess_image::{Image, Layer, Written};

use crate::workspace::{Workspace, succeed};

/// How the image is named when nobody says otherwise; no registry has it, so that nothing is pulled by mistake.
pub(crate) const REFERENCE: &str = "imaccess.io/imaccess:dev";

/// What image to write.
#[derive(Args)]
pub(crate) struct Options {
    /// A number that makes this image another one of the same binary: label `io.imaccess.stamp` and variable
    /// `IMACCESS_STAMP`. For trying upgrades.
    #[arg(long, value_name = "N")]
    stamp: Option<u64>,
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
    let written = write(workspace, &binary, &options.tag, options.stamp, &output)?;
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
    stamp: Option<u64>,
    output: &Path,
) -> Result<Written> {
    let mut program = Layer::default();
    program.file(
        "/imaccess",
        0o755,
        stripped(binary, &workspace.target.join("image"))?,
    );
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
    let mut environment = vec!["PATH=/".to_owned()];
    if let Some(stamp) = stamp {
        labels.insert("io.imaccess.stamp".to_owned(), stamp.to_string());
        environment.push(format!("IMACCESS_STAMP={stamp}"));
    }
    let image = Image {
        reference: reference.to_owned(),
        layers: vec![surroundings(binary)?, program],
        entrypoint: vec!["/imaccess".to_owned()],
        environment,
        user: format!("{NONROOT}:{NONROOT}"),
        labels,
    };
    image.write(output)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a size for people, far below 2^53 bytes"
)]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
