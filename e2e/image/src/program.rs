//! A dynamically linked program in an image of its own: stripped, with the libraries and the loader that it needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::Layer;

/// The user that the image runs as: what distributions of minimal images call `nonroot`.
pub const NONROOT: u32 = 65_532;

/// Where systems keep the certificates of public authorities; the image has them at the first place.
const AUTHORITIES: [&str; 2] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

/// The program without symbols and line tables, as bytes; the file itself stays as it is.
///
/// # Errors
/// When `strip` is missing (it comes with the linker, in binutils) or refuses the file.
pub fn stripped(program: &Path, scratch: &Path) -> Result<Vec<u8>> {
    fs::create_dir_all(scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
    let copy = scratch.join("stripped");
    let status = Command::new("strip")
        .args(["--strip-all", "-o"])
        .arg(&copy)
        .arg(program)
        .stdin(Stdio::null())
        .status()
        .context("cannot start strip (binutils)")?;
    if !status.success() {
        bail!("strip refused {} ({status})", program.display());
    }
    let bytes = fs::read(&copy).with_context(|| format!("cannot read {}", copy.display()))?;
    fs::remove_file(&copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    Ok(bytes)
}

/// What the program finds around it: its libraries and loader at the places where this machine has them, public
/// authorities' certificates, the user `nonroot`, the order of host look-ups, and a `/tmp`.
///
/// # Errors
/// When the libraries can't be listed or read.
pub fn surroundings(program: &Path) -> Result<Layer> {
    let mut layer = Layer::default();
    layer
        .directory("/tmp", 0o1777)
        .file(
            "/etc/passwd",
            0o644,
            format!(
                "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:{NONROOT}:{NONROOT}:nonroot:/tmp:/sbin/nologin\n"
            ),
        )
        .file("/etc/group", 0o644, format!("root:x:0:\nnonroot:x:{NONROOT}:\n"))
        .file("/etc/nsswitch.conf", 0o644, *b"hosts: files dns\n");
    for library in libraries(program)? {
        let at = library.to_string_lossy().into_owned();
        layer.copy(&at, 0o755, &library)?;
    }
    if let Some(authorities) = AUTHORITIES.iter().map(Path::new).find(|path| path.exists()) {
        layer.copy(AUTHORITIES[0], 0o644, authorities)?;
    }
    Ok(layer)
}

/// The shared libraries and the loader of a program, as `ldd` finds them; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .stdin(Stdio::null())
        .output()
        .context("cannot start ldd (libc-bin)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    if text.contains("statically linked") || complaint.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    if !output.status.success() {
        bail!("ldd {}: {}", program.display(), complaint.trim());
    }
    parse(&text)
}

/// Reads `name => /path (0x…)` and `/path/of/the/loader (0x…)`; the kernel's own object has no file.
fn parse(text: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.ends_with("not found") {
            bail!("a library of the program is missing: {line}");
        }
        let path = line.split_once(" => ").map_or(line, |(_, path)| path);
        let path = path.split(' ').next().unwrap_or_default();
        if path.starts_with('/') {
            libraries.push(path.into());
        }
    }
    libraries.sort();
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_read_from_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n";
        let expected: Vec<PathBuf> = vec![
            "/lib/x86_64-linux-gnu/libc.so.6".into(),
            "/lib64/ld-linux-x86-64.so.2".into(),
        ];
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn a_missing_library_is_an_error() {
        assert!(parse("\tlibnone.so => not found\n").is_err());
    }

    #[test]
    fn the_running_test_has_surroundings() {
        let layer = surroundings(&std::env::current_exe().unwrap()).unwrap();
        assert!(!layer.tar().unwrap().is_empty());
    }
}
