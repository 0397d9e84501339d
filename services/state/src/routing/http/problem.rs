//! Refusals, as RFC 9457 has them: `application/problem+json`.

use std::time::Duration;

use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tonic::{Code, Status};

use super::body::{DEADLINE, LIMIT};
use crate::routing::front::{REPLAYED, RETRY_AFTER};

/// When to come again, where nothing better is known.
const SOON: Duration = Duration::from_secs(1);

/// Why a request isn't answered as wished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    status: StatusCode,
    /// One word for machines: the gRPC code, or what HTTP alone can refuse.
    code: &'static str,
    detail: String,
    /// What is to blame: a member of the body, a parameter or a header.
    field: Option<String>,
    retry_after: Option<Duration>,
    replayed: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

// === impl Problem ===

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: String) -> Problem {
        Problem {
            status,
            code,
            detail,
            field: None,
            retry_after: None,
            replayed: false,
        }
    }

    /// A field is wrong; `what` goes on after its name.
    pub(super) fn field(field: &str, what: &str) -> Problem {
        Problem {
            field: Some(field.to_owned()),
            ..Problem::malformed(format!("{field}: {what}"))
        }
    }

    /// The request can't be read.
    pub(super) fn malformed(detail: String) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "invalid_argument", detail)
    }

    pub(super) fn no_such_path() -> Problem {
        let detail = "there is nothing at this path; /docs lists what there is".to_owned();
        Problem::new(StatusCode::NOT_FOUND, "no_such_path", detail)
    }

    pub(super) fn wrong_method(method: &Method) -> Problem {
        let detail =
            format!("{method} isn't for this path; the header Allow lists what is, and /docs says more");
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", detail)
    }

    pub(super) fn too_long() -> Problem {
        let detail = format!("the body is longer than {LIMIT} bytes; spread the devices over several calls");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_long", detail)
    }

    pub(super) fn too_slow() -> Problem {
        let seconds = DEADLINE.as_secs();
        let detail = format!("the body didn't come within {seconds} seconds");
        Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", detail)
    }

    pub(super) fn wrong_type(detail: &str) -> Problem {
        Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "wrong_content_type",
            detail.to_owned(),
        )
    }

    pub(super) fn internal(detail: &str) -> Problem {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail.to_owned())
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn code(&self) -> &'static str {
        self.code
    }
}

impl From<Status> for Problem {
    fn from(refusal: Status) -> Problem {
        let (status, code) = of_code(refusal.code());
        let metadata = refusal.metadata();
        let milliseconds = metadata
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let waits = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        let replayed = metadata.contains_key(REPLAYED);
        let detail = refusal.message().to_owned();
        // Other sentences begin with whatever they like.
        let names_a_field = matches!(refusal.code(), Code::InvalidArgument | Code::Unimplemented);
        let field = names_a_field.then(|| field_of(&detail)).flatten();
        Problem {
            field: field.map(str::to_owned),
            retry_after: waits.then(|| milliseconds.map_or(SOON, Duration::from_millis)),
            replayed,
            ..Problem::new(status, code, detail)
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Refused"),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            field: self.field.as_deref(),
        };
        let mut response = (self.status, axum::Json(&body)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(retry_after) = self.retry_after {
            let seconds = retry_after.as_millis().div_ceil(1_000).max(1);
            let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.replayed {
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// What a gRPC code is in HTTP, and its word.
fn of_code(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::InvalidArgument => (StatusCode::BAD_REQUEST, "invalid_argument"),
        Code::FailedPrecondition => (StatusCode::BAD_REQUEST, "failed_precondition"),
        Code::OutOfRange => (StatusCode::BAD_REQUEST, "out_of_range"),
        Code::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
        Code::PermissionDenied => (StatusCode::FORBIDDEN, "permission_denied"),
        Code::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        Code::AlreadyExists => (StatusCode::CONFLICT, "already_exists"),
        Code::Aborted => (StatusCode::CONFLICT, "aborted"),
        Code::ResourceExhausted => (StatusCode::TOO_MANY_REQUESTS, "resource_exhausted"),
        Code::Unimplemented => (StatusCode::NOT_IMPLEMENTED, "unimplemented"),
        Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        Code::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded"),
        Code::Cancelled => (StatusCode::INTERNAL_SERVER_ERROR, "cancelled"),
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => {
            (StatusCode::INTERNAL_SERVER_ERROR, "internal")
        }
    }
}

/// The field that a sentence begins with: `devices[3]: has 0 bytes…`.
fn field_of(sentence: &str) -> Option<&str> {
    let (field, _) = sentence.split_once(": ")?;
    let in_names = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.[]".contains(&byte);
    let begins_well = field.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    (begins_well && field.bytes().all(in_names)).then_some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_told_from_sentences() {
        let cases = [
            ("devices[3]: has 0 bytes", Some("devices[3]")),
            ("filter.version_from: is no version", Some("filter.version_from")),
            ("business: must not be 0", Some("business")),
            ("the queues are full: push again", None),
            ("Busy: come again", None),
            ("[3]: x", None),
            (": x", None),
            ("no colon", None),
        ];
        for (sentence, field) in cases {
            assert_eq!(field_of(sentence), field, "{sentence}");
        }
    }

    #[test]
    fn every_code_has_its_status() {
        let cases = [
            (Code::InvalidArgument, 400),
            (Code::Unauthenticated, 401),
            (Code::PermissionDenied, 403),
            (Code::NotFound, 404),
            (Code::AlreadyExists, 409),
            (Code::Aborted, 409),
            (Code::ResourceExhausted, 429),
            (Code::Unimplemented, 501),
            (Code::Unavailable, 503),
            (Code::DeadlineExceeded, 504),
            (Code::Internal, 500),
        ];
        for (code, expected) in cases {
            let problem = Problem::from(Status::new(code, "group: no"));
            assert_eq!(problem.status().as_u16(), expected, "{code:?}");
            let response = problem.clone().into_response();
            let waits = response.headers().contains_key(header::RETRY_AFTER);
            assert_eq!(waits, matches!(expected, 429 | 503), "{code:?}");
            let blamed = problem.field.is_some();
            assert_eq!(blamed, matches!(expected, 400 | 501), "{code:?}");
        }
    }

    #[test]
    fn retry_after_is_rounded_up_to_seconds() {
        for (milliseconds, seconds) in [("1", "1"), ("1000", "1"), ("1001", "2"), ("0", "1"), ("x", "1")] {
            let mut status = Status::resource_exhausted("full");
            status
                .metadata_mut()
                .insert(RETRY_AFTER, milliseconds.parse().unwrap());
            let response = Problem::from(status).into_response();
            assert_eq!(response.headers()[header::RETRY_AFTER], seconds, "{milliseconds}");
        }
    }
}
