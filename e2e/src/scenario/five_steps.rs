//! The page about a first business, done as it is written: by the script that gives its commands, in each of its forms.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::Instant;

use crate::command::binary;
use crate::python::succeed;
use crate::report::{Report, Size};

/// The forms of the page.
const FORMS: [&str; 3] = ["http", "rust", "python"];
/// One of them, from a checkout in which nothing is built.
const DEADLINE: Duration = Duration::from_secs(3_600);

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut report = Report::new("five-steps", size, seed);
    let built = match size {
        Size::Small => Some(Built::new(&root).context("a place to do the page in")?),
        Size::Full => None,
    };
    let forms = size.pick(&FORMS[..1], &FORMS[..]);
    let mut done = 0;
    for form in forms {
        let begun = Instant::now();
        let mut script = Command::new("bash");
        script
            .args(["examples/first-business/run.sh", form])
            .current_dir(&root)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(built) = &built {
            built.stand_in(&mut script)?;
        }
        let printed = succeed(&mut script, DEADLINE).await?;
        done += u8::from(printed.lines().last() == Some("the five steps work"));
        report.figure(&format!("seconds_{form}"), begun.elapsed().as_secs_f64());
    }
    report.exactly("forms_that_work", f64::from(done), size.pick(1.0, 3.0));
    Ok(report)
}

/// Stands in for a checkout and for cargo, small: what is under test is built, perhaps by another compiler than cargo would take now, and
/// nothing is compiled twice. What remains of the page is done as it stands.
struct Built {
    directory: TempDir,
}

impl Built {
    fn new(root: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("imac-").tempdir()?;
        let (program, at) = (binary()?, directory.path());
        std::fs::create_dir_all(at.join("target/release"))?;
        symlink(&program, at.join("target/release/imaccess"))?;
        symlink(root.canonicalize()?.join("examples"), at.join("examples"))?;
        let cargo = format!(
            "#!/bin/sh\n\
             if [ \"$*\" != 'run --release -- up' ]; then echo \"nothing stands in for cargo $*\" >&2; exit 1; fi\n\
             exec '{}' up\n",
            program.display()
        );
        let path = at.join("bin/cargo");
        std::fs::create_dir(at.join("bin"))?;
        std::fs::write(&path, cargo)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        Ok(Self { directory })
    }

    /// For a command that is to be run there.
    fn stand_in(&self, command: &mut Command) -> Result<()> {
        let usual = std::env::var_os("PATH").unwrap_or_default();
        let first = std::iter::once(self.directory.path().join("bin"));
        let path = std::env::join_paths(first.chain(std::env::split_paths(&usual)))?;
        command.env("PATH", path).current_dir(self.directory.path());
        Ok(())
    }
}
