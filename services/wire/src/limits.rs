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
