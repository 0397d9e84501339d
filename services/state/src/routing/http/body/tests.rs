//! Bodies of every kind, and what is said of those that can't be taken.

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inner {
    #[serde(default)]
    list: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outer {
    app: String,
    #[serde(default, deserialize_with = "given")]
    inner: Option<Object<Inner>>,
    #[serde(default, deserialize_with = "given")]
    data: Option<Base64>,
    #[serde(default)]
    priority: Urgency,
    #[serde(default, deserialize_with = "whole")]
    number: u32,
}

async fn refusal(headers: &[(header::HeaderName, &str)], body: &str) -> serde_json::Value {
    use axum::response::IntoResponse;
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(name, value.parse().unwrap());
    }
    let refused = read::<Outer>(&map, Body::from(body.to_owned()))
        .await
        .unwrap_err();
    let response = refused.into_response();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX)
        .await
        .unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn faults_are_named_by_member_or_by_place() {
    let json = [(header::CONTENT_TYPE, "application/json; charset=utf-8")];
    let cases = [
        (r#"{}"#, Some("app"), "app: missing field `app`"),
        (r#"{"app": 5}"#, Some("app"), "app: invalid type: integer `5`"),
        (
            r#"{"app": "a", "apq": 1}"#,
            Some("apq"),
            "apq: unknown field `apq`",
        ),
        (r#"{"app": "a", "app": "b"}"#, None, "duplicate field `app`"),
        (
            r#"{"app": "a", "inner": []}"#,
            Some("inner"),
            "expected an object",
        ),
        (
            r#"{"app": "a", "inner": null}"#,
            Some("inner"),
            "expected an object",
        ),
        (
            r#"{"app": "a", "inner": {"list": ["x", 1]}}"#,
            Some("inner.list[1]"),
            "inner.list[1]: invalid type",
        ),
        (
            r#"{"app": "a", "inner": {"lost": 1}}"#,
            Some("inner.lost"),
            "unknown field `lost`",
        ),
        (r#"{"app": "a", "data": "!"}"#, Some("data"), "data: is no base64"),
        (
            r#"{"app": "a", "data": null}"#,
            Some("data"),
            "data: invalid type: null",
        ),
        (
            r#"{"app": "a", "priority": "urgent"}"#,
            Some("priority"),
            "priority: \"urgent\" is no priority",
        ),
        (
            r#"{"app": "a", "priority": {"high": null}}"#,
            Some("priority"),
            "priority: invalid type",
        ),
        (
            r#"{"app": "a", "number": "5"}"#,
            Some("number"),
            "expected a JSON number",
        ),
        (
            r#"{"app": "a", "number": 5.5}"#,
            Some("number"),
            "number: 5.5 is no whole number",
        ),
        (
            r#"{"app": "a", "number": -1}"#,
            Some("number"),
            "number: -1 is no whole number",
        ),
        (r#"["a"]"#, None, "expected an object at line 1 column"),
        (
            r#""#,
            None,
            "no JSON: EOF while parsing a value at line 1 column 0",
        ),
        ("{\"app\": \"a\",\n]", None, "at line 2 column 1"),
        (
            r#"{"app": "a"} x"#,
            None,
            "no JSON: trailing characters at line 1 column 14",
        ),
    ];
    for (body, field, detail) in cases {
        let problem = refusal(&json, body).await;
        assert_eq!(problem["status"], 400, "{body}");
        let said = problem["detail"].as_str().unwrap();
        assert!(said.contains(detail), "{body}: {said}");
        if field.is_some() {
            assert_eq!(problem["field"].as_str(), field, "{body}: {said}");
        }
    }
}

#[tokio::test]
async fn only_json_as_it_is() {
    let json = (header::CONTENT_TYPE, "application/json");
    for headers in [
        &[][..],
        &[(header::CONTENT_TYPE, "text/plain")],
        &[(header::CONTENT_TYPE, "application/jsonx")],
        &[json.clone(), (header::CONTENT_ENCODING, "gzip")],
    ] {
        assert_eq!(refusal(headers, "{}").await["status"], 415, "{headers:?}");
    }
    let identity = [json, (header::CONTENT_ENCODING, "identity")];
    assert_eq!(refusal(&identity, "{}").await["status"], 400);
}

#[tokio::test]
async fn too_long_is_read_to_the_end_unless_it_can_be_said_before() {
    let long = |length: usize| format!("{{\"app\": \"{}\"}}", "a".repeat(length));
    let json = (header::CONTENT_TYPE, "application/json");
    assert_eq!(
        refusal(std::slice::from_ref(&json), &long(LIMIT)).await["status"],
        413
    );
    assert_eq!(
        refusal(std::slice::from_ref(&json), &long(LIMIT + DISCARD)).await["status"],
        413
    );
    // Nothing is read of these.
    for headers in [
        vec![
            json.clone(),
            (header::CONTENT_LENGTH, "1572865"),
            (header::EXPECT, "100-continue"),
        ],
        vec![json, (header::CONTENT_LENGTH, "100000000")],
    ] {
        assert_eq!(refusal(&headers, "{}").await["status"], 413);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    let never = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
    let refused = read::<Outer>(&headers, Body::from_stream(never))
        .await
        .unwrap_err();
    assert_eq!(refused.status().as_u16(), 408);
}

#[test]
fn what_may_be_written_in_several_ways() {
    let read = |text: &str| serde_json::from_str::<Base64>(&format!("{text:?}"));
    for text in ["+/8=", "+/8", "+/9="] {
        assert_eq!(read(text).unwrap().0, &b"\xfb\xff"[..], "{text}");
    }
    assert_eq!(read("").unwrap().0.len(), 0);
    for text in ["-_8=", "a", "ab=c", " ab", "ab\u{e4}", "+/8=="] {
        assert!(read(text).is_err(), "{text}");
    }
    let parsed: Outer =
        parse(br#"{"app": "a", "data": "aGk=", "priority": "low", "inner": {"list": ["x"]}}"#).unwrap();
    assert_eq!(parsed.app, "a");
    assert_eq!(parsed.priority.0, Priority::Low);
    assert_eq!(parsed.data.unwrap().0, &b"hi"[..]);
    assert_eq!(parsed.inner.unwrap().0.list, ["x"]);
    for number in ["4294967295", "4294967295.0", "4.294967295e9"] {
        let body = format!("{{\"app\": \"a\", \"number\": {number}}}");
        assert_eq!(
            parse::<Outer>(body.as_bytes()).unwrap().number,
            u32::MAX,
            "{number}"
        );
    }
}
