//! Logins: a ticket first, a token else; a bounded queue, and a bounded amount of signature checks per turn.

use bytes::Bytes;
use imaccess_common::identity::{Epoch, SessionId};
use imaccess_common::ticket::{Ticket, TicketError};
use imaccess_common::token::TokenError;
use imaccess_proto::v1::{EventKind, LoginAttempt, LoginResult};
use imaccess_wire::Code;
use imaccess_wire::frame::{Login, LoginOk, LoginRefused};
use imaccess_wire::header::HEADER_LEN;

use super::Machine;
use crate::session::Now;
use crate::session::record::{Identity, Phase, Record};
use crate::session::table::Key;

/// What one token check costs compared with opening a ticket (60–100 µs against 2–4 µs).
const TOKEN_COST: usize = 20;

/// Refused logins come back after one to two seconds, spread so that they don't come together.
const RETRY_MS: std::ops::Range<u32> = 1_000..2_000;

impl Machine {
    /// A connection wants a session. It is queued, or refused when the queue is full.
    pub fn login(&mut self, attempt: LoginAttempt) {
        if !self.may_send() {
            // Nobody could be answered; its frame is still in the kernel and comes again.
            return;
        }
        if self.logins.len() >= self.settings.login_queue {
            self.refuse(attempt.handle, Code::Overloaded);
            return;
        }
        self.logins.push_back(attempt);
    }

    /// Takes logins from the queue as far as this turn's budget goes. Whether some are left.
    pub fn run_logins(&mut self, now: Now) -> bool {
        let mut budget = self.settings.token_checks_per_turn * TOKEN_COST;
        while budget > 0
            && let Some(attempt) = self.logins.pop_front()
        {
            let cost = self.run_login(&attempt, now);
            budget = budget.saturating_sub(cost);
        }
        !self.logins.is_empty()
    }

    /// Logins waiting for their turn.
    #[must_use]
    pub fn logins_waiting(&self) -> usize {
        self.logins.len()
    }

    fn run_login(&mut self, attempt: &LoginAttempt, now: Now) -> usize {
        let body = attempt.frame.get(HEADER_LEN..).unwrap_or_default();
        let Ok(login) = Login::decode(body) else {
            self.shared
                .metrics
                .logins
                .with_label_values(&[Code::Malformed.name()])
                .inc();
            self.link.close(attempt.handle, Code::Malformed);
            return 1;
        };
        let now_s = now.unix_ms / 1_000;
        if !login.ticket.is_empty() {
            let now_s = u32::try_from(now_s).unwrap_or(u32::MAX);
            // One that doesn't open, or is another device's, makes this an ordinary first login.
            match self.shared.tickets.open(login.ticket, now_s) {
                Ok(ticket) if ticket.app == login.app && ticket.device == login.device => {
                    self.accept(attempt, &login, Some(&ticket), now);
                    return 1;
                }
                refused => self.count_ticket(refused.err()),
            }
        }
        match self.shared.tokens.verify(login.token, now_s) {
            Ok(claims) if claims.app == login.app && claims.device == login.device => {
                self.accept(attempt, &login, None, now);
            }
            Ok(_) => self.refuse(attempt.handle, Code::TokenMismatch),
            Err(TokenError::Expired) => self.refuse(attempt.handle, Code::TokenExpired),
            Err(_) => self.refuse(attempt.handle, Code::TokenInvalid),
        }
        TOKEN_COST
    }

    /// Counts a ticket that didn't open, or (`None`) is another device's.
    fn count_ticket(&self, fault: Option<TicketError>) {
        let reason = match fault {
            None => "other_device",
            Some(TicketError::UnknownKey) => "unknown_key",
            Some(TicketError::UnknownGeneration) => "unknown_generation",
            Some(TicketError::Malformed | TicketError::TooLong) => "malformed",
            Some(TicketError::Forged) => "forged",
            Some(TicketError::Expired) => "expired",
        };
        self.shared
            .metrics
            .tickets_refused
            .with_label_values(&[reason])
            .inc();
    }

    fn refuse(&mut self, handle: u64, code: Code) {
        let retry_after_ms = if code == Code::Overloaded {
            self.rng.u32(RETRY_MS)
        } else {
            0
        };
        let refused = LoginRefused {
            code: code as u16,
            retry_after_ms,
            resumable: code.resumable(),
            ..LoginRefused::default()
        };
        let mut frame = Vec::with_capacity(32);
        refused.encode(&mut frame);
        self.link.login(LoginResult {
            handle,
            frame: frame.into(),
            ..LoginResult::default()
        });
        self.shared.metrics.logins.with_label_values(&[code.name()]).inc();
    }

    fn accept(&mut self, attempt: &LoginAttempt, login: &Login<'_>, ticket: Option<&Ticket>, now: Now) {
        let known = ticket.and_then(|ticket| self.table.by_session(ticket.session.as_bytes()));
        let of_device = self.table.by_device(login.app, login.device);
        // A gateway that didn't hear the answer sends the same login again.
        let known = known.or_else(|| of_device.filter(|key| self.is_of_connection(*key, attempt.serial)));
        let latest = [known, of_device].into_iter().flatten();
        let latest = latest
            .filter_map(|key| self.table.get(key))
            .map(|record| Epoch(record.epoch))
            .max();
        let above = latest.max(ticket.map(|ticket| ticket.epoch));
        let epoch = self.shared.epochs.stamp(now.unix_ms, above);

        if let Some(other) = of_device
            && Some(other) != known
        {
            self.supersede(other, Code::Superseded);
        }
        let key = match known {
            Some(key) => {
                self.leave_connection(key, attempt.serial);
                key
            }
            None => {
                let id = ticket.map_or_else(SessionId::random, |ticket| ticket.session);
                let who = Identity::new(login.app, login.device);
                self.table.insert(Record::new(*id.as_bytes(), epoch.0, who))
            }
        };
        self.table.set_handle(key, attempt.handle);
        self.table.describe(key, login.platform, login.version);
        let link_no = self.link_no;
        let Some(record) = self.table.get_mut(key) else {
            return;
        };
        record.epoch = epoch.0;
        record.serial = attempt.serial;
        record.forwarded = 0;
        record.seen_link = link_no;
        record.push_watermark = record.push_watermark.max(login.last_push);
        record.reason = Code::Ok as u16;
        record.enter(Phase::Online);
        record.fresh = true;
        let session = record.id;
        self.announce(key);
        if known.is_none() {
            // Also for a session that comes from elsewhere with a ticket: whether its business was told meanwhile
            // that it went offline isn't known here, and hearing "online" twice does no harm.
            self.event(EventKind::Online, key, now);
        }
        self.answer(
            key,
            attempt.handle,
            login,
            (session, epoch),
            ticket.is_some(),
            now,
        );
        self.take_groups_up(key);
        for position in login.groups.iter() {
            let allowed = self
                .business_index(position.business)
                .is_some_and(|index| self.businesses[index].config.client_groups);
            if allowed && self.enter_group(key, position.business, position.group, false) {
                self.link
                    .membership(attempt.handle, position.business, position.group, true);
            }
        }
    }

    /// The session goes on over another connection; its old one, if it is still there, is told so.
    fn leave_connection(&mut self, key: Key, next: u64) {
        self.set_groups_aside(key);
        let Some(record) = self.table.get(key) else { return };
        let (old, serial) = (record.handle, record.serial);
        if serial != next {
            self.table.set_handle(key, 0);
            // Also when it has ended: then only that is said.
            self.close_for_good(old, serial, Code::Moved);
        }
    }

    /// Whether a session's connection, present or last, is this one.
    fn is_of_connection(&self, key: Key, serial: u64) -> bool {
        serial != 0
            && self.generation >= 2
            && self.table.get(key).is_some_and(|record| record.serial == serial)
    }

    fn answer(
        &mut self,
        key: Key,
        handle: u64,
        login: &Login<'_>,
        (session, epoch): ([u8; 16], Epoch),
        resumed: bool,
        now: Now,
    ) {
        let lifetime = self.settings.ticket_lifetime.as_secs();
        let ticket = Ticket {
            session: SessionId(session),
            epoch,
            expires_unix_s: u32::try_from(now.unix_ms / 1_000 + lifetime).unwrap_or(u32::MAX),
            app: login.app.to_owned(),
            device: login.device.to_owned(),
        };
        let sealed = self.shared.tickets.seal(&ticket);
        // Without a key there is no ticket: the login holds, it only can't be resumed.
        let sealed = sealed.as_ref().map_or(&[][..], |sealed| sealed);
        let ok = LoginOk {
            session,
            epoch: epoch.0,
            ticket: sealed,
            resume_window_s: u32::try_from(self.settings.resume_window.as_secs()).unwrap_or(u32::MAX),
            ping_interval_s: self.ping_interval_s(),
            max_in_flight: u32::from(self.settings.max_in_flight),
            resumed,
            server_unix_ms: now.unix_ms,
            ..LoginOk::default()
        };
        let mut frame = Vec::with_capacity(192);
        ok.encode(&mut frame);
        self.link.login(LoginResult {
            handle,
            frame: frame.into(),
            accepted: true,
            ticket: Bytes::copy_from_slice(sealed),
            ping_interval_s: self.ping_interval_s(),
            attributes: Bytes::copy_from_slice(self.table.attributes_of(key).as_bytes()),
        });
        let result = if resumed { "resumed" } else { "new" };
        self.shared.metrics.logins.with_label_values(&[result]).inc();
    }
}
