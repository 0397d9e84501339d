//! What is refused, and how that reads.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Status};

use super::Served;
use crate::routing::RoutingConfig;
use crate::routing::http::body::LIMIT;
use crate::routing::http::testing::{Answer, Ask};

const PUSH: &str = "/v1/businesses/7/push";
const GOOD: &str = r#"{"app": "a", "devices": ["d"]}"#;

/// The problem's document, which says the same as the status.
fn problem(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["status"], status);
    assert_eq!(problem["type"], "about:blank");
    assert_eq!(
        problem["title"].as_str(),
        answer.status.canonical_reason(),
        "the title of about:blank is the status's own"
    );
    problem
}

#[tokio::test]
async fn codes_of_the_api_are_statuses() {
    let served = Served::start().await;
    let cases = [
        (Code::InvalidArgument, 400, "invalid_argument", true),
        (Code::FailedPrecondition, 400, "failed_precondition", false),
        (Code::OutOfRange, 400, "out_of_range", false),
        (Code::Unauthenticated, 401, "unauthenticated", false),
        (Code::PermissionDenied, 403, "permission_denied", false),
        (Code::NotFound, 404, "not_found", false),
        (Code::AlreadyExists, 409, "already_exists", false),
        (Code::Aborted, 409, "aborted", false),
        (Code::ResourceExhausted, 429, "resource_exhausted", false),
        (Code::Unimplemented, 501, "unimplemented", true),
        (Code::Unavailable, 503, "unavailable", false),
        (Code::DeadlineExceeded, 504, "deadline_exceeded", false),
        (Code::Cancelled, 500, "cancelled", false),
        (Code::Internal, 500, "internal", false),
        (Code::Unknown, 500, "internal", false),
        (Code::DataLoss, 500, "internal", false),
    ];
    for (code, status, word, blames) in cases {
        served
            .fake
            .refuse(Some(Status::new(code, "devices[1]: has 0 bytes")));
        let answer = served.post(PUSH, GOOD).await;
        let problem = problem(&answer, status);
        assert_eq!(problem["code"], word);
        assert_eq!(problem["detail"], "devices[1]: has 0 bytes");
        let field = problem.get("field").and_then(Value::as_str);
        assert_eq!(field, blames.then_some("devices[1]"), "{code:?}");
        let waits = answer.header("retry-after");
        assert_eq!(waits, matches!(status, 429 | 503).then_some("1"), "{code:?}");
        let asks = answer.header("www-authenticate");
        assert_eq!(asks, (status == 401).then_some("Bearer"), "{code:?}");
    }
    served.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let served = Served::start().await;
    for path in [
        "/",
        "/v1",
        "/v1/businesses/7",
        "/v1/businesses/7/push/",
        "/v2/businesses/7/push",
        "/metrics",
    ] {
        let answer = served.post(path, GOOD).await;
        assert_eq!(problem(&answer, 404)["code"], "no_such_path", "{path}");
    }
    for (method, path, allowed) in [
        ("GET", PUSH, "POST"),
        ("BREW", PUSH, "POST"),
        ("OPTIONS", "/v1/businesses/7/groups/g", "PUT,DELETE"),
        ("DELETE", "/v1/businesses/7/groups/g/members", "POST,GET,HEAD"),
        ("POST", "/docs", "GET,HEAD"),
    ] {
        let answer = served.ask(Ask::new(method, path)).await;
        assert_eq!(problem(&answer, 405)["code"], "wrong_method", "{method} {path}");
        assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
    }
    assert!(served.fake.heard().is_empty());
    served.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let served = Served::start().await;
    let cases = [
        (PUSH, r#"{"app": "a"}"#, Some("devices"), "missing field"),
        (
            PUSH,
            r#"{"app": "a", "devices": ["d", 5]}"#,
            Some("devices[1]"),
            "integer `5`",
        ),
        (
            PUSH,
            r#"{"app": "a", "devices": ["d"], "priorty": "high"}"#,
            Some("priorty"),
            "unknown field",
        ),
        (
            PUSH,
            r#"{"app": "a", "devices": ["d"], "priority": "top"}"#,
            Some("priority"),
            "normal, high or low",
        ),
        (
            PUSH,
            r#"{"app": "a", "devices": ["d"], "ttl_ms": -1}"#,
            Some("ttl_ms"),
            "-1",
        ),
        (
            PUSH,
            r#"{"app": "a", "devices": ["d"], "ttl_ms": 4294967296}"#,
            Some("ttl_ms"),
            "4294967296",
        ),
        (
            PUSH,
            r#"{"app": "a", "devices": ["d"], "payload": "%"}"#,
            Some("payload"),
            "no base64",
        ),
        (
            PUSH,
            r#"{"app": "a", "devices": ["d"], "payload": "", "text": ""}"#,
            Some("payload"),
            "give one of them",
        ),
        (
            PUSH,
            r#"{"app": "a", "devices": ["d"], "text": null}"#,
            Some("text"),
            "null",
        ),
        (PUSH, "[]", None, "expected an object"),
        (PUSH, "{\n\"app\" 5}", None, "line 2 column 7"),
        (PUSH, "", None, "line 1 column 0"),
        (PUSH, "\u{feff}{}", None, "line 1 column 1"),
        (
            "/v1/businesses/7/broadcast",
            r#"{"filter": {"platform": "ios"}}"#,
            Some("filter.platform"),
            "unknown field",
        ),
        ("/v1/businesses//push", GOOD, Some("business"), "whole number"),
        (
            "/v1/businesses/4294967296/push",
            GOOD,
            Some("business"),
            "whole number",
        ),
        (
            "/v1/businesses/7/groups/%zz/push",
            "{}",
            Some("group"),
            "hexadecimal",
        ),
        (
            "/v1/businesses/7/push?dry_run=1",
            GOOD,
            Some("dry_run"),
            "no such query parameter",
        ),
    ];
    for (path, body, field, detail) in cases {
        let answer = served.post(path, body).await;
        let problem = problem(&answer, 400);
        assert_eq!(problem["field"].as_str(), field, "{body}: {problem}");
        let said = problem["detail"].as_str().unwrap();
        assert!(said.contains(detail), "{body}: {said}");
    }
    let answer = served
        .ask(Ask::new("GET", "/v1/businesses/7/groups/g/members?limit=ten"))
        .await;
    assert_eq!(problem(&answer, 400)["field"], "limit");
    for key in ["", &"k".repeat(65), "with space"] {
        let answer = served
            .ask(Ask::new("POST", PUSH).json(GOOD).with("idempotency-key", key))
            .await;
        assert_eq!(problem(&answer, 400)["field"], "Idempotency-Key", "{key}");
    }
    assert!(served.fake.heard().is_empty());
    served.stop().await;
}

#[tokio::test]
async fn bodies_of_other_kinds_and_too_long_ones() {
    let served = Served::start().await;
    let ask = Ask::new("POST", PUSH).body(GOOD.as_bytes());
    for ask in [
        ask.clone(),
        ask.clone()
            .with("content-type", "application/x-www-form-urlencoded"),
        ask.with("content-type", "application/json")
            .with("content-encoding", "gzip"),
    ] {
        problem(&served.ask(ask).await, 415);
    }
    // As long as it may be, and one byte longer; then one that isn't read to its end.
    let padded = |length: usize| format!("{GOOD}{}", " ".repeat(length - GOOD.len()));
    assert_eq!(served.post(PUSH, &padded(LIMIT)).await.status, 200);
    let answer = served.post(PUSH, &padded(LIMIT + 1)).await;
    assert_eq!(problem(&answer, 413)["code"], "too_long");

    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let head = format!(
        "POST {PUSH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Expect: 100-continue\r\n\r\n",
        LIMIT + 1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert_eq!(served.fake.heard().len(), 1);
    served.stop().await;
}

#[tokio::test]
async fn who_may_not_call_is_told_before_the_body_is_read() {
    let config = RoutingConfig {
        push_clients: vec!["push.demo".to_owned()],
        ..RoutingConfig::default()
    };
    let served = Served::start_with(&config).await;
    for body in [GOOD, "nonsense"] {
        let answer = served.post(PUSH, body).await;
        assert_eq!(problem(&answer, 401)["code"], "unauthenticated");
    }
    let answer = served
        .ask(Ask::new("GET", "/v1/businesses/7/groups/g/members"))
        .await;
    problem(&answer, 401);
    for path in ["/openapi.json", "/docs"] {
        assert_eq!(served.ask(Ask::new("GET", path)).await.status, 200);
    }
    assert!(served.fake.heard().is_empty());
    served.stop().await;
}

#[tokio::test]
async fn connections_on_which_nothing_happens_do_not_hold_up_the_end() {
    let served = Served::start().await;
    let _silent = TcpStream::connect(served.address).await.unwrap();
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    idle.write_all(b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    served.stop().await;
    idle.read_to_end(&mut Vec::new()).await.unwrap();
}
