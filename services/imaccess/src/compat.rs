//! `imaccess compat`: what this binary speaks, so that it can be asked before it takes another one's place.
//!
//! It reads no configuration and touches nothing, so that it also shows that the binary is there and starts at all.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use imaccess_common::compat::Compat;
use imaccess_common::generation;

use crate::terminal;

/// Arguments of `compat`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompatArgs {
    /// Print one JSON object on one line instead of text for people
    #[arg(long)]
    json: bool,
    /// Write the JSON object to a file as well, such as a container's termination message, where the operator reads it
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What this binary says.
fn of_this() -> Compat {
    Compat {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        speaks: *generation::spoken(),
    }
}

fn text(compat: &Compat) -> String {
    let speaks = &compat.speaks;
    let spans = [
        ("link", speaks.link, "gateway and state"),
        ("custody", speaks.custody, "gateway and custodian"),
        ("volume", speaks.volume, "files that a gateway leaves"),
        ("lease", speaks.lease, "handover leases"),
        ("ticket", speaks.ticket, "sealed tickets"),
    ];
    let mut lines = vec![format!("imaccess {}", compat.version)];
    lines.extend(spans.map(|(name, span, what)| format!("{name:<8} {:<5} {what}", span.to_string())));
    lines.join("\n")
}

/// Runs it.
pub(crate) fn run(arguments: &CompatArgs) -> anyhow::Result<ExitCode> {
    let compat = of_this();
    let json = serde_json::to_string(&compat).context("JSON")?;
    if let Some(file) = &arguments.output {
        fs::write(file, &json).with_context(|| format!("can't write {}", file.display()))?;
    }
    if arguments.json {
        terminal::line(&json);
    } else {
        terminal::line(&text(&compat));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_back_also_with_more_in_it() {
        let compat = of_this();
        let mut json = serde_json::to_value(&compat).unwrap();
        assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
        for format in ["link", "custody", "volume", "lease", "ticket"] {
            assert!(json["speaks"][format]["oldest"].is_u64(), "{json}");
            assert!(text(&compat).contains(format));
        }
        json["speaks"]["later"] = serde_json::json!({"oldest": 1, "newest": 1});
        json["later"] = true.into();
        assert_eq!(serde_json::from_value::<Compat>(json).unwrap(), compat);
    }
}
