//! What can go wrong, per verb; every text says what to do.

use std::time::Duration;

use imaccess_wire::Code;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A setting can't be right.
    #[error("{0}")]
    Invalid(String),
    /// ipconfig didn't answer and no earlier answer is known.
    #[error("ipconfig at {url} gave no endpoints: {why}. Is the cluster running, and is this its address?")]
    Ipconfig {
        /// What was asked.
        url: String,
        /// What came instead of an answer.
        why: String,
    },
    /// ipconfig answered, but lists no endpoint that this client can use.
    #[error(
        "the cluster lists no endpoint for this client ({0} listed, TCP is what this client speaks); try again later"
    )]
    NoEndpoint(usize),
    /// None of the endpoints could be reached.
    #[error(
        "no gateway could be reached; the last one tried was {endpoint}: {why}. Check the network, then try again"
    )]
    Unreachable {
        /// The endpoint tried last.
        endpoint: String,
        /// What happened there.
        why: String,
    },
    /// The login was refused.
    #[error("the login was refused ({code}{}); {}", said(reason), advice(*code, *retry_after))]
    Refused {
        /// Why.
        code: Code,
        /// The server's words, if any.
        reason: String,
        /// When to try again, if the server said so.
        retry_after: Option<Duration>,
    },
    /// Online, but a group of the builder couldn't be joined; the client was closed.
    #[error("group {group:?} of business {business} couldn't be joined")]
    Group {
        /// The group's business.
        business: u32,
        /// The group.
        group: String,
        /// Why.
        source: RequestError,
    },
    /// The gateway ended the connection before it was online, or said nothing in time.
    #[error("{endpoint} ended the login ({code}); try again")]
    Lost {
        /// The endpoint.
        endpoint: String,
        /// Why, as far as is known.
        code: Code,
    },
}

impl ConnectError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Invalid(_) => false,
            Self::Refused { code, .. } => !is_final(*code),
            Self::Group { source, .. } => source.is_retryable(),
            _ => true,
        }
    }
}

/// Why there is no reply, or no acceptance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The business or the access layer answered with a code that a repetition won't change.
    #[error("answered with {code} ({number}){}; {}", said(reason), advice(*code, None))]
    Refused {
        /// What the number means; an unknown one counts as the first of its hundred.
        code: Code,
        /// The number as it was sent: businesses may use their own.
        number: u16,
        /// Words that came with it.
        reason: String,
        /// Payload that came with it.
        payload: bytes::Bytes,
    },
    /// The deadline passed. What became of the request is not known.
    #[error("no answer within the deadline (last heard: {last}); it may or may not have been processed")]
    DeadlineExceeded {
        /// The last code told or [`Code::Ok`] if none was: `retry`, `busy`, `connection_lost`…
        last: Code,
    },
    /// A one-way send or a leave was under way when the connection was lost: it may or may not have arrived, and is
    /// never repeated by itself.
    #[error("the connection was lost before this was accepted; it may or may not have arrived")]
    Unknown,
    /// A part of the message is longer than the protocol or the gateway takes.
    #[error("{what} is longer than the {limit} bytes that are allowed; send less")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// How much is allowed.
        limit: usize,
    },
    /// The client is closed.
    #[error("the client is closed ({code}); connect again for more")]
    Closed {
        /// Why.
        code: Code,
    },
}

impl RequestError {
    /// Whether a new request with the same content makes sense.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { code, .. } => code.retryable() || *code == Code::DeadlineExceeded,
            Self::DeadlineExceeded { .. } | Self::Unknown => true,
            Self::TooLong { .. } | Self::Closed { .. } => false,
        }
    }
}

/// Whether a refusal or close with this code ends the client: no later attempt would go better by itself.
pub(crate) fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::Ok
            | Code::TokenInvalid
            | Code::TokenExpired
            | Code::TokenMismatch
            | Code::Forbidden
            | Code::Superseded
            | Code::Kicked
            | Code::ClientLeft
            | Code::UnsupportedVersion
    )
}

fn said(reason: &str) -> String {
    if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    }
}

fn advice(code: Code, retry_after: Option<Duration>) -> String {
    match (code, retry_after) {
        (Code::TokenInvalid | Code::TokenExpired | Code::TokenMismatch, _) => "get a new token".to_owned(),
        (Code::UnsupportedVersion, _) => "update this client".to_owned(),
        (Code::BusinessUnknown, _) => "check the business id".to_owned(),
        (Code::Forbidden, _) => "it isn't allowed".to_owned(),
        (Code::GroupLimit, _) => "leave a group first".to_owned(),
        (_, Some(wait)) => format!("try again in {:.1} s", wait.as_secs_f64()),
        (code, None) if code.retryable() || code == Code::DeadlineExceeded => "try again later".to_owned(),
        _ => "see the code in PROTOCOL.md".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_say_what_to_do() {
        let refused = |code, retry_after| ConnectError::Refused {
            code,
            reason: "full".to_owned(),
            retry_after,
        };
        let text = refused(Code::Overloaded, Some(Duration::from_millis(2_500))).to_string();
        assert_eq!(
            text,
            "the login was refused (overloaded: full); try again in 2.5 s"
        );
        assert!(refused(Code::Overloaded, None).is_retryable());
        assert!(!refused(Code::TokenExpired, None).is_retryable());
        assert!(
            refused(Code::TokenExpired, None)
                .to_string()
                .ends_with("get a new token")
        );
        assert!(RequestError::Unknown.is_retryable());
    }
}
