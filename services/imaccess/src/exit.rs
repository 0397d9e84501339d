//! Exit statuses, and errors that carry one.

use std::fmt;
use std::process::ExitCode;

/// A status other than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(u8);

/// It failed, and will fail again.
pub(crate) const FAILED: Status = Status(1);
/// Wrong usage or configuration (sysexits' EX_USAGE).
pub(crate) const USAGE: Status = Status(64);
/// Not now, try again (sysexits' EX_TEMPFAIL).
pub(crate) const RETRY: Status = Status(75);

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.0)
    }
}

/// An error that ends the program with a status of its own.
#[derive(Debug)]
pub(crate) struct Exit {
    status: Status,
    source: anyhow::Error,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl std::error::Error for Exit {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.source()
    }
}

/// Gives an error's way out a status.
pub(crate) trait WithStatus<T> {
    /// If this is an error, the program ends with `status`.
    fn or_exit(self, status: Status) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> WithStatus<T> for Result<T, E> {
    fn or_exit(self, status: Status) -> anyhow::Result<T> {
        self.map_err(|error| {
            Exit {
                status,
                source: error.into(),
            }
            .into()
        })
    }
}

/// The status that goes with an error.
pub(crate) fn status_of(error: &anyhow::Error) -> ExitCode {
    error
        .downcast_ref::<Exit>()
        .map_or(FAILED, |exit| exit.status)
        .into()
}

/// Whether the error says that trying again makes sense.
pub(crate) fn is_retry(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Exit>()
        .is_some_and(|exit| exit.status == RETRY)
}

/// [`RETRY`] if trying again makes sense, else [`FAILED`].
pub(crate) fn retry_if(retryable: bool) -> Status {
    if retryable { RETRY } else { FAILED }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn a_status_survives_context_and_nothing_is_said_twice() {
        let inner: anyhow::Result<()> = Err(anyhow!("refused")).context("can't connect");
        let error = inner.or_exit(RETRY).context("push").unwrap_err();
        assert_eq!(format!("{error:#}"), "push: can't connect: refused");
        assert_eq!(error.downcast_ref::<Exit>().map(|exit| exit.status), Some(RETRY));
        assert!(is_retry(&error) && !is_retry(&anyhow!("broken")));
    }
}
