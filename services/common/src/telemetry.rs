//! Logs: to stderr, for people or as JSON lines, never with payloads or tokens.

use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

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

/// Lets a line through once a second: for what strangers can cause as often as they like, and an operator should see.
/// The counter beside it has them all.
#[derive(Debug, Default)]
pub struct Seldom {
    last: Mutex<Option<Instant>>,
}

impl Seldom {
    /// Whether a line may be logged at `now`.
    pub fn may(&self, now: Instant) -> bool {
        const PAUSE: Duration = Duration::from_secs(1);
        // Whoever is held up by another that logs right now has nothing new to say.
        let Ok(mut last) = self.last.try_lock() else {
            return false;
        };
        let may = last.is_none_or(|last| now.saturating_duration_since(last) >= PAUSE);
        if may {
            *last = Some(now);
        }
        may
    }
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

    #[test]
    fn a_line_a_second() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let at = |milliseconds| seldom.may(start + Duration::from_millis(milliseconds));
        assert_eq!(
            [0, 1, 999, 1_000, 1_500, 2_000].map(at),
            [true, false, false, true, false, true]
        );
    }
}
