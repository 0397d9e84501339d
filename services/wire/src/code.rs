//! Why something was refused, answered or closed: one registry of numbers for LOGIN_REFUSED, REPLY, ACCEPTED
//! and CLOSE, so that a code means the same wherever it is met.

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal;)+) => {
        /// A code of the protocol. Receivers treat an unknown number like the first of its hundred.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Code {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl Code {
            /// All codes, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The code with this number.
            #[must_use]
            pub fn from_u16(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// Its name, as in metrics, logs and documents.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

codes! {
    /// Fine.
    Ok = 0, "ok";

    /// The first byte was not a frame's.
    BadMagic = 100, "bad_magic";
    /// A protocol version that isn't spoken here.
    UnsupportedVersion = 101, "unsupported_version";
    /// An unknown frame type without the ignorable flag.
    UnknownType = 102, "unknown_type";
    /// A body over the limit.
    Oversized = 103, "oversized";
    /// A body that doesn't hold what its type says.
    Malformed = 104, "malformed";
    /// Data before login.
    NotLoggedIn = 105, "not_logged_in";
    /// A frame that isn't allowed in this state or direction.
    Unexpected = 106, "unexpected";
    /// No login within its deadline.
    LoginTimeout = 107, "login_timeout";
    /// A frame was begun and not ended within its deadline.
    FrameTimeout = 108, "frame_timeout";
    /// Nothing was heard for two and a half ping intervals.
    PingTimeout = 109, "ping_timeout";

    /// The token is not one of ours.
    TokenInvalid = 200, "token_invalid";
    /// The token has expired.
    TokenExpired = 201, "token_expired";
    /// The token is for another device or app.
    TokenMismatch = 202, "token_mismatch";
    /// Too many logins just now; retry after the given time.
    Overloaded = 203, "overloaded";
    /// The gateway has as many connections as it may.
    ConnectionLimit = 204, "connection_limit";
    /// The source address has as many connections as it may.
    AddressLimit = 205, "address_limit";
    /// A part that logins need is away; retry after the given time.
    LoginUnavailable = 206, "login_unavailable";

    /// Not known or not possible now: repeat with the same message id.
    Retry = 300, "retry";
    /// A queue is full: repeat later with the same message id.
    Busy = 301, "busy";
    /// No business has this id.
    BusinessUnknown = 302, "business_unknown";
    /// The business's server can't be reached.
    BusinessUnavailable = 303, "business_unavailable";
    /// The business didn't answer in time.
    DeadlineExceeded = 304, "deadline_exceeded";
    /// This message id was answered before, and the answer is no longer kept.
    AlreadyAnswered = 305, "already_answered";
    /// Not allowed.
    Forbidden = 306, "forbidden";
    /// The business's server failed.
    BusinessFailed = 307, "business_failed";
    /// The session is in too many groups.
    GroupLimit = 308, "group_limit";

    /// The device logged in elsewhere.
    Superseded = 400, "superseded";
    /// A business asked for it.
    Kicked = 401, "kicked";
    /// The session went on elsewhere.
    Moved = 402, "moved";
    /// The client read too slowly.
    SlowConsumer = 403, "slow_consumer";
    /// The gateway is going; connect elsewhere.
    Draining = 404, "draining";
    /// What the session was owed is not known any more; log in again.
    SessionLost = 405, "session_lost";
    /// The gateway was without its session layer for too long.
    StateLost = 406, "state_lost";
    /// The client said goodbye.
    ClientLeft = 407, "client_left";
    /// The connection ended without a word: end of stream, reset, or no acknowledgement by the peer's kernel.
    ConnectionLost = 408, "connection_lost";
    /// The resume window passed.
    ResumeExpired = 409, "resume_expired";
    /// The instance that held the session is gone.
    InstanceLost = 410, "instance_lost";
    /// The gateway's process died in the middle of one of this connection's frames; resume.
    GatewayLost = 411, "gateway_lost";
    /// A fault of ours.
    Internal = 500, "internal";
}

impl Code {
    /// The code to act on for a number that may be newer than this side: an unknown one is treated like the
    /// first of its hundred, and one beyond all hundreds like [`Code::Internal`].
    #[must_use]
    pub fn nearest(number: u16) -> Self {
        Self::from_u16(number)
            .or_else(|| Self::from_u16(number / 100 * 100))
            .unwrap_or(Self::Internal)
    }

    /// Whether a session may be resumed with its ticket after a close with this code.
    #[must_use]
    pub fn resumable(self) -> bool {
        matches!(
            self,
            Self::LoginTimeout
                | Self::FrameTimeout
                | Self::PingTimeout
                | Self::SlowConsumer
                | Self::Draining
                | Self::SessionLost
                | Self::StateLost
                | Self::ConnectionLost
                | Self::GatewayLost
                | Self::Overloaded
                | Self::ConnectionLimit
                | Self::AddressLimit
                | Self::LoginUnavailable
                | Self::Internal
        )
    }

    /// Whether the same message may be repeated with the same message id.
    #[must_use]
    pub fn retryable(self) -> bool {
        matches!(self, Self::Retry | Self::Busy | Self::BusinessUnavailable)
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
