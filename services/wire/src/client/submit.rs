//! What an application sends through a session.

use super::{ClientSession, Outcome};
use crate::code::Code;
use crate::frame::{Close, Join, Leave, PushAck, Request, Send};
use crate::header::HEADER_LEN;
use crate::limits::{MAX_GROUP, MAX_LOGIN_GROUPS, MAX_METADATA, MAX_TRACE};

/// Why a frame wasn't appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// There is no session online.
    #[error("the session is not online")]
    NotOnline,
    /// A field is over its limit, or empty where it mustn't be.
    #[error("{0} has a length that is not allowed")]
    Length(&'static str),
    /// The body is longer than the gateway takes.
    #[error("a body of {body} bytes is over the limit of {limit}")]
    TooLong {
        /// Its length.
        body: usize,
        /// The gateway's limit.
        limit: usize,
    },
    /// The session is in as many groups as a login can name.
    #[error("the session is in {MAX_LOGIN_GROUPS} groups already")]
    TooManyGroups,
}

impl ClientSession {
    /// Appends a request and returns its message id. With message id 0 it gets a new one; any other says that
    /// it is a repetition of the request that had it.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing is appended then, and no message id is used up.
    pub fn request(&mut self, request: Request<'_>, out: &mut Vec<u8>) -> Result<u64, SubmitError> {
        self.check(request.trace, request.metadata)?;
        let message_id = self.choose(request.message_id);
        self.append(out, |out| {
            let frame = Request {
                message_id,
                ..request
            };
            frame.encode(out);
        })?;
        self.used(message_id);
        Ok(message_id)
    }

    /// Appends a one-way message and returns its message id, as [`request`](Self::request) does. A send is not
    /// to be repeated, unless it was answered with a code that asks for it.
    ///
    /// # Errors
    /// As `request`.
    pub fn send(&mut self, send: Send<'_>, out: &mut Vec<u8>) -> Result<u64, SubmitError> {
        self.check(send.trace, send.metadata)?;
        let message_id = self.choose(send.message_id);
        self.append(out, |out| {
            let frame = Send { message_id, ..send };
            frame.encode(out);
        })?;
        self.used(message_id);
        Ok(message_id)
    }

    /// Appends a join and returns its message id. While a join of the group is unanswered, calling this again
    /// repeats it. Once sent, it is part of every login until it is refused or the group is left.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn join(&mut self, business: u32, group: &[u8], out: &mut Vec<u8>) -> Result<u64, SubmitError> {
        self.check_group(group)?;
        let next = self.next_message_id;
        let (message_id, group_epoch, sequence) = self
            .groups
            .join(business, group, || next)
            .ok_or(SubmitError::TooManyGroups)?;
        self.used(message_id);
        Join {
            business,
            group,
            message_id,
            group_epoch,
            sequence,
        }
        .encode(out);
        Ok(message_id)
    }

    /// Appends a leave and returns its message id. While a leave of the group is unanswered, calling this again
    /// repeats it.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn leave(&mut self, business: u32, group: &[u8], out: &mut Vec<u8>) -> Result<u64, SubmitError> {
        self.check_group(group)?;
        let next = self.next_message_id;
        let message_id = self.groups.leave(business, group, || next);
        self.used(message_id);
        Leave {
            business,
            group,
            message_id,
        }
        .encode(out);
        Ok(message_id)
    }

    /// The application has handled all numbered pushes up to `sequence`. Without a connection this is only
    /// noted, and the next login says it.
    pub fn push_ack(&mut self, sequence: u64, out: &mut Vec<u8>) {
        let handled = sequence.min(self.received);
        if handled > self.handled {
            self.handled = handled;
            if self.is_online() {
                PushAck { sequence: handled }.encode(out);
            }
        }
    }

    /// Says goodbye: [`Code::ClientLeft`] ends the session, [`Code::Moved`] leaves this connection after its
    /// successor is online. Write what was appended, then drop the connection.
    pub fn close(&mut self, code: Code, out: &mut Vec<u8>) {
        if self.is_connected() {
            Close {
                code: code as u16,
                ..Close::default()
            }
            .encode(out);
        }
        self.disconnect(Outcome::Final);
    }

    fn check(&self, trace: &str, metadata: &[u8]) -> Result<(), SubmitError> {
        if !self.is_online() {
            Err(SubmitError::NotOnline)
        } else if trace.len() > MAX_TRACE {
            Err(SubmitError::Length("trace"))
        } else if metadata.len() > MAX_METADATA {
            Err(SubmitError::Length("metadata"))
        } else {
            Ok(())
        }
    }

    fn check_group(&self, group: &[u8]) -> Result<(), SubmitError> {
        if !self.is_online() {
            Err(SubmitError::NotOnline)
        } else if group.is_empty() || group.len() > MAX_GROUP {
            Err(SubmitError::Length("group"))
        } else {
            Ok(())
        }
    }

    fn choose(&self, message_id: u64) -> u64 {
        if message_id == 0 {
            self.next_message_id
        } else {
            message_id
        }
    }

    fn used(&mut self, message_id: u64) {
        self.next_message_id = self.next_message_id.max(message_id.saturating_add(1));
    }

    /// Appends a frame, and takes it back if its body is longer than the gateway takes.
    fn append(&self, out: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), SubmitError> {
        let begin = out.len();
        encode(out);
        let body = out.len() - begin - HEADER_LEN;
        let limit = self.max_body as usize;
        if body > limit {
            out.truncate(begin);
            return Err(SubmitError::TooLong { body, limit });
        }
        Ok(())
    }
}
