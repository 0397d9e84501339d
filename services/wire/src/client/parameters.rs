//! What a login says of the device.

use crate::frame::{NetworkType, Transport};

/// What the caller brings to a login. The ticket, the last push and the groups are the session's own and are
/// added by it. Lengths are limited as in [`crate::limits`].
#[derive(Clone, Copy, Debug, Default)]
pub struct LoginParameters<'a> {
    /// Device id.
    pub device: &'a str,
    /// App id.
    pub app: &'a str,
    /// Proof of it; may be empty when the session has a ticket, but then a login whose ticket isn't taken any
    /// more is refused.
    pub token: &'a [u8],
    /// Names this installation of the app.
    pub install: &'a [u8],
    /// Platform, such as `android`.
    pub platform: &'a str,
    /// Version of the app.
    pub version: &'a str,
    /// What the client can do.
    pub features: u64,
    /// How the device is connected.
    pub network: NetworkType,
    /// Its carrier.
    pub carrier: &'a str,
    /// How it reaches the gateway.
    pub transport: Transport,
    /// When the first ping is due, as a part of the interval, 0 to 1: a random number, so that devices that
    /// log in together don't ping together.
    pub ping_jitter: f32,
}
