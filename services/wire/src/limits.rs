//! How long anything may be. A value over its limit is `malformed`, a body over its limit `oversized`.

/// Longest body that any frame may announce, in bytes. One frame must fit a shard's read buffer.
pub const MAX_BODY: usize = 64 * 1024;
/// Longest device id. A UUID's text form fits, and the sealed ticket still stays within 96 bytes.
pub const MAX_DEVICE: usize = 36;
/// Longest app id; bounded by the ticket as well.
pub const MAX_APP: usize = 12;
/// Longest login token.
pub const MAX_TOKEN: usize = 2048;
/// Longest sealed ticket.
pub const MAX_TICKET: usize = 96;
/// Longest install id.
pub const MAX_INSTALL: usize = 16;
/// Longest platform, such as `android`.
pub const MAX_PLATFORM: usize = 16;
/// Longest client version.
pub const MAX_VERSION: usize = 32;
/// Longest carrier name or code.
pub const MAX_CARRIER: usize = 32;
/// Longest group id.
pub const MAX_GROUP: usize = 64;
/// Most groups in one login frame.
pub const MAX_LOGIN_GROUPS: usize = 256;
/// Longest message id of a push.
pub const MAX_PUSH_ID: usize = 16;
/// Longest W3C traceparent.
pub const MAX_TRACE: usize = 64;
/// Longest metadata of one request.
pub const MAX_METADATA: usize = 1024;
/// Longest reason text.
pub const MAX_REASON: usize = 256;
/// Longest host name in a go-away.
pub const MAX_HOST: usize = 253;
/// Most endpoints in one go-away.
pub const MAX_ENDPOINTS: usize = 16;
/// A session id is always this long.
pub const SESSION_LEN: usize = 16;

/// Most message ids that a session remembers, so that a repeated frame isn't handled twice.
pub const REMEMBERED_IDS: usize = 64;

/// Seconds between pings, where LOGIN_OK doesn't say.
pub const DEFAULT_PING_INTERVAL_S: u32 = 60;
/// Seconds for which a lost session can be resumed, by default.
pub const DEFAULT_RESUME_WINDOW_S: u32 = 30;
/// Milliseconds that a gateway waits for a connection's login, by default.
pub const LOGIN_DEADLINE_MS: u64 = 5_000;
/// Milliseconds that a gateway waits for the end of a frame, from its first byte, by default.
pub const FRAME_DEADLINE_MS: u64 = 10_000;
/// Milliseconds that a client waits for the answer to its login: longer than the gateway's own deadline, so
/// that a slow login ends with a code.
pub const LOGIN_ANSWER_MS: u64 = 10_000;
/// Milliseconds that a client waits for a pong, or for anything else; never longer than a ping interval.
pub const PONG_DEADLINE_MS: u64 = 10_000;
/// Silence after which a gateway closes a connection, in ping intervals: half of this, so 2.5.
pub const SILENCE_HALF_INTERVALS: u64 = 5;

/// The limits that may differ between receivers. Everything else is fixed by the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest body accepted, at most [`MAX_BODY`].
    pub max_body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_body: MAX_BODY }
    }
}
