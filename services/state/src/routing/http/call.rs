//! From a request's JSON to a call of the API, and back.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use imaccess_proto::v1::push_server::Push;
use imaccess_proto::v1::{
    BroadcastRequest, ChangeMembersRequest, DestroyGroupRequest, DeviceFilter, KickRequest,
    ListMembersRequest, PushDevicesRequest, PushGroupRequest, QueryOnlineRequest,
};
use serde::Deserialize;

use super::Caller;
use super::answer::{self, json};
use super::body::{self, Base64, Object, Urgency, given, whole};
use super::endpoint::Endpoint;
use super::place::Place;
use super::problem::Problem;
use crate::routing::front::MAX_KEY;

/// The header with a call's idempotency key.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Of a push to devices.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DevicesBody {
    app: String,
    devices: Vec<String>,
    #[serde(default, deserialize_with = "given")]
    payload: Option<Base64>,
    #[serde(default, deserialize_with = "given")]
    text: Option<String>,
    #[serde(default)]
    priority: Urgency,
    #[serde(default, deserialize_with = "whole")]
    ttl_ms: u32,
    #[serde(default, deserialize_with = "given")]
    message_id: Option<Base64>,
}

/// Of a push to a group.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupBody {
    #[serde(default, deserialize_with = "given")]
    payload: Option<Base64>,
    #[serde(default, deserialize_with = "given")]
    text: Option<String>,
    #[serde(default)]
    priority: Urgency,
    #[serde(default, deserialize_with = "whole")]
    ttl_ms: u32,
}

/// Of a push to everyone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BroadcastBody {
    #[serde(default, deserialize_with = "given")]
    filter: Option<Object<Filter>>,
    #[serde(default, deserialize_with = "given")]
    payload: Option<Base64>,
    #[serde(default, deserialize_with = "given")]
    text: Option<String>,
    #[serde(default)]
    priority: Urgency,
    #[serde(default, deserialize_with = "whole")]
    ttl_ms: u32,
    #[serde(default, deserialize_with = "given")]
    message_id: Option<Base64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Filter {
    app: String,
    platforms: Vec<String>,
    version_from: String,
    version_to: String,
}

/// Of what is about some devices: members of a group, and who is online.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Devices {
    app: String,
    devices: Vec<String>,
}

/// Of a kick.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KickBody {
    app: String,
    devices: Vec<String>,
    #[serde(default)]
    reason: String,
}

/// What is pushed: bytes, or text.
fn message(payload: Option<Base64>, text: Option<String>) -> Result<Bytes, Problem> {
    match (payload, text) {
        (Some(_), Some(_)) => Err(Problem::field(
            "payload",
            "is given, and text as well; give one of them",
        )),
        (Some(payload), None) => Ok(payload.0),
        (None, Some(text)) => Ok(text.into()),
        (None, None) => Ok(Bytes::new()),
    }
}

/// Makes the call that the request asks for.
pub(super) async fn make<P: Push>(
    push: &P,
    endpoint: Endpoint,
    place: Place,
    caller: Caller,
    headers: &HeaderMap<HeaderValue>,
    body: Body,
) -> Result<Response, Problem> {
    match endpoint {
        Endpoint::PushDevices => push_devices(push, place, caller, headers, body).await,
        Endpoint::PushGroup => push_group(push, place, caller, headers, body).await,
        Endpoint::Broadcast => broadcast(push, place, caller, headers, body).await,
        Endpoint::QueryOnline => {
            let Devices { app, devices } = body::read(headers, body).await?;
            let message = QueryOnlineRequest {
                business: place.business,
                app,
                devices: devices.clone(),
            };
            let answer = push.query_online(caller.request(message)).await?;
            answer::presences(&devices, &answer.into_inner())
        }
        Endpoint::Kick => {
            let KickBody { app, devices, reason } = body::read(headers, body).await?;
            let message = KickRequest {
                business: place.business,
                app,
                devices: devices.clone(),
                reason,
            };
            let answer = push.kick(caller.request(message)).await?.into_inner();
            answer::outcomes(&devices, &answer.outcomes)
        }
        Endpoint::CreateGroup | Endpoint::JoinGroup | Endpoint::LeaveGroup => {
            let Devices { app, devices } = body::read(headers, body).await?;
            let message = ChangeMembersRequest {
                business: place.business,
                group: place.group,
                app,
                devices: devices.clone(),
            };
            let request = caller.request(message);
            let answer = match endpoint {
                Endpoint::CreateGroup => push.create_group(request).await?,
                Endpoint::JoinGroup => push.join_group(request).await?,
                _ => push.leave_group(request).await?,
            };
            answer::outcomes(&devices, &answer.into_inner().outcomes)
        }
        Endpoint::ListMembers => {
            let message = ListMembersRequest {
                business: place.business,
                group: place.group,
                limit: place.limit,
            };
            let answer = push.list_members(caller.request(message)).await?;
            Ok(json(&answer::Members::of(&answer.into_inner())))
        }
        Endpoint::DestroyGroup => {
            let message = DestroyGroupRequest {
                business: place.business,
                group: place.group,
            };
            let answer = push.destroy_group(caller.request(message)).await?.into_inner();
            Ok(json(&answer::Destroyed::of(&answer)))
        }
        Endpoint::Document | Endpoint::Page => Err(Problem::no_such_path()),
    }
}

async fn push_devices<P: Push>(
    push: &P,
    place: Place,
    caller: Caller,
    headers: &HeaderMap<HeaderValue>,
    body: Body,
) -> Result<Response, Problem> {
    let idempotency_key = idempotency_key(headers)?;
    let body: DevicesBody = body::read(headers, body).await?;
    let devices = body.devices.clone();
    let message = PushDevicesRequest {
        business: place.business,
        app: body.app,
        devices: body.devices,
        payload: message(body.payload, body.text)?,
        priority: body.priority.0.into(),
        ttl_ms: body.ttl_ms,
        message_id: body.message_id.map(|id| id.0).unwrap_or_default(),
        idempotency_key,
        ..PushDevicesRequest::default()
    };
    let answer = push.push_devices(caller.request(message)).await?;
    let (metadata, answer, _) = answer.into_parts();
    let response = answer::outcomes(&devices, &answer.outcomes)?;
    Ok(answer::marked(response, &metadata))
}

async fn push_group<P: Push>(
    push: &P,
    place: Place,
    caller: Caller,
    headers: &HeaderMap<HeaderValue>,
    body: Body,
) -> Result<Response, Problem> {
    let idempotency_key = idempotency_key(headers)?;
    let body: GroupBody = body::read(headers, body).await?;
    let message = PushGroupRequest {
        business: place.business,
        group: place.group,
        payload: message(body.payload, body.text)?,
        priority: body.priority.0.into(),
        ttl_ms: body.ttl_ms,
        idempotency_key,
    };
    let answer = push.push_group(caller.request(message)).await?;
    let (metadata, answer, _) = answer.into_parts();
    Ok(answer::marked(json(&answer::GroupPushed::of(&answer)), &metadata))
}

async fn broadcast<P: Push>(
    push: &P,
    place: Place,
    caller: Caller,
    headers: &HeaderMap<HeaderValue>,
    body: Body,
) -> Result<Response, Problem> {
    let idempotency_key = idempotency_key(headers)?;
    let body: BroadcastBody = body::read(headers, body).await?;
    let filter = body.filter.map(|Object(filter)| DeviceFilter {
        app: filter.app,
        platforms: filter.platforms,
        version_from: filter.version_from,
        version_to: filter.version_to,
    });
    let message = BroadcastRequest {
        business: place.business,
        filter,
        payload: message(body.payload, body.text)?,
        priority: body.priority.0.into(),
        ttl_ms: body.ttl_ms,
        message_id: body.message_id.map(|id| id.0).unwrap_or_default(),
        idempotency_key,
    };
    let answer = push.broadcast(caller.request(message)).await?;
    let (metadata, answer, _) = answer.into_parts();
    Ok(answer::marked(json(&answer::Broadcasted::of(&answer)), &metadata))
}

/// The key of the header; empty without one.
fn idempotency_key(headers: &HeaderMap<HeaderValue>) -> Result<String, Problem> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = given.next() else {
        return Ok(String::new());
    };
    let fault = |what: &str| Err(Problem::field("Idempotency-Key", what));
    if given.next().is_some() {
        return fault("is given twice");
    }
    let bytes = key.as_bytes();
    if bytes.is_empty() || bytes.len() > MAX_KEY || !bytes.iter().all(u8::is_ascii_graphic) {
        return fault(&format!("must be 1 to {MAX_KEY} visible ASCII characters"));
    }
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_one_short_visible_word() {
        let key = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value).unwrap());
            }
            idempotency_key(&headers).ok()
        };
        assert_eq!(key(&[]).as_deref(), Some(""));
        assert_eq!(key(&[b"order-17"]).as_deref(), Some("order-17"));
        assert_eq!(key(&[&[b'~'; 64]]).map(|key| key.len()), Some(64));
        for bad in [
            &[&b""[..]][..],
            &[b"a b"],
            &[b"\xff"],
            &[&[b'a'; 65]],
            &[b"a", b"a"],
        ] {
            assert_eq!(key(bad), None, "{bad:?}");
        }
    }
}
