//! What a push call must look like. Every refusal names the field and the limit.

use imaccess_proto::v1::{
    BroadcastRequest, ChangeMembersRequest, DeliveryClass, DestroyGroupRequest, DeviceFilter, KickRequest,
    ListMembersRequest, Priority, PushDevicesRequest, PushGroupRequest,
};
use imaccess_wire::limits::{
    MAX_APP, MAX_BODY, MAX_DEVICE, MAX_GROUP, MAX_PLATFORM, MAX_PUSH_ID, MAX_VERSION,
};
use tonic::Status;

use crate::routing::calls::DEVICES;
use crate::session::attributes::Version;

/// Longest payload: what fits one frame beside a push's own fields (group, ids, numbers; below 512 bytes).
pub(crate) const MAX_PAYLOAD: usize = MAX_BODY - 512;

/// Longest request taken: 10,000 device ids and a payload are 446 KB.
pub(crate) const MESSAGE_LIMIT: usize = 1 << 20;

/// Longest reason of a kick: for people, and beside it the frame's own fields.
const MAX_KICK_REASON: usize = 128;
/// Longest idempotency key.
const MAX_KEY: usize = 64;
/// Most platforms that a filter may name.
const MOST_PLATFORMS: usize = 64;

/// Checks a push to devices.
pub(super) fn devices(request: &PushDevicesRequest) -> Result<(), Status> {
    named(request.business, &request.app, &request.devices)?;
    payload(&request.payload)?;
    message_id(&request.message_id)?;
    key(&request.idempotency_key)?;
    priority(request.priority)?;
    match DeliveryClass::try_from(request.class) {
        Ok(DeliveryClass::AtMostOnce) => Ok(()),
        Ok(DeliveryClass::AtLeastOnce) => Err(Status::unimplemented(
            "class: AT_LEAST_ONCE is not served yet; use AT_MOST_ONCE",
        )),
        Err(_) => Err(Status::invalid_argument(format!(
            "class: {} is no delivery class",
            request.class
        ))),
    }
}

/// Checks a push to a group.
pub(super) fn group(request: &PushGroupRequest) -> Result<(), Status> {
    business(request.business)?;
    group_name(&request.group)?;
    payload(&request.payload)?;
    key(&request.idempotency_key)?;
    priority(request.priority)
}

/// Checks a broadcast.
pub(super) fn broadcast(request: &BroadcastRequest) -> Result<(), Status> {
    business(request.business)?;
    if let Some(wanted) = &request.filter {
        filter(wanted)?;
    }
    payload(&request.payload)?;
    message_id(&request.message_id)?;
    key(&request.idempotency_key)?;
    priority(request.priority)
}

/// Checks a kick.
pub(super) fn kick(request: &KickRequest) -> Result<(), Status> {
    named(request.business, &request.app, &request.devices)?;
    if request.reason.len() > MAX_KICK_REASON {
        return Err(too_long("reason", request.reason.len(), MAX_KICK_REASON));
    }
    Ok(())
}

/// Checks a change of a group's members.
pub(super) fn members(request: &ChangeMembersRequest) -> Result<(), Status> {
    group_name(&request.group)?;
    named(request.business, &request.app, &request.devices)
}

/// Checks a question who is in a group.
pub(super) fn list(request: &ListMembersRequest) -> Result<(), Status> {
    business(request.business)?;
    group_name(&request.group)?;
    if request.limit as usize > DEVICES {
        return Err(Status::invalid_argument(format!(
            "limit: {} is more than the {DEVICES} allowed",
            request.limit
        )));
    }
    Ok(())
}

/// Checks the end of a group.
pub(super) fn destroy(request: &DestroyGroupRequest) -> Result<(), Status> {
    business(request.business)?;
    group_name(&request.group)
}

/// Checks whom a call is about.
pub(super) fn named(id: u32, app: &str, devices: &[String]) -> Result<(), Status> {
    business(id)?;
    if app.len() > MAX_APP {
        return Err(too_long("app", app.len(), MAX_APP));
    }
    if devices.is_empty() {
        return Err(Status::invalid_argument("devices: must name at least one"));
    }
    if devices.len() > DEVICES {
        let count = devices.len();
        return Err(Status::invalid_argument(format!(
            "devices: {count} are more than the {DEVICES} allowed"
        )));
    }
    for (position, device) in devices.iter().enumerate() {
        if device.is_empty() || device.len() > MAX_DEVICE {
            let length = device.len();
            return Err(Status::invalid_argument(format!(
                "devices[{position}]: has {length} bytes; must have 1 to {MAX_DEVICE}"
            )));
        }
    }
    Ok(())
}

fn filter(wanted: &DeviceFilter) -> Result<(), Status> {
    if wanted.app.len() > MAX_APP {
        return Err(too_long("filter.app", wanted.app.len(), MAX_APP));
    }
    if wanted.platforms.len() > MOST_PLATFORMS {
        let count = wanted.platforms.len();
        return Err(Status::invalid_argument(format!(
            "filter.platforms: {count} are more than the {MOST_PLATFORMS} allowed"
        )));
    }
    for (position, platform) in wanted.platforms.iter().enumerate() {
        if platform.is_empty() || platform.len() > MAX_PLATFORM {
            let length = platform.len();
            return Err(Status::invalid_argument(format!(
                "filter.platforms[{position}]: has {length} bytes; must have 1 to {MAX_PLATFORM}"
            )));
        }
    }
    for (field, version) in [
        ("filter.version_from", &wanted.version_from),
        ("filter.version_to", &wanted.version_to),
    ] {
        if version.len() > MAX_VERSION {
            return Err(too_long(field, version.len(), MAX_VERSION));
        }
        if !version.is_empty() && Version::parse(version).is_none() {
            return Err(Status::invalid_argument(format!(
                "{field}: {version:?} isn't numbers between dots, such as 1.20.3"
            )));
        }
    }
    Ok(())
}

fn group_name(group: &[u8]) -> Result<(), Status> {
    if group.is_empty() {
        return Err(Status::invalid_argument("group: must not be empty"));
    }
    if group.len() > MAX_GROUP {
        return Err(too_long("group", group.len(), MAX_GROUP));
    }
    Ok(())
}

fn message_id(id: &[u8]) -> Result<(), Status> {
    if id.len() > MAX_PUSH_ID {
        return Err(too_long("message_id", id.len(), MAX_PUSH_ID));
    }
    Ok(())
}

fn key(key: &str) -> Result<(), Status> {
    if key.len() > MAX_KEY {
        return Err(too_long("idempotency_key", key.len(), MAX_KEY));
    }
    Ok(())
}

fn business(id: u32) -> Result<(), Status> {
    match id {
        0 => Err(Status::invalid_argument("business: must not be 0")),
        _ => Ok(()),
    }
}

fn payload(payload: &[u8]) -> Result<(), Status> {
    if payload.len() > MAX_PAYLOAD {
        return Err(too_long("payload", payload.len(), MAX_PAYLOAD));
    }
    Ok(())
}

fn priority(number: i32) -> Result<(), Status> {
    match Priority::try_from(number) {
        Ok(_) => Ok(()),
        Err(_) => Err(Status::invalid_argument(format!(
            "priority: {number} is no priority"
        ))),
    }
}

fn too_long(field: &str, length: usize, limit: usize) -> Status {
    Status::invalid_argument(format!(
        "{field}: has {length} bytes; at most {limit} are allowed"
    ))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tonic::Code;

    use super::*;

    fn good() -> PushDevicesRequest {
        PushDevicesRequest {
            business: 1,
            app: "app".to_owned(),
            devices: vec!["d".to_owned()],
            ..PushDevicesRequest::default()
        }
    }

    #[test]
    fn every_refusal_names_its_field() {
        type Spoil = fn(&mut PushDevicesRequest);
        let cases: [(&str, Code, Spoil); 10] = [
            ("business: ", Code::InvalidArgument, |r| r.business = 0),
            ("app: has 13 bytes", Code::InvalidArgument, |r| {
                r.app = "a".repeat(MAX_APP + 1);
            }),
            ("devices: must", Code::InvalidArgument, |r| r.devices.clear()),
            ("devices: 10001 ", Code::InvalidArgument, |r| {
                r.devices = vec!["d".to_owned(); DEVICES + 1];
            }),
            ("devices[1]: has 0", Code::InvalidArgument, |r| {
                r.devices.push(String::new());
            }),
            ("devices[1]: has 37", Code::InvalidArgument, |r| {
                r.devices.push("d".repeat(MAX_DEVICE + 1));
            }),
            ("payload: has 65025", Code::InvalidArgument, |r| {
                r.payload = Bytes::from(vec![0; MAX_PAYLOAD + 1]);
            }),
            ("message_id: ", Code::InvalidArgument, |r| {
                r.message_id = Bytes::from(vec![0; MAX_PUSH_ID + 1]);
            }),
            ("priority: 9 ", Code::InvalidArgument, |r| r.priority = 9),
            ("class: AT_LEAST_ONCE", Code::Unimplemented, |r| {
                r.class = DeliveryClass::AtLeastOnce.into();
            }),
        ];
        assert!(devices(&good()).is_ok());
        for (begins, code, spoil) in cases {
            let mut request = good();
            spoil(&mut request);
            let status = devices(&request).unwrap_err();
            assert_eq!(status.code(), code, "{begins}");
            assert!(
                status.message().starts_with(begins),
                "{begins}: {}",
                status.message()
            );
        }
    }

    #[test]
    fn group_pushes_too() {
        type Spoil = fn(&mut PushGroupRequest);
        let good = PushGroupRequest {
            business: 1,
            group: Bytes::from_static(b"g"),
            ..PushGroupRequest::default()
        };
        let cases: [(&str, Spoil); 5] = [
            ("business: ", |r| r.business = 0),
            ("group: must", |r| r.group = Bytes::new()),
            ("group: has 65", |r| r.group = Bytes::from(vec![0; MAX_GROUP + 1])),
            ("payload: ", |r| r.payload = Bytes::from(vec![0; MAX_PAYLOAD + 1])),
            ("priority: ", |r| r.priority = -1),
        ];
        assert!(group(&good).is_ok());
        for (begins, spoil) in cases {
            let mut request = good.clone();
            spoil(&mut request);
            let status = group(&request).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{begins}");
            assert!(
                status.message().starts_with(begins),
                "{begins}: {}",
                status.message()
            );
        }
    }
}
