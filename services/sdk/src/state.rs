//! Where a client's connection stands, as the application sees it.

use std::fmt;

use imaccess_wire::Code;
use tokio::sync::watch;

/// Names a session for as long as it lives, over every reconnect that resumes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The states of the client's connection, as `proto/PROTOCOL.md` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// Asking for endpoints and opening a connection.
    Connecting,
    /// Connected; the login is under way.
    Authenticating,
    /// Logged in: data flows.
    Online {
        /// The session's id.
        session: SessionId,
        /// Its epoch: every login of the device has a higher one.
        epoch: u64,
        /// Whether the session before a lost connection goes on.
        resumed: bool,
    },
    /// Told to go elsewhere: a new connection is being made, the old one serves until the new one has the session.
    Moving,
    /// The connection is lost, the next attempt waits for its time. Requests wait for it until their deadlines.
    Suspended,
    /// Over: this client doesn't connect again.
    Closed {
        /// Why. [`Code::Ok`]: the application closed it.
        code: Code,
    },
}

impl ConnectionState {
    /// Whether data flows now.
    #[must_use]
    pub fn is_online(self) -> bool {
        matches!(self, Self::Online { .. })
    }
}

/// Follows a client's [`ConnectionState`]: always the newest, so a slow reader skips states but never sees an old one.
#[derive(Clone, Debug)]
pub struct States {
    receiver: watch::Receiver<ConnectionState>,
}

impl States {
    pub(crate) fn new(receiver: watch::Receiver<ConnectionState>) -> Self {
        Self { receiver }
    }

    /// The state now.
    #[must_use]
    pub fn current(&self) -> ConnectionState {
        *self.receiver.borrow()
    }

    /// The state, at the first call as it is, then once it is another than the one last returned; `None` once the client
    /// is gone.
    pub async fn next(&mut self) -> Option<ConnectionState> {
        self.receiver.changed().await.ok()?;
        Some(*self.receiver.borrow_and_update())
    }

    /// Waits until `wanted` holds of the current state and returns that; `None` if the client ends before.
    pub async fn wait_for(&mut self, wanted: impl Fn(ConnectionState) -> bool) -> Option<ConnectionState> {
        self.receiver
            .wait_for(|state| wanted(*state))
            .await
            .ok()
            .map(|state| *state)
    }
}
