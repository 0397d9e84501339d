//! `imaccess compat`: what this binary speaks, so that it can be asked before it takes another one's place.
//!
//! It reads no configuration and touches nothing, so that it also shows that the binary is there and starts at all.

use std::process::ExitCode;

use anyhow::Context;
use imaccess_common::generation::{self, Generations};
use serde::{Deserialize, Serialize};

use crate::terminal;

/// Arguments of `compat`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompatArgs {
    /// Print one JSON object on one line instead of text for people
    #[arg(long)]
    json: bool,
}

/// What a binary says about itself. Newer ones may say more; that is skipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Compat {
    pub(crate) version: String,
    pub(crate) speaks: Generations,
}

impl Compat {
    fn of_this() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            speaks: *generation::spoken(),
        }
    }

    fn text(&self) -> String {
        let speaks = &self.speaks;
        let spans = [
            ("link", speaks.link, "gateway and state"),
            ("custody", speaks.custody, "gateway and custodian"),
            ("volume", speaks.volume, "files that a gateway leaves"),
            ("lease", speaks.lease, "handover leases"),
            ("ticket", speaks.ticket, "sealed tickets"),
        ];
        let mut lines = vec![format!("imaccess {}", self.version)];
        lines.extend(spans.map(|(name, span, what)| format!("{name:<8} {:<5} {what}", span.to_string())));
        lines.join("\n")
    }
}

/// Runs it.
pub(crate) fn run(arguments: &CompatArgs) -> anyhow::Result<ExitCode> {
    let compat = Compat::of_this();
    if arguments.json {
        terminal::line(&serde_json::to_string(&compat).context("JSON")?);
    } else {
        terminal::line(&compat.text());
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_back_also_with_more_in_it() {
        let compat = Compat::of_this();
        let mut json = serde_json::to_value(&compat).unwrap();
        assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
        for format in ["link", "custody", "volume", "lease", "ticket"] {
            assert!(json["speaks"][format]["oldest"].is_u64(), "{json}");
            assert!(compat.text().contains(format));
        }
        json["speaks"]["later"] = serde_json::json!({"oldest": 1, "newest": 1});
        json["later"] = true.into();
        assert_eq!(serde_json::from_value::<Compat>(json).unwrap(), compat);
    }
}
