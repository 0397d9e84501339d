//! Other images than the one under test, for trying upgrades: of the same binary with a stamp, and such as go wrong.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::Kubernetes;
use super::containers::Which;
use super::environment::ClusterKind;

/// The reference of the other image, where somebody has loaded it already.
const OTHER: &str = "IMACCESS_OTHER_IMAGE";

/// How an image goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No node has it, and no registry.
    Missing,
    /// It ends at once, whatever it is asked.
    Exits,
    /// It has no generation in common with any other.
    Strange,
    /// It says what it speaks, and never gets ready as the gateway.
    NeverReady,
    /// It says what it speaks, and ends at once as this part.
    ExitsAs(Which),
}

impl Fault {
    fn name(self) -> String {
        match self {
            Self::Missing => "missing".to_owned(),
            Self::Exits => "exits".to_owned(),
            Self::Strange => "strange".to_owned(),
            Self::NeverReady => "never-ready".to_owned(),
            Self::ExitsAs(which) => format!("exits-as-{}", which.as_str()),
        }
    }

    /// What the image's environment has, and whether the wrapper is what is started.
    fn made_by(self) -> (&'static [&'static str], bool) {
        match self {
            Self::Missing => (&[], false),
            Self::Exits => (&["WRAPPER_DOES=exit", "WRAPPER_PARTS=compat,gateway,state"], true),
            Self::Strange => (&["IMACCESS_CLAIM_GENERATIONS=link=8-9,custody=8-9"], false),
            Self::NeverReady => (&["WRAPPER_DOES=sleep", "WRAPPER_PARTS=gateway"], true),
            Self::ExitsAs(Which::Gateway) => (&["WRAPPER_DOES=exit", "WRAPPER_PARTS=gateway"], true),
            Self::ExitsAs(Which::State) => (&["WRAPPER_DOES=exit", "WRAPPER_PARTS=state"], true),
        }
    }
}

impl Kubernetes {
    /// Whether images that only this run has can be brought to the nodes.
    #[must_use]
    pub fn loads_images(&self) -> bool {
        self.environment.cluster != ClusterKind::Given
    }

    /// Writes an image with another stamp and loads it on all nodes; returns its reference. Nothing, on a given cluster where
    /// `IMACCESS_OTHER_IMAGE` names none.
    ///
    /// # Errors
    /// When it can't be written or loaded.
    pub async fn other_image(&self, stamp: u32) -> Result<Option<String>> {
        if let Ok(reference) = std::env::var(OTHER) {
            return Ok(Some(reference));
        }
        if !self.loads_images() {
            return Ok(None);
        }
        self.stamped_image(stamp).await.map(Some)
    }

    /// Writes an image with this stamp and loads it on all nodes; returns its reference.
    ///
    /// # Errors
    /// When it can't be written or loaded.
    pub async fn stamped_image(&self, stamp: u32) -> Result<String> {
        let reference = format!("imaccess.io/imaccess:stamp-{stamp}");
        self.load_image(&reference, &["--stamp", &stamp.to_string()])
            .await?;
        Ok(reference)
    }

    /// Writes an image that goes wrong and loads it on all nodes, unless it is one that isn't there; returns its reference.
    ///
    /// # Errors
    /// When it can't be written or loaded.
    pub async fn faulty_image(&self, fault: Fault) -> Result<String> {
        let reference = format!("imaccess.io/imaccess:{}", fault.name());
        if fault == Fault::Missing {
            return Ok(reference);
        }
        let (environment, wrapped) = fault.made_by();
        let mut words: Vec<&str> = environment
            .iter()
            .flat_map(|variable| ["--environment", *variable])
            .collect();
        // Built with what runs this, and beside the binary under test.
        let wrapper = crate::command::binary()?.with_file_name("wrapper");
        let wrapper = wrapper.to_string_lossy();
        if wrapped {
            words.extend(["--wrapper", &*wrapper]);
        }
        self.load_image(&reference, &words).await?;
        Ok(reference)
    }

    async fn load_image(&self, reference: &str, variation: &[&str]) -> Result<()> {
        let directory = tempfile::tempdir()?;
        let archive = directory.path().join("image.tar");
        let archive = archive.to_string_lossy();
        // The binary that is under test, which no test builds.
        let binary = crate::command::binary()?;
        let binary = binary.to_string_lossy();
        let mut words = vec![
            "image", "--tag", reference, "--output", &archive, "--binary", &binary,
        ];
        words.extend(variation);
        xtask(&self.environment.workspace, &words).await?;
        match self.environment.cluster {
            ClusterKind::Local => xtask(&self.environment.workspace, &["cluster", "load", &archive]).await,
            ClusterKind::Kind => {
                let words = ["load", "image-archive", &archive, "--name", "imaccess"];
                run(Command::new("kind").args(words)).await
            }
            ClusterKind::Given => bail!("images can't be loaded into a given cluster: name one it can pull"),
        }
    }
}

/// By the xtask that runs this, where one does: cargo would wait for whoever builds.
async fn xtask(workspace: &Path, words: &[&str]) -> Result<()> {
    let mut command = if let Some(program) = std::env::var_os("IMACCESS_XTASK") {
        Command::new(program)
    } else {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.arg("xtask");
        command
    };
    command.current_dir(workspace).args(words);
    // What starts test programs in the cluster's network must not start xtask there.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_TARGET_") && text.ends_with("_RUNNER") {
            command.env_remove(&name);
        }
    }
    run(&mut command).await
}

async fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{:?}", command.as_std());
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!(
            "{shown} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&said)
        );
    }
    Ok(())
}
