//! Writes what is made from the types: `crds/`, the chart's copy of it, and the reference page. `cargo xtask gen` runs it.

use std::path::Path;
use std::{fs, io};

use imaccess_operator_api::{crd, reference};

fn main() -> io::Result<()> {
    // Cargo runs it anywhere; the files are in the workspace.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (path, text) in [
        ("crds/imaccess.io_imaccessclusters.yaml", crd::yaml()),
        ("charts/imaccess/templates/crd.yaml", crd::chart_template()),
        ("docs/reference.md", reference::page()),
    ] {
        let file = root.join(path);
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory)?;
        }
        if fs::read_to_string(&file).is_ok_and(|old| old == text) {
            println!("{path}: as it was");
        } else {
            fs::write(&file, text)?;
            println!("{path}: written");
        }
    }
    Ok(())
}
