//! Lists of devices: from the command line, from a file, from standard input.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, anyhow};
use imaccess_common::ticket::MAX_DEVICE;

use crate::exit::{USAGE, WithStatus};

/// Those that are named, or those of a file, one a line; `-` is standard input.
pub(crate) fn read(named: &[String], file: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let Some(path) = file else {
        return parse(named.iter().map(String::as_str), "the command line").or_exit(USAGE);
    };
    if path == Path::new("-") {
        let mut text = String::new();
        let whole = std::io::stdin().lock().read_to_string(&mut text);
        whole
            .context("can't read devices from standard input")
            .or_exit(USAGE)?;
        return parse(text.lines(), "standard input").or_exit(USAGE);
    }
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("can't read devices from {name}"))
        .or_exit(USAGE)?;
    parse(text.lines(), &name).or_exit(USAGE)
}

/// Blank lines are passed over. One that no device can be called would make the push API refuse its whole call, after others
/// have been sent: it is found before anything is.
fn parse<'a>(lines: impl Iterator<Item = &'a str>, place: &str) -> anyhow::Result<Vec<String>> {
    let mut devices = Vec::new();
    for (index, line) in lines.enumerate() {
        let device = line.trim();
        if device.len() > MAX_DEVICE {
            return Err(anyhow!(
                "{place}, {}: {} bytes are no device; an id has 1 to {MAX_DEVICE}",
                index + 1,
                device.len()
            ));
        }
        if !device.is_empty() {
            devices.push(device.to_owned());
        }
    }
    if devices.is_empty() {
        return Err(anyhow!("{place} names no device"));
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_one_a_line_and_what_is_wrong_is_placed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("devices");
        std::fs::write(&file, "alice\n\n  bob \r\ncarol").unwrap();
        assert_eq!(read(&[], Some(&file)).unwrap(), ["alice", "bob", "carol"]);
        std::fs::write(&file, format!("alice\n{}\n", "x".repeat(MAX_DEVICE + 1))).unwrap();
        let fault = format!("{:#}", read(&[], Some(&file)).unwrap_err());
        assert!(fault.contains("devices, 2: 37 bytes"), "{fault}");
        std::fs::write(&file, "\n \n").unwrap();
        let fault = read(&[], Some(&file)).unwrap_err();
        assert!(format!("{fault:#}").contains("names no device"), "{fault:#}");
        let fault = read(&[], Some(&directory.path().join("nothing"))).unwrap_err();
        assert!(format!("{fault:#}").contains("nothing"), "{fault:#}");
        assert_eq!(read(&["a".to_owned()], None).unwrap(), ["a"]);
        assert!(read(&[String::new()], None).is_err());
    }
}
