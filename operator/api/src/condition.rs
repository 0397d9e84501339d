//! Types and reasons of conditions, as users see them and commands wait for them.

/// Clients are served by what the specification asks for.
pub const READY: &str = "Ready";
/// Something is being brought about. There only while it is true (kstatus).
pub const RECONCILING: &str = "Reconciling";
/// Nothing can go on without a change by somebody. There only while it is true (kstatus).
pub const STALLED: &str = "Stalled";
/// At least one gateway pod serves.
pub const GATEWAY_AVAILABLE: &str = "GatewayAvailable";
/// At least one routing replica serves.
pub const STATE_AVAILABLE: &str = "StateAvailable";
/// At least one ipconfig replica serves.
pub const IPCONFIG_AVAILABLE: &str = "IpconfigAvailable";
/// Anyone who can reach ipconfig gets a token for any device. There only while it is true.
pub const DEVELOPMENT_TOKENS: &str = "DevelopmentTokens";
/// `spec.paused` is set. There only while it is true.
pub const PAUSED: &str = "Paused";
/// The pods can't run where `restricted` Pod Security is enforced. There only while it is true.
pub const PRIVILEGED_PORTS: &str = "NotRestricted";
/// Something that was asked for can't be had here, such as a PodMonitor without its kind. There only while it is true.
pub const DEGRADED: &str = "Degraded";
