//! Logs: to stderr, for people or as JSON lines, never with payloads or tokens.

use std::io;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// Environment variable with the log filter, as `tracing` writes it: `info`, `imaccess_state=debug,warn`.
pub const FILTER_VARIABLE: &str = "IMACCESS_LOG";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to stderr, filtered by `IMACCESS_LOG`, else by `default_filter`.
///
/// The first call in a process wins; later ones do nothing, so that tests and embedded parts may each call it. A
/// filter that can't be read is reported on stderr and replaced by `info`.
pub fn init_logging(format: LogFormat, default_filter: &str) {
    let wanted = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| default_filter.to_owned());
    let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|fault| {
        eprintln!("the log filter {wanted:?} ({FILTER_VARIABLE}) can't be read: {fault}; logging at info");
        EnvFilter::new("info")
    });
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Whoever reads stderr may be gone before this process. Saying so on stderr would panic.
        .log_internal_errors(false)
        .with_writer(io::stderr);
    // An error means that logging is already set up: the first call has won.
    let _first_wins = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_call_and_a_bad_filter_are_harmless() {
        init_logging(LogFormat::Text, "warn");
        init_logging(LogFormat::Json, "=,=not a filter");
        tracing::debug!("not shown");
    }
}
