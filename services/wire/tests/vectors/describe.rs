//! A frame as the vectors' JSON: all fields, by the names of the document; bytes in hexadecimal.

use imaccess_wire::Frame;
use imaccess_wire::frame::{GoAwayEndpoint, GroupPosition};
use serde_json::{Value, json};

fn group(position: GroupPosition<'_>) -> Value {
    json!({
        "business": position.business,
        "group": hex::encode(position.group),
        "group_epoch": position.group_epoch,
        "sequence": position.sequence,
    })
}

fn endpoint(endpoint: GoAwayEndpoint<'_>) -> Value {
    json!({
        "cluster": endpoint.cluster,
        "transport": endpoint.transport as u8,
        "host": endpoint.host,
        "port": endpoint.port,
        "server_name": endpoint.server_name,
    })
}

macro_rules! uplink {
    ($frame:expr) => {
        json!({
            "business": $frame.business,
            "message_id": $frame.message_id,
            "deadline_ms": $frame.deadline_ms,
            "trace": $frame.trace,
            "metadata": hex::encode($frame.metadata),
            "priority": $frame.priority as u8,
            "payload": hex::encode($frame.payload),
        })
    };
}

macro_rules! answer {
    ($frame:expr) => {
        json!({
            "message_id": $frame.message_id,
            "code": $frame.code,
            "retry_after_ms": $frame.retry_after_ms,
            "reason": $frame.reason,
            "payload": hex::encode($frame.payload),
        })
    };
}

/// The frame's name in the document, and its fields.
pub(crate) fn describe(frame: &Frame<'_>) -> (&'static str, Value) {
    match frame {
        Frame::Login(login) => (
            "LOGIN",
            json!({
                "device": login.device,
                "app": login.app,
                "token": hex::encode(login.token),
                "ticket": hex::encode(login.ticket),
                "install": hex::encode(login.install),
                "platform": login.platform,
                "version": login.version,
                "last_push": login.last_push,
                "group": login.groups.iter().map(group).collect::<Vec<_>>(),
                "features": login.features,
                "network": login.network as u8,
                "carrier": login.carrier,
                "transport": login.transport as u8,
            }),
        ),
        Frame::LoginOk(ok) => (
            "LOGIN_OK",
            json!({
                "session": hex::encode(ok.session),
                "epoch": ok.epoch,
                "ticket": hex::encode(ok.ticket),
                "resume_window_s": ok.resume_window_s,
                "ping_interval_s": ok.ping_interval_s,
                "max_body": ok.max_body,
                "max_in_flight": ok.max_in_flight,
                "features": ok.features,
                "resumed": ok.resumed,
                "server_unix_ms": ok.server_unix_ms,
            }),
        ),
        Frame::LoginRefused(refused) => (
            "LOGIN_REFUSED",
            json!({
                "code": refused.code,
                "retry_after_ms": refused.retry_after_ms,
                "reason": refused.reason,
                "resumable": refused.resumable,
            }),
        ),
        Frame::Ping(ping) => ("PING", json!({"last_rtt_ms": ping.last_rtt_ms})),
        Frame::Pong(pong) => ("PONG", json!({"ping_interval_s": pong.ping_interval_s})),
        Frame::Request(request) => ("REQUEST", uplink!(request)),
        Frame::Reply(reply) => ("REPLY", answer!(reply)),
        Frame::Send(send) => ("SEND", uplink!(send)),
        Frame::Accepted(accepted) => ("ACCEPTED", answer!(accepted)),
        Frame::Push(push) => (
            "PUSH",
            json!({
                "business": push.business,
                "sequence": push.sequence,
                "class": push.class as u8,
                "message_id": hex::encode(push.message_id),
                "expires_unix_ms": push.expires_unix_ms,
                "priority": push.priority as u8,
                "payload": hex::encode(push.payload),
            }),
        ),
        Frame::PushAck(ack) => ("PUSH_ACK", json!({"sequence": ack.sequence})),
        Frame::GroupPush(push) => (
            "GROUP_PUSH",
            json!({
                "business": push.business,
                "group": hex::encode(push.group),
                "group_epoch": push.group_epoch,
                "sequence": push.sequence,
                "message_id": hex::encode(push.message_id),
                "expires_unix_ms": push.expires_unix_ms,
                "payload": hex::encode(push.payload),
            }),
        ),
        Frame::Join(join) => (
            "JOIN",
            json!({
                "business": join.business,
                "group": hex::encode(join.group),
                "message_id": join.message_id,
                "group_epoch": join.group_epoch,
                "sequence": join.sequence,
            }),
        ),
        Frame::Leave(leave) => (
            "LEAVE",
            json!({
                "business": leave.business,
                "group": hex::encode(leave.group),
                "message_id": leave.message_id,
            }),
        ),
        Frame::GoAway(away) => (
            "GO_AWAY",
            json!({
                "code": away.code,
                "deadline_ms": away.deadline_ms,
                "endpoint": away.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
                "ticket": hex::encode(away.ticket),
                "delay_ms": away.delay_ms,
            }),
        ),
        Frame::Close(close) => (
            "CLOSE",
            json!({
                "code": close.code,
                "retry_after_ms": close.retry_after_ms,
                "resumable": close.resumable,
                "reason": close.reason,
            }),
        ),
        Frame::Repeat(_) => ("REPEAT", json!({})),
    }
}
