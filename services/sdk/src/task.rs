//! The one task of a client: owns the connection, the session and everything that was asked.
//!
//! It waits at one place (`serve`) for whatever comes first: a command, the dialler, the socket, room for pushes, a
//! timer. All waits there are cancel safe; everything that happens between them is synchronous.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use imaccess_wire::Code;
use imaccess_wire::client::{ClientSession, SubmitError};
use imaccess_wire::frame::NetworkType;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::builder::Settings;
use crate::dial::{Course, Dialed, Dialer};
use crate::endpoints::Endpoint;
use crate::error::{ConnectError, RequestError, is_final};
use crate::incoming::{Incoming, LoggedIn, Over};
use crate::link::{Link, when};
use crate::pending::{Entry, Pending};
use crate::pushes::{Handled, PushQueue};
use crate::state::{ConnectionState, SessionId};

/// What the handle asks of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Ask(Entry),
    Close,
}

/// What the task needs from its maker.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) settings: Arc<Settings>,
    pub(crate) dialer: Dialer,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) states: Arc<watch::Sender<ConnectionState>>,
    pub(crate) pushes: PushQueue,
    pub(crate) handled: watch::Receiver<Handled>,
    pub(crate) network: watch::Receiver<(NetworkType, String)>,
    /// Told once: online, or why not.
    pub(crate) first: oneshot::Sender<Result<(), ConnectError>>,
}

enum Dial {
    /// Nothing to dial for.
    Idle(Box<Dialer>),
    Waiting(Box<Dialer>, Instant),
    Running(Pin<Box<dyn Future<Output = Dialed> + Send>>),
    /// Only while one of the others is being replaced.
    Taken,
}

pub(crate) struct Task {
    settings: Arc<Settings>,
    commands: mpsc::Receiver<Command>,
    states: Arc<watch::Sender<ConnectionState>>,
    pushes: PushQueue,
    handled: watch::Receiver<Handled>,
    network: watch::Receiver<(NetworkType, String)>,
    pending: Pending,
    /// The connection in use; logged in.
    link: Option<Link>,
    /// The session while neither a link nor the dialler has it.
    parked: Option<ClientSession>,
    dial: Dial,
    /// Where a go-away wants this client.
    wished: Vec<Endpoint>,
    /// The gateway of the connection in use has told this client to go.
    going: bool,
    backoff: Backoff,
    incoming: Vec<Incoming>,
    first: Option<oneshot::Sender<Result<(), ConnectError>>>,
    give_up: Instant,
    last_error: Option<ConnectError>,
}

impl Task {
    pub(crate) fn new(parts: Parts) -> Self {
        let now = Instant::now();
        Self {
            backoff: Backoff::new(parts.settings.backoff),
            give_up: now + parts.settings.connect_within,
            settings: parts.settings,
            commands: parts.commands,
            states: parts.states,
            pushes: parts.pushes,
            handled: parts.handled,
            network: parts.network,
            pending: Pending::default(),
            link: None,
            parked: Some(ClientSession::new()),
            dial: Dial::Waiting(Box::new(parts.dialer), now),
            wished: Vec::new(),
            going: false,
            incoming: Vec::new(),
            first: Some(parts.first),
            last_error: None,
        }
    }

    pub(crate) async fn run(mut self) {
        let code = self.serve().await;
        if let Some(link) = self.link.take() {
            link.close(Code::ClientLeft).await;
        }
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Ask(entry) = command {
                self.pending.insert(entry);
            }
        }
        self.pending.close(code);
        self.states.send_replace(ConnectionState::Closed { code });
    }

    /// Until the client is over; returns why.
    async fn serve(&mut self) -> Code {
        loop {
            let now = Instant::now();
            if let Some(code) = self.advance(now) {
                return code;
            }
            let wake = self.next_wake();
            let reading = !self.pushes.is_stalled();
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(Command::Ask(entry)) => self.pending.insert(entry),
                    Some(Command::Close) | None => return Code::Ok,
                },
                dialed = dialed(&mut self.dial) => {
                    if let Some(code) = self.on_dialed(dialed).await {
                        return code;
                    }
                }
                () = self.pushes.room() => {}
                Ok(()) = self.handled.changed() => self.acknowledge(),
                Ok(()) = self.network.changed() => self.on_network(),
                turn = turn(&mut self.link, reading, &mut self.incoming) => {
                    if let Err(over) = turn {
                        self.incoming.push(Incoming::Over(over));
                    }
                }
                () = when(wake) => {}
            }
        }
    }

    /// Everything that can be done without waiting. Returns a code when the client is over.
    fn advance(&mut self, now: Instant) -> Option<Code> {
        for incoming in std::mem::take(&mut self.incoming) {
            if let Some(code) = self.take_in(incoming, now) {
                return Some(code);
            }
        }
        self.pending.expire(now);
        if let Err(over) = self.submit(now)
            && let Some(code) = self.on_over(over, now)
        {
            return Some(code);
        }
        if self.first.is_some() && now >= self.give_up {
            let error = self
                .last_error
                .take()
                .unwrap_or_else(|| ConnectError::Unreachable {
                    endpoint: "(none answered yet)".to_owned(),
                    why: "out of time".to_owned(),
                });
            return Some(self.give_up_with(error));
        }
        if matches!(&self.dial, Dial::Waiting(_, at) if *at <= now) {
            self.start_dial();
        }
        None
    }

    fn next_wake(&self) -> Option<Instant> {
        let can_send = self.link.as_ref().is_some_and(Link::has_room);
        let dial = match &self.dial {
            Dial::Waiting(_, at) => Some(*at),
            _ => None,
        };
        let give_up = self.first.is_some().then_some(self.give_up);
        [self.pending.next_wake(can_send), dial, give_up]
            .into_iter()
            .flatten()
            .min()
    }

    fn take_in(&mut self, incoming: Incoming, now: Instant) -> Option<Code> {
        match incoming {
            Incoming::Answer(verdict) => self.pending.answered(&verdict, now),
            Incoming::Push(push) => {
                let session = self
                    .link
                    .as_ref()
                    .map(|link| link.session.session())
                    .unwrap_or_default();
                self.pushes.deliver(push, SessionId(session));
            }
            Incoming::GoAway { delay, endpoints } => {
                self.wished = endpoints;
                self.going = self.link.is_some();
                self.show(ConnectionState::Moving);
                if let Dial::Idle(_) = self.dial {
                    self.dial_at(now + delay);
                }
            }
            Incoming::Repeat => self.pending.may_be_lost(Code::Retry, now),
            Incoming::Over(over) => return self.on_over(over, now),
            // The session refuses login answers outside a login.
            Incoming::LoggedIn(_) | Incoming::Refused { .. } => {}
        }
        None
    }

    /// Sends what is due.
    fn submit(&mut self, now: Instant) -> Result<(), Over> {
        let Some(link) = &mut self.link else { return Ok(()) };
        while link.has_room() {
            let Some((key, entry)) = self.pending.due(now) else {
                break;
            };
            match link.submit(entry, now) {
                Ok(message_id) => self.pending.sent(key, message_id),
                Err(SubmitError::NotOnline) => break,
                Err(SubmitError::Length(what)) => {
                    self.pending.fail(key, RequestError::TooLong { what, limit: 0 });
                }
                Err(SubmitError::TooLong { limit, .. }) => {
                    self.pending.fail(
                        key,
                        RequestError::TooLong {
                            what: "the message",
                            limit,
                        },
                    );
                }
                Err(error @ SubmitError::TooManyGroups) => {
                    let (code, payload) = (Code::GroupLimit, bytes::Bytes::new());
                    let reason = error.to_string();
                    self.pending.fail(
                        key,
                        RequestError::Refused {
                            code,
                            number: code as u16,
                            reason,
                            payload,
                        },
                    );
                }
            }
        }
        link.flush()
    }

    fn acknowledge(&mut self) {
        let handled = *self.handled.borrow_and_update();
        if let Some(link) = &mut self.link
            && SessionId(link.session.session()) == handled.session
        {
            link.push_ack(handled.sequence);
        }
    }

    /// The device is on another network: what was learnt of the old one doesn't count, and the connection is made anew,
    /// before the old one is left if that still works.
    fn on_network(&mut self) {
        self.network.borrow_and_update();
        self.backoff.reset();
        if self.link.is_some() {
            self.show(ConnectionState::Moving);
        }
        self.dial_at(Instant::now());
    }

    /// The connection in use is over.
    fn on_over(&mut self, over: Over, now: Instant) -> Option<Code> {
        let link = self.link.take()?;
        tracing::debug!(code = %over.code, "the connection is over");
        if std::mem::take(&mut self.going)
            && let Dial::Idle(dialer) | Dial::Waiting(dialer, _) = &mut self.dial
        {
            // From now on it is better than nothing: another gateway may have come to the same address.
            dialer.finder.failed(&link.endpoint);
            dialer.finder.expire();
        }
        self.parked = Some(link.lost());
        self.pending.connection_lost(now);
        if is_final(over.code) {
            return Some(over.code);
        }
        if let Dial::Running(_) = self.dial {
            // A dial that is under way already, because of a go-away, goes on. `moved` says that its login ended this connection: the
            // session is there before its answer is here (PROTOCOL 3.6). If that never comes, `on_failure` shows the loss.
            if over.code != Code::Moved {
                self.show(ConnectionState::Suspended);
            }
        } else {
            self.show(ConnectionState::Suspended);
            let wait = self.backoff.next(fastrand::f64(), some(over.retry_after));
            self.dial_at(now + wait);
        }
        None
    }

    fn dial_at(&mut self, at: Instant) {
        self.dial = match std::mem::replace(&mut self.dial, Dial::Taken) {
            Dial::Idle(dialer) | Dial::Waiting(dialer, _) => Dial::Waiting(dialer, at),
            other => other,
        };
    }

    fn start_dial(&mut self) {
        self.dial = match std::mem::replace(&mut self.dial, Dial::Taken) {
            Dial::Idle(dialer) | Dial::Waiting(dialer, _) => {
                let course = Course {
                    wished: std::mem::take(&mut self.wished),
                    leaving: self
                        .link
                        .as_ref()
                        .filter(|_| self.going)
                        .map(|link| link.endpoint.clone()),
                    moving: self.link.is_some(),
                };
                let session = match &self.link {
                    Some(link) => link.session.successor(),
                    None => self.parked.take().unwrap_or_default(),
                };
                Dial::Running(Box::pin(dialer.dial(session, course)))
            }
            other => other,
        };
    }

    async fn on_dialed(&mut self, dialed: Dialed) -> Option<Code> {
        let now = Instant::now();
        self.backoff
            .serve_base(&self.settings.backoff, dialed.dialer.finder.retry_base());
        self.dial = Dial::Idle(Box::new(dialed.dialer));
        match dialed.result {
            Ok((link, login)) => {
                self.on_online(link, login, now).await;
                None
            }
            Err((session, error)) => self.on_failure(session, error, now),
        }
    }

    async fn on_online(&mut self, mut link: Link, login: LoggedIn, now: Instant) {
        let mut returned = false;
        if let Some(mut old) = self.link.take() {
            // A round that began before the go-away came may have led to the same gateway again.
            returned = self.going && old.endpoint.is_same(&link.endpoint);
            let mut rest = Vec::new();
            old.read_rest(&mut rest);
            // What the old connection says of itself doesn't matter any more.
            rest.retain(|incoming| matches!(incoming, Incoming::Answer(_) | Incoming::Push(_)));
            self.incoming.extend(rest);
            link.session.catch_up(&old.session);
            self.pending.connection_lost(now);
            old.close(Code::Moved).await;
        } else if let Some(parked) = self.parked.take() {
            link.session.catch_up(&parked);
        }
        self.link = Some(link);
        self.going = returned;
        if !login.resumed {
            self.pending.session_began(now);
        }
        self.backoff.reset();
        let LoggedIn {
            session,
            epoch,
            resumed,
        } = login;
        self.show(ConnectionState::Online {
            session: SessionId(session),
            epoch,
            resumed,
        });
        if returned {
            self.show(ConnectionState::Moving);
            let wait = self.backoff.next(fastrand::f64(), None);
            self.dial_at(now + wait);
        }
        if let Some(first) = self.first.take() {
            // Nobody waits any more when `connect` was cancelled; then the commands' channel is closed as well.
            let _ = first.send(Ok(()));
        }
    }

    fn on_failure(&mut self, session: ClientSession, error: ConnectError, now: Instant) -> Option<Code> {
        tracing::debug!(%error, "no connection");
        // While a link is in use `session` was its successor, and one that is parked by now is newer than it.
        if self.link.is_none() {
            self.parked.get_or_insert(session);
            if !error.is_retryable() {
                return Some(self.give_up_with(error));
            }
            self.show(ConnectionState::Suspended);
        }
        let retry_after = match &error {
            ConnectError::Refused { retry_after, .. } => *retry_after,
            _ => None,
        };
        let at = now + self.backoff.next(fastrand::f64(), retry_after);
        if self.first.is_some() && at >= self.give_up {
            return Some(self.give_up_with(error));
        }
        self.last_error = Some(error);
        self.dial_at(at);
        None
    }

    fn give_up_with(&mut self, error: ConnectError) -> Code {
        let code = match &error {
            ConnectError::Refused { code, .. } | ConnectError::Lost { code, .. } => *code,
            _ => Code::ConnectionLost,
        };
        if let Some(first) = self.first.take() {
            let _ = first.send(Err(error));
        }
        code
    }

    fn show(&self, state: ConnectionState) {
        self.states
            .send_if_modified(|shown| std::mem::replace(shown, state) != state);
    }
}

fn some(wait: Duration) -> Option<Duration> {
    (!wait.is_zero()).then_some(wait)
}

async fn dialed(dial: &mut Dial) -> Dialed {
    match dial {
        Dial::Running(running) => running.await,
        _ => std::future::pending().await,
    }
}

async fn turn(link: &mut Option<Link>, reading: bool, incoming: &mut Vec<Incoming>) -> Result<(), Over> {
    match link {
        Some(link) => link.turn(reading, incoming).await,
        None => std::future::pending().await,
    }
}
