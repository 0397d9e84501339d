//! A history as a file, so that it can be judged again.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::record::History;

/// Names a file into which a history goes that breaks a rule. Read by `cargo xtask accept history` too: with `IMACCESS_E2E_JUDGE` naming
/// one, nothing is run and that one is judged.
pub const KEEP: &str = "IMACCESS_E2E_HISTORY";
/// See [`KEEP`].
pub const JUDGE: &str = "IMACCESS_E2E_JUDGE";

/// Writes it, as JSON.
///
/// # Errors
/// The file system's.
pub fn write(history: &History, path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut file = BufWriter::new(file);
    serde_json::to_writer(&mut file, history)?;
    file.flush()?;
    Ok(())
}

/// Reads it.
///
/// # Errors
/// When it can't be read, or is no history.
pub fn read(path: &Path) -> Result<History> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_reader(BufReader::new(file)).with_context(|| format!("{} is no history", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::model;

    #[test]
    fn a_history_is_the_same_when_it_is_read_back() {
        let history = model::legal(7);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.json");
        write(&history, &path).unwrap();
        assert_eq!(read(&path).unwrap(), history);
    }
}
