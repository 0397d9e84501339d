//! What a session does with the frames that it is sent.

use super::event::ClientEvent;
use super::{ClientSession, Outcome, State};
use crate::code::Code;
use crate::frame::{Accepted, Close, Frame, LoginOk, LoginRefused, Pong, Push, PushAck};
use crate::header::{FrameType, ProtocolError, Split};
use crate::limits::{DEFAULT_PING_INTERVAL_S, Limits, MAX_BODY};

impl ClientSession {
    /// Takes in what was read, and calls `event` for everything that happened, in order. Bytes behind the end
    /// of the connection (CLOSE, LOGIN_REFUSED, an error) are not looked at.
    ///
    /// # Errors
    /// When the peer breaks the protocol. CLOSE with the error's code is appended then, and the session has
    /// left the connection; it may be resumed with another one.
    pub fn handle_bytes(
        &mut self,
        now_ms: u64,
        bytes: &[u8],
        out: &mut Vec<u8>,
        event: &mut impl FnMut(ClientEvent<'_>),
    ) -> Result<(), ProtocolError> {
        if !self.is_connected() || bytes.is_empty() {
            return Ok(());
        }
        self.silence_due = now_ms.saturating_add(self.pong_wait());
        let mut partial = std::mem::take(&mut self.partial);
        let result = partial.feed(bytes, Limits::default(), |split| {
            self.on_frame(now_ms, &split, out, event)
        });
        if let Err(error) = result {
            Close::with_code(error.code()).encode(out);
            self.disconnect(Outcome::Resumable);
            return Err(error);
        }
        if self.is_connected() {
            self.partial = partial;
        }
        Ok(())
    }

    fn on_frame(
        &mut self,
        now_ms: u64,
        split: &Split<'_>,
        out: &mut Vec<u8>,
        event: &mut impl FnMut(ClientEvent<'_>),
    ) -> Result<(), ProtocolError> {
        if !self.is_connected() {
            return Ok(());
        }
        let Some(kind) = split.header.kind else {
            return Ok(());
        };
        if !self.expects(kind) {
            return Err(ProtocolError::Unexpected(kind));
        }
        let Some(frame) = Frame::decode(split)? else {
            return Ok(());
        };
        match frame {
            Frame::LoginOk(ok) => {
                self.on_login_ok(now_ms, &ok);
                event(ClientEvent::LoggedIn(ok));
            }
            Frame::LoginRefused(refused) => {
                self.on_login_refused(&refused);
                event(ClientEvent::LoginRefused(refused));
            }
            Frame::Pong(pong) => event(self.on_pong(now_ms, pong)),
            Frame::Reply(reply) => event(ClientEvent::Reply(reply)),
            Frame::Accepted(accepted) => {
                self.on_accepted(&accepted);
                event(ClientEvent::Accepted(accepted));
            }
            Frame::Push(push) => event(self.on_push(push, out)),
            Frame::GroupPush(push) => {
                let continuity = self.groups.seen(&push);
                event(ClientEvent::GroupPush { push, continuity });
            }
            Frame::GoAway(away) => {
                self.state = State::Moving;
                if !away.ticket.is_empty() {
                    self.ticket = away.ticket.into();
                }
                event(ClientEvent::GoAway(away));
            }
            Frame::Repeat(_) => event(ClientEvent::Repeat),
            Frame::Close(close) => {
                self.disconnect(if close.resumable {
                    Outcome::Resumable
                } else {
                    Outcome::Final
                });
                event(ClientEvent::Closed(close));
            }
            // Refused by `expects`: only a client sends them.
            Frame::Login(_)
            | Frame::Ping(_)
            | Frame::Request(_)
            | Frame::Send(_)
            | Frame::PushAck(_)
            | Frame::Join(_)
            | Frame::Leave(_) => return Err(ProtocolError::Unexpected(kind)),
        }
        Ok(())
    }

    /// Whether a gateway may send this now.
    fn expects(&self, kind: FrameType) -> bool {
        match kind {
            FrameType::LoginOk | FrameType::LoginRefused => self.state == State::Authenticating,
            FrameType::Pong
            | FrameType::Reply
            | FrameType::Accepted
            | FrameType::Push
            | FrameType::GroupPush
            | FrameType::GoAway
            | FrameType::Repeat => self.is_online(),
            FrameType::Close => true,
            FrameType::Login
            | FrameType::Ping
            | FrameType::Request
            | FrameType::Send
            | FrameType::PushAck
            | FrameType::Join
            | FrameType::Leave => false,
        }
    }

    fn on_login_ok(&mut self, now_ms: u64, ok: &LoginOk<'_>) {
        if !ok.resumed {
            // A new stream of numbered pushes. Message ids go on rising, so that frames that are repeated in
            // the new session stay below the new ones; group positions are the groups' own.
            self.received = 0;
            self.handled = 0;
        }
        self.session = ok.session;
        self.ticket = ok.ticket.into();
        self.max_body = match ok.max_body {
            0 => MAX_BODY as u32,
            max => max.min(MAX_BODY as u32),
        };
        let interval_s = if ok.ping_interval_s == 0 {
            DEFAULT_PING_INTERVAL_S
        } else {
            ok.ping_interval_s
        };
        self.ping_interval_ms = interval_s.saturating_mul(1000);
        self.pinged = None;
        let first = (u64::from(self.ping_interval_ms) * u64::from(self.ping_jitter)) >> 16;
        self.due = now_ms.saturating_add(first);
        self.state = State::Online;
    }

    fn on_login_refused(&mut self, refused: &LoginRefused<'_>) {
        let later = matches!(
            Code::nearest(refused.code),
            Code::Overloaded | Code::ConnectionLimit | Code::AddressLimit | Code::LoginUnavailable
        );
        let outcome = if refused.resumable || later {
            Outcome::Resumable
        } else {
            Outcome::Final
        };
        self.disconnect(outcome);
    }

    fn on_pong(&mut self, now_ms: u64, pong: Pong) -> ClientEvent<'static> {
        let rtt_ms = self
            .pinged
            .take()
            .map(|at| u32::try_from(now_ms.saturating_sub(at)).unwrap_or(u32::MAX));
        if let Some(rtt_ms) = rtt_ms {
            // Zero would say that it isn't known.
            self.last_rtt_ms = rtt_ms.max(1);
        }
        let interval_ms = pong.ping_interval_s.saturating_mul(1000);
        if interval_ms != 0 && interval_ms != self.ping_interval_ms {
            self.ping_interval_ms = interval_ms;
            self.due = now_ms.saturating_add(interval_ms.into());
        }
        ClientEvent::Pong { rtt_ms }
    }

    fn on_accepted(&mut self, accepted: &Accepted<'_>) {
        let code = Code::nearest(accepted.code);
        if !code.retryable() {
            self.groups.answered(
                accepted.message_id,
                code == Code::Ok || code == Code::AlreadyAnswered,
            );
        }
    }

    fn on_push<'a>(&mut self, push: Push<'a>, out: &mut Vec<u8>) -> ClientEvent<'a> {
        if push.sequence == 0 {
            return ClientEvent::Push(push);
        }
        if push.sequence > self.received {
            self.received = push.sequence;
            return ClientEvent::Push(push);
        }
        if push.sequence <= self.handled {
            // The gateway side hasn't heard of our acknowledgement, or it wouldn't have sent this again.
            PushAck {
                sequence: self.handled,
            }
            .encode(out);
        }
        ClientEvent::DuplicatePush {
            sequence: push.sequence,
        }
    }
}
