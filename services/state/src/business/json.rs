//! What is said to a business by HTTP, and what it answers: the mapping between the messages of `business.proto` and JSON.
//!
//! `docs/businesses.md` is its description for those who write a business. Numbers of 64 bits are strings, since not every JSON has
//! them; bytes are base64, and a payload that is text stands there as such too.

use std::borrow::Cow;

use axum::http::StatusCode;
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use imaccess_proto::v1::{
    AccessHello, BusinessReply, BusinessRequest, ConnectionEvent, EventBatch, EventKind,
};
use imaccess_wire::Code;
use serde::{Deserialize, Serialize};

use super::calls::CallError;

/// Written with padding, read with or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// When a server says that it is busy, and not for how long.
const USUAL_WAIT_MS: u32 = 1_000;

#[derive(Serialize)]
#[cfg_attr(test, derive(Deserialize))]
struct RequestBody<'a> {
    app: Cow<'a, str>,
    device: Cow<'a, str>,
    session: String,
    message_id: String,
    deadline_ms: u32,
    traceparent: Cow<'a, str>,
    metadata: String,
    payload: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    one_way: bool,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(Serialize))]
struct ReplyBody {
    code: Option<u32>,
    payload: Option<String>,
    text: Option<String>,
    retry_after_ms: Option<u32>,
}

#[derive(Serialize)]
struct EventsBody<'a> {
    from: Dialler<'a>,
    events: Vec<Event<'a>>,
    snapshot: Vec<Event<'a>>,
    snapshot_done: bool,
}

#[derive(Serialize)]
struct Dialler<'a> {
    cluster: &'a str,
    instance: &'a str,
    business: u32,
}

#[derive(Serialize)]
struct Event<'a> {
    sequence: u64,
    kind: &'static str,
    app: &'a str,
    device: &'a str,
    session: String,
    epoch: String,
    reason: u32,
    unix_ms: u64,
}

#[derive(Deserialize)]
struct EventsAnswer {
    #[serde(default)]
    resync: bool,
}

/// The body of a POST to `/request`.
pub(super) fn request(request: &BusinessRequest) -> Vec<u8> {
    written(&RequestBody {
        app: Cow::Borrowed(&request.app),
        device: Cow::Borrowed(&request.device),
        session: hex::encode(&request.session),
        message_id: request.message_id.to_string(),
        deadline_ms: request.deadline_ms,
        traceparent: Cow::Borrowed(&request.traceparent),
        metadata: BASE64.encode(&request.metadata),
        payload: BASE64.encode(&request.payload),
        text: std::str::from_utf8(&request.payload).ok().map(Cow::Borrowed),
        one_way: request.id == 0,
    })
}

/// The body of a POST to `/events`.
pub(super) fn events(batch: &EventBatch) -> Vec<u8> {
    let unknown = AccessHello::default();
    let from = batch.from.as_ref().unwrap_or(&unknown);
    written(&EventsBody {
        from: Dialler {
            cluster: &from.cluster,
            instance: &from.instance,
            business: from.business,
        },
        events: batch.events.iter().map(event).collect(),
        snapshot: batch.snapshot.iter().map(event).collect(),
        snapshot_done: batch.snapshot_done,
    })
}

fn event(event: &ConnectionEvent) -> Event<'_> {
    Event {
        sequence: event.sequence,
        kind: match event.kind() {
            EventKind::Online => "online",
            EventKind::Offline => "offline",
            EventKind::SessionLost => "session_lost",
            EventKind::ResyncNeeded => "resync_needed",
            EventKind::Unspecified => "unspecified",
        },
        app: &event.app,
        device: &event.device,
        session: hex::encode(&event.session),
        epoch: event.epoch.to_string(),
        reason: event.reason,
        unix_ms: event.unix_ms,
    }
}

fn written(body: &impl Serialize) -> Vec<u8> {
    // Structs of texts and numbers, into memory: nothing in it can fail.
    serde_json::to_vec(body).unwrap_or_default()
}

/// The answer to a request, by the status, the header `Retry-After` and the body of its response.
pub(super) fn answer(
    status: StatusCode,
    retry_after: Option<&str>,
    body: &[u8],
) -> Result<BusinessReply, CallError> {
    if status.is_success() {
        return if body.iter().all(u8::is_ascii_whitespace) {
            Ok(BusinessReply::default())
        } else {
            reply(body)
        };
    }
    let says_when = retry_after.is_some();
    match status {
        StatusCode::TOO_MANY_REQUESTS => Ok(busy(retry_after)),
        StatusCode::SERVICE_UNAVAILABLE if says_when => Ok(busy(retry_after)),
        _ if status.is_server_error() => Err(CallError::Failed(format!("status {status}"))),
        _ => Err(CallError::Unusable(format!("status {status}"))),
    }
}

fn reply(body: &[u8]) -> Result<BusinessReply, CallError> {
    let unusable = |what: String| CallError::Unusable(what);
    let body: ReplyBody = serde_json::from_slice(body).map_err(|fault| unusable(fault.to_string()))?;
    let payload = match (body.payload, body.text) {
        (Some(_), Some(_)) => {
            return Err(unusable("it has both a payload and a text".to_owned()));
        }
        (Some(payload), None) => BASE64
            .decode(payload.as_bytes())
            .map_err(|fault| unusable(format!("its payload is no base64: {fault}")))?,
        (None, Some(text)) => text.into_bytes(),
        (None, None) => Vec::new(),
    };
    Ok(BusinessReply {
        id: 0,
        code: body.code.unwrap_or(0),
        payload: Bytes::from(payload),
        retry_after_ms: body.retry_after_ms.unwrap_or(0),
    })
}

/// It lives, and wants to be asked later.
fn busy(retry_after: Option<&str>) -> BusinessReply {
    let seconds = retry_after.and_then(|text| text.trim().parse::<u32>().ok());
    BusinessReply {
        code: Code::Busy as u32,
        retry_after_ms: seconds.map_or(USUAL_WAIT_MS, |seconds| seconds.saturating_mul(1_000)),
        ..BusinessReply::default()
    }
}

/// The answer to events: whether a snapshot is wanted. Every success acknowledges them, whatever the body is.
pub(super) fn events_answer(status: StatusCode, body: &[u8]) -> Result<bool, CallError> {
    if !status.is_success() {
        return Err(CallError::Failed(format!("status {status}")));
    }
    Ok(serde_json::from_slice::<EventsAnswer>(body).is_ok_and(|answer| answer.resync))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn asked(id: u64, payload: &'static [u8]) -> BusinessRequest {
        BusinessRequest {
            id,
            app: "app".to_owned(),
            device: "device".to_owned(),
            session: Bytes::from_static(&[0xab; 16]),
            message_id: u64::MAX,
            deadline_ms: 5_000,
            traceparent: "00-01-02-00".to_owned(),
            metadata: Bytes::from_static(&[0, 255]),
            payload: Bytes::from_static(payload),
        }
    }

    #[test]
    fn a_request_as_it_is_written() {
        let body: Value = serde_json::from_slice(&request(&asked(7, b"hello"))).unwrap();
        let expected = json!({
            "app": "app",
            "device": "device",
            "session": "abababababababababababababababab",
            "message_id": "18446744073709551615",
            "deadline_ms": 5000,
            "traceparent": "00-01-02-00",
            "metadata": "AP8=",
            "payload": "aGVsbG8=",
            "text": "hello",
        });
        assert_eq!(body, expected);
        let body: Value = serde_json::from_slice(&request(&asked(0, &[0xff]))).unwrap();
        assert_eq!(
            (&body["one_way"], &body["payload"]),
            (&json!(true), &json!("/w=="))
        );
        assert!(body.get("text").is_none(), "it is none");
    }

    #[test]
    fn events_as_they_are_written() {
        let event = ConnectionEvent {
            sequence: 3,
            kind: EventKind::Offline as i32,
            app: "app".to_owned(),
            device: "device".to_owned(),
            session: Bytes::from_static(&[1, 2]),
            epoch: u64::MAX,
            reason: 109,
            unix_ms: 1_800_000_000_000,
        };
        let batch = EventBatch {
            from: Some(AccessHello {
                cluster: "c".to_owned(),
                instance: "pod/0.0".to_owned(),
                business: 4,
            }),
            events: vec![event],
            snapshot: vec![],
            snapshot_done: true,
        };
        let body: Value = serde_json::from_slice(&events(&batch)).unwrap();
        let expected = json!({
            "from": {"cluster": "c", "instance": "pod/0.0", "business": 4},
            "events": [{
                "sequence": 3, "kind": "offline", "app": "app", "device": "device", "session": "0102",
                "epoch": "18446744073709551615", "reason": 109, "unix_ms": 1_800_000_000_000u64,
            }],
            "snapshot": [],
            "snapshot_done": true,
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn answers_by_status_and_body() {
        let of = |status: u16, retry_after: Option<&str>, body: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            match answer(status, retry_after, body.as_bytes()) {
                Ok(reply) => Ok((reply.code, reply.payload.to_vec(), reply.retry_after_ms)),
                Err(fault) => Err(fault.to_string()),
            }
        };
        assert_eq!(of(200, None, ""), Ok((0, vec![], 0)));
        assert_eq!(of(204, None, ""), Ok((0, vec![], 0)));
        assert_eq!(of(200, None, " {} \n"), Ok((0, vec![], 0)));
        assert_eq!(
            of(200, None, r#"{"text": "h\u00e9"}"#),
            Ok((0, "hé".as_bytes().to_vec(), 0))
        );
        assert_eq!(of(200, None, r#"{"payload": "AP8="}"#), Ok((0, vec![0, 255], 0)));
        assert_eq!(
            of(200, None, r#"{"payload": "AP8"}"#),
            Ok((0, vec![0, 255], 0)),
            "without padding"
        );
        assert_eq!(
            of(
                200,
                None,
                r#"{"code": 300, "retry_after_ms": 20, "payload": null, "more": [1]}"#
            ),
            Ok((300, vec![], 20))
        );
        assert_eq!(of(429, Some("3"), "slow down"), Ok((301, vec![], 3_000)));
        assert_eq!(of(429, None, ""), Ok((301, vec![], USUAL_WAIT_MS)));
        assert_eq!(
            of(503, Some("Wed, 21 Oct 2026 07:28:00 GMT"), ""),
            Ok((301, vec![], USUAL_WAIT_MS))
        );
        for (status, body, expected) in [
            (503, "", "the server failed: status 503"),
            (500, "{}", "the server failed: status 500"),
            (404, "{}", "can't be used: status 404"),
            (302, "", "can't be used: status 302"),
            (200, "hello", "can't be used"),
            (200, r#"{"payload": "!"}"#, "no base64"),
            (200, r#"{"payload": "", "text": ""}"#, "both a payload and a text"),
            (200, r#"{"code": -1}"#, "can't be used"),
            (200, r#"[]x"#, "can't be used"),
        ] {
            let fault = of(status, None, body).unwrap_err();
            assert!(fault.contains(expected), "{status} {body}: {fault}");
        }
    }

    #[test]
    fn every_success_acknowledges_events() {
        let of = |status: u16, body: &[u8]| events_answer(StatusCode::from_u16(status).unwrap(), body);
        assert!(matches!(of(204, b""), Ok(false)));
        assert!(matches!(of(200, br#"{"resync": true}"#), Ok(true)));
        assert!(matches!(of(202, b"thanks"), Ok(false)));
        for status in [302, 404, 429, 500, 503] {
            assert!(of(status, b"{}").is_err());
        }
    }

    proptest! {
        #[test]
        fn a_request_can_be_read_back(
            payload in prop::collection::vec(any::<u8>(), 0..200),
            metadata in prop::collection::vec(any::<u8>(), 0..50),
            session in prop::collection::vec(any::<u8>(), 16..17),
            (id, message_id, deadline_ms) in (any::<u64>(), any::<u64>(), any::<u32>()),
            (app, device) in (".{0,12}", ".{0,36}"),
        ) {
            let given = BusinessRequest {
                id, app, device, session: session.into(), message_id, deadline_ms,
                traceparent: String::new(), metadata: metadata.into(), payload: payload.into(),
            };
            let body = request(&given);
            let read: RequestBody<'_> = serde_json::from_slice(&body).unwrap();
            prop_assert_eq!(BASE64.decode(&read.payload).unwrap(), given.payload.to_vec());
            prop_assert_eq!(BASE64.decode(&read.metadata).unwrap(), given.metadata.to_vec());
            prop_assert_eq!(hex::decode(&read.session).unwrap(), given.session.to_vec());
            prop_assert_eq!(read.message_id.parse::<u64>().unwrap(), given.message_id);
            prop_assert_eq!(read.deadline_ms, given.deadline_ms);
            prop_assert_eq!((read.app.as_ref(), read.device.as_ref()), (given.app.as_str(), given.device.as_str()));
            prop_assert_eq!(read.text.map(Cow::into_owned), String::from_utf8(given.payload.to_vec()).ok());
            prop_assert_eq!(read.one_way, given.id == 0);
        }

        #[test]
        fn a_reply_says_the_same_as_bytes_and_as_text(text in ".{0,100}", bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let of = |payload: Option<String>, text: Option<&str>| {
                let body = ReplyBody { code: None, payload, text: text.map(str::to_owned), retry_after_ms: None };
                answer(StatusCode::OK, None, &serde_json::to_vec(&body).unwrap()).unwrap().payload.to_vec()
            };
            prop_assert_eq!(of(None, Some(&text)), text.as_bytes());
            prop_assert_eq!(of(Some(BASE64.encode(&text)), None), text.as_bytes());
            prop_assert_eq!(of(Some(BASE64.encode(&bytes)), None), bytes);
        }

        #[test]
        fn no_body_breaks_anything(body in prop::collection::vec(any::<u8>(), 0..60), status in 200u16..600) {
            let status = StatusCode::from_u16(status).unwrap();
            let _ = answer(status, None, &body);
            let _ = events_answer(status, &body);
        }
    }
}
