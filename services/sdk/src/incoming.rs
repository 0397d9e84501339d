//! What comes off the wire, copied into what the task and the application keep.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use imaccess_wire::Code;
use imaccess_wire::client::{ClientEvent, Continuity, LostReason};
use imaccess_wire::frame::{Accepted, GroupPush, Reply, Transport};

use crate::endpoints::Endpoint;
use crate::message::{Push, Target};
use crate::pending::Verdict;

/// What came in, copied off the wire.
#[derive(Debug)]
pub(crate) enum Incoming {
    LoggedIn(LoggedIn),
    Refused {
        code: Code,
        reason: String,
        retry_after: Duration,
    },
    Answer(Verdict),
    Push(Push),
    GoAway {
        delay: Duration,
        endpoints: Vec<Endpoint>,
    },
    /// What is unanswered may be lost.
    Repeat,
    /// The connection is over.
    Over(Over),
}

/// What a login gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoggedIn {
    pub(crate) session: [u8; 16],
    pub(crate) epoch: u64,
    pub(crate) resumed: bool,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Over {
    pub(crate) code: Code,
    pub(crate) retry_after: Duration,
}

impl From<Code> for Over {
    fn from(code: Code) -> Self {
        Self {
            code,
            retry_after: Duration::ZERO,
        }
    }
}

impl From<io::Error> for Over {
    fn from(error: io::Error) -> Self {
        tracing::debug!(%error, "connection lost");
        Code::ConnectionLost.into()
    }
}

/// What a session's event means here; `None` for what concerns the session alone.
pub(crate) fn copied(event: ClientEvent<'_>) -> Option<Incoming> {
    Some(match event {
        ClientEvent::LoggedIn(ok) => Incoming::LoggedIn(LoggedIn {
            session: ok.session,
            epoch: ok.epoch,
            resumed: ok.resumed,
        }),
        ClientEvent::LoginRefused(refused) => Incoming::Refused {
            code: Code::nearest(refused.code),
            reason: refused.reason.to_owned(),
            retry_after: millis(refused.retry_after_ms),
        },
        ClientEvent::Reply(Reply {
            message_id,
            code,
            retry_after_ms,
            reason,
            payload,
        })
        | ClientEvent::Accepted(Accepted {
            message_id,
            code,
            retry_after_ms,
            reason,
            payload,
        }) => Incoming::Answer(Verdict {
            message_id,
            number: code,
            retry_after: millis(retry_after_ms),
            reason: reason.to_owned(),
            payload: Bytes::copy_from_slice(payload),
        }),
        ClientEvent::Push(push) => Incoming::Push(Push {
            business: push.business,
            target: Target::Device {
                sequence: push.sequence,
            },
            message_id: Bytes::copy_from_slice(push.message_id),
            expires_unix_ms: push.expires_unix_ms,
            payload: Bytes::copy_from_slice(push.payload),
        }),
        ClientEvent::GroupPush { push, continuity } => Incoming::Push(group_push(&push, continuity)?),
        ClientEvent::GoAway(away) => Incoming::GoAway {
            delay: millis(away.delay_ms),
            endpoints: away
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.transport == Transport::Tcp)
                .map(|endpoint| Endpoint {
                    cluster: endpoint.cluster.to_owned(),
                    ..Endpoint::tcp(endpoint.host, endpoint.port)
                })
                .collect(),
        },
        ClientEvent::Repeat => Incoming::Repeat,
        ClientEvent::Closed(close) => Incoming::Over(Over {
            code: Code::nearest(close.code),
            retry_after: millis(close.retry_after_ms),
        }),
        ClientEvent::Lost(LostReason::LoginTimeout) => Incoming::Over(Code::LoginTimeout.into()),
        ClientEvent::Lost(LostReason::PongTimeout) => Incoming::Over(Code::PingTimeout.into()),
        ClientEvent::DuplicatePush { .. } | ClientEvent::Pong { .. } => return None,
    })
}

fn group_push(push: &GroupPush<'_>, continuity: Continuity) -> Option<Push> {
    let missed = match continuity {
        Continuity::Repeated => return None,
        Continuity::Gap { missing } => missing,
        Continuity::First | Continuity::Next | Continuity::NewEpoch => 0,
    };
    let target = Target::Group {
        group: Bytes::copy_from_slice(push.group),
        epoch: push.group_epoch,
        sequence: push.sequence,
        missed,
    };
    Some(Push {
        business: push.business,
        target,
        message_id: Bytes::copy_from_slice(push.message_id),
        expires_unix_ms: push.expires_unix_ms,
        payload: Bytes::copy_from_slice(push.payload),
    })
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}
