//! What may go wrong in a pass, and what follows from it.

use imaccess_operator_plan::plan::Kind;

use crate::authority::AuthorityError;
use crate::kinds;
use crate::leader::gate::GateClosed;

/// Why a pass didn't do all that it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The custom resource can't be read.
    #[error("the resource can't be read: {0}")]
    Undecodable(String),
    /// The code that decides panicked.
    #[error("deciding what to do failed; this is a defect of the operator: {0}")]
    Panicked(String),
    /// It took too long.
    #[error("the pass took too long and was given up")]
    TooLong,
    /// The API server, or the way there.
    #[error("{what}: {}", explain(.source))]
    Api {
        /// What was tried.
        what: String,
        /// What came of it.
        source: kube::Error,
    },
    /// Keys or certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A gateway that is to be replaced doesn't agree.
    #[error("{pod}: {why}")]
    Gateway {
        /// Its pod.
        pod: String,
        /// What it said.
        why: String,
    },
    /// What was planned for has happened already, or something else has.
    #[error("{0} has changed since it was looked at")]
    Changed(String),
    /// An object that was read isn't what it should be.
    #[error("{0}")]
    Unexpected(String),
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The object had changed: look again at once.
    Conflict,
    /// This operator doesn't lead: whoever does goes on.
    NotLeading,
    /// It may work later: again, less and less often.
    Transient,
    /// Somebody must change something: rights, a specification. Wait for a change, and look now and then, since not every
    /// change is seen.
    Refused,
    /// A defect: as [`Class::Refused`].
    Defect,
}

impl Error {
    /// What follows from it.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Error::Undecodable(_) => Class::Refused,
            Error::Panicked(_) => Class::Defect,
            Error::Changed(_) => Class::Conflict,
            Error::TooLong | Error::Authority(_) | Error::Unexpected(_) | Error::Gateway { .. } => {
                Class::Transient
            }
            Error::Api { source, .. } => class_of(source),
        }
    }

    /// In CamelCase, for conditions, Events and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Error::Undecodable(_) => "InvalidSpecification",
            Error::Panicked(_) => "OperatorDefect",
            Error::TooLong => "TimedOut",
            Error::Changed(_) => "Conflict",
            Error::Gateway { .. } => "GatewayRefused",
            Error::Authority(_) => "CertificateAuthorityUnusable",
            Error::Unexpected(_) => "UnexpectedObject",
            Error::Api { source, .. } => match (class_of(source), source) {
                (Class::Conflict, _) => "Conflict",
                (Class::NotLeading, _) => "NotLeading",
                (_, kube::Error::Api(status)) if status.is_forbidden() => "Forbidden",
                (_, kube::Error::Api(status)) if status.is_invalid() || status.code == 400 => "Rejected",
                _ => "ApiUnavailable",
            },
        }
    }

    /// Somebody else's object has a name that the operator needs.
    pub(crate) fn taken(kind: Kind, name: &str) -> Error {
        Error::Unexpected(format!(
            "{} {name} is there and doesn't belong to this cluster. Delete or rename it; the operator needs the name",
            kinds::name(kind)
        ))
    }

    /// Of a write.
    #[must_use]
    pub(crate) fn writing(verb: &str, kind: Kind, name: &str, source: kube::Error) -> Error {
        Error::Api {
            what: format!("{verb} {} {name}", kinds::name(kind)),
            source,
        }
    }

    /// Of a read.
    pub(crate) fn reading(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
        let what = what.into();
        move |source| Error::Api {
            what: format!("read {what}"),
            source,
        }
    }
}

fn class_of(fault: &kube::Error) -> Class {
    match fault {
        kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => Class::Conflict,
        kube::Error::Api(status) if status.is_forbidden() || status.is_invalid() || status.code == 400 => {
            Class::Refused
        }
        kube::Error::Service(fault) if fault.downcast_ref::<GateClosed>().is_some() => Class::NotLeading,
        _ => Class::Transient,
    }
}

/// The API server's own sentence; of other errors the chain.
fn explain(fault: &kube::Error) -> String {
    if let kube::Error::Api(status) = fault
        && !status.message.is_empty()
    {
        return status.message.clone();
    }
    let mut text = fault.to_string();
    let mut cause = std::error::Error::source(fault);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn api(reason: &str, code: u16) -> Error {
        let status = Status::failure("a sentence", reason).with_code(code);
        Error::writing("apply", Kind::Service, "demo", kube::Error::Api(status.boxed()))
    }

    #[test]
    fn failures_are_classified() {
        let service = |fault: tower::BoxError| {
            Error::writing("apply", Kind::Service, "demo", kube::Error::Service(fault))
        };
        let table = [
            (api("Conflict", 409), Class::Conflict, "Conflict"),
            (api("AlreadyExists", 409), Class::Conflict, "Conflict"),
            (api("Forbidden", 403), Class::Refused, "Forbidden"),
            (api("Invalid", 422), Class::Refused, "Rejected"),
            (api("BadRequest", 400), Class::Refused, "Rejected"),
            (api("InternalError", 500), Class::Transient, "ApiUnavailable"),
            (api("NotFound", 404), Class::Transient, "ApiUnavailable"),
            (service(Box::new(GateClosed)), Class::NotLeading, "NotLeading"),
            (service("cut".into()), Class::Transient, "ApiUnavailable"),
            (Error::Panicked("x".to_owned()), Class::Defect, "OperatorDefect"),
        ];
        for (error, class, reason) in table {
            assert_eq!((error.class(), error.reason()), (class, reason), "{error}");
        }
        assert_eq!(api("Invalid", 422).to_string(), "apply Service demo: a sentence");
    }
}
