//! Answers as JSON. Numbers of 64 bits are strings, as not every reader of JSON keeps them whole.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use imaccess_proto::v1::{
    BroadcastResponse, DestroyGroupResponse, ListMembersResponse, Outcome, PresenceStatus, PushGroupResponse,
    QueryOnlineResponse,
};
use serde::Serialize;
use tonic::metadata::MetadataMap;

use super::problem::Problem;
use crate::routing::front::REPLAYED;

/// Per device, what became of it.
#[derive(Serialize)]
struct Results<R> {
    results: Vec<R>,
}

#[derive(Serialize)]
struct DeviceOutcome<'a> {
    device: &'a str,
    outcome: &'static str,
}

#[derive(Serialize)]
struct DevicePresence<'a> {
    device: &'a str,
    outcome: &'static str,
    /// Only of who is online.
    #[serde(skip_serializing_if = "str::is_empty")]
    gateway: &'a str,
}

/// What became of a push to a group.
#[derive(Serialize)]
pub(super) struct GroupPushed {
    group_epoch: String,
    sequence: String,
    instances: u32,
    unsynced: u32,
}

/// What became of a broadcast.
#[derive(Serialize)]
pub(super) struct Broadcasted {
    devices: String,
    unknown: String,
    instances: u32,
    unsynced: u32,
}

/// Who is in a group.
#[derive(Serialize)]
pub(super) struct Members<'a> {
    count: String,
    members: Vec<GroupMember<'a>>,
    unsynced: u32,
}

#[derive(Serialize)]
struct GroupMember<'a> {
    app: &'a str,
    device: &'a str,
}

/// What became of a group's members.
#[derive(Serialize)]
pub(super) struct Destroyed {
    count: String,
    unsynced: u32,
}

impl GroupPushed {
    pub(super) fn of(answer: &PushGroupResponse) -> GroupPushed {
        GroupPushed {
            group_epoch: answer.group_epoch.to_string(),
            sequence: answer.sequence.to_string(),
            instances: answer.instances,
            unsynced: answer.unsynced,
        }
    }
}

impl Broadcasted {
    pub(super) fn of(answer: &BroadcastResponse) -> Broadcasted {
        Broadcasted {
            devices: answer.devices.to_string(),
            unknown: answer.unknown.to_string(),
            instances: answer.instances,
            unsynced: answer.unsynced,
        }
    }
}

impl Members<'_> {
    pub(super) fn of(answer: &ListMembersResponse) -> Members<'_> {
        let members = answer.members.iter().map(|member| GroupMember {
            app: &member.app,
            device: &member.device,
        });
        Members {
            count: answer.count.to_string(),
            members: members.collect(),
            unsynced: answer.unsynced,
        }
    }
}

impl Destroyed {
    pub(super) fn of(answer: &DestroyGroupResponse) -> Destroyed {
        Destroyed {
            count: answer.count.to_string(),
            unsynced: answer.unsynced,
        }
    }
}

/// What became of each device.
pub(super) fn outcomes(devices: &[String], outcomes: &[i32]) -> Result<Response, Problem> {
    one_each(devices, outcomes.len())?;
    let results = devices.iter().zip(outcomes);
    let results = results.map(|(device, &outcome)| DeviceOutcome {
        device,
        outcome: word(outcome),
    });
    Ok(json(&Results {
        results: results.collect(),
    }))
}

/// Where each device is.
pub(super) fn presences(devices: &[String], answer: &QueryOnlineResponse) -> Result<Response, Problem> {
    one_each(devices, answer.presences.len())?;
    let results = devices.iter().zip(&answer.presences);
    let results = results.map(|(device, presence)| DevicePresence {
        device,
        outcome: match presence.status() {
            PresenceStatus::Online => "online",
            PresenceStatus::Offline => "offline",
            PresenceStatus::Retry | PresenceStatus::Unspecified => "retry",
        },
        gateway: &presence.gateway,
    });
    Ok(json(&Results {
        results: results.collect(),
    }))
}

fn one_each(devices: &[String], results: usize) -> Result<(), Problem> {
    if results == devices.len() {
        return Ok(());
    }
    Err(Problem::internal("not every device got a result"))
}

/// An outcome's word. A number that has none here says no more than that nobody knows.
fn word(outcome: i32) -> &'static str {
    match Outcome::try_from(outcome).unwrap_or(Outcome::Unknown) {
        Outcome::Written => "written",
        Outcome::Acknowledged => "acknowledged",
        Outcome::Queued => "queued",
        Outcome::Offline => "offline",
        Outcome::Refused => "refused",
        Outcome::Retry => "retry",
        Outcome::Done => "done",
        Outcome::Unknown | Outcome::Unspecified => "unknown",
    }
}

pub(super) fn json(answer: &impl Serialize) -> Response {
    let mut response = axum::Json(answer).into_response();
    // Who is where changes from one moment to the next.
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The response, marked if it is an earlier call's.
pub(super) fn marked(mut response: Response, metadata: &MetadataMap) -> Response {
    if metadata.contains_key(REPLAYED) {
        response
            .headers_mut()
            .insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
