//! The size budget: no source file grows beyond what one person reads in one go.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::steps::Verdict;
use crate::workspace::Workspace;

/// What a file should stay within; a longer one is named, so that whoever touches it next can split it.
const AIM: usize = 400;
/// What no file may exceed: split it by state or by input.
const STOP: usize = 800;

/// Directories that hold nothing we wrote.
const SKIPPED: [&str; 5] = ["target", ".git", ".imaccess", "corpus", "node_modules"];

/// Measures every Rust file of the checkout.
pub(crate) fn check(workspace: &Workspace) -> Result<Verdict> {
    let mut files = Vec::new();
    collect(&workspace.root, &mut files)?;
    let mut over = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let lines = text.lines().count();
        if lines > AIM {
            let path = path
                .strip_prefix(&workspace.root)
                .unwrap_or(&path)
                .display()
                .to_string();
            println!("{lines:>5} lines (aim: {AIM}, never over {STOP}): {path}");
            if lines > STOP {
                over.push(path);
            }
        }
    }
    if !over.is_empty() {
        bail!("longer than {STOP} lines: {}", over.join(", "));
    }
    Ok(Verdict::Passed)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() && !SKIPPED.iter().any(|name| entry.file_name() == *name) {
            collect(&path, files)?;
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
