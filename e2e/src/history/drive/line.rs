//! One connection of a device, and what its client writes down of it.

use std::time::Duration;

use imaccess_wire::frame::{Close, Login as LoginFrame, Ping};
use imaccess_wire::{Code, Frame};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::calls::push_in;
use super::{Ground, Phase, name};
use crate::history::record::{Connection, Device, End, Ending, Login, Moment, Session, Sighting};
use crate::raw_client::{APP, OwnedFrame, RawClient};

/// Between two pings: much less than the cluster asks for, so that a late one is none too late.
const PING: Duration = Duration::from_secs(20);
/// After a goodbye, for the gateway to end the connection.
const GOODBYE: Duration = Duration::from_secs(1);

/// With which a session is resumed.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    pub(super) session: Session,
    pub(super) bytes: Vec<u8>,
}

/// A connection that is logged in.
pub(super) struct Line {
    client: RawClient,
    /// As far as it is known.
    pub(super) seen: Connection,
    /// Pushes that came.
    pub(super) sightings: Vec<Sighting>,
    next_ping: Instant,
}

/// A connection that has ended, and what came on it.
pub(super) type Recorded = (Connection, Vec<Sighting>);

/// What became of an attempt.
pub(super) enum Opened {
    /// It is online, perhaps with a ticket.
    Online(Box<Line>, Option<Ticket>),
    /// It isn't, and this is what was seen of it.
    Not(Connection),
}

/// Why reading stopped.
pub(super) enum Held {
    /// The connection has ended.
    Ended,
    /// The time is over.
    Time,
    /// Devices are to be elsewhere.
    Phase,
}

impl Line {
    /// Connects and logs in, for as long as the client's patience goes.
    pub(super) async fn open(
        ground: &Ground,
        device: Device,
        pod: usize,
        ticket: Option<&Ticket>,
        patience: Duration,
    ) -> Opened {
        let begun = ground.now();
        let mut seen = Connection {
            number: ground.next_connection(),
            device,
            pod,
            begun,
            login_sent: None,
            presented: ticket.map(|ticket| ticket.session),
            login: None,
            end: None,
        };
        let over = |seen: Connection, from: Moment, how: Ending| {
            let at = ground.now();
            let end = Some(End { from, at, how });
            Opened::Not(Connection { end, ..seen })
        };
        let deadline = Instant::now() + patience;
        let mut client = match timeout_at(deadline, RawClient::connect(&ground.gateways[pod])).await {
            Ok(Ok(client)) => client,
            Ok(Err(_)) => return over(seen, begun, Ending::NotTaken),
            // Its own impatience, and nobody's fault.
            Err(_) => return over(seen, begun, Ending::Cut),
        };
        let token = ground.token(device);
        let mut bytes = Vec::new();
        LoginFrame {
            device: &name(device),
            app: APP,
            token: token.as_bytes(),
            ticket: ticket.map_or(&[], |ticket| &ticket.bytes),
            platform: "history",
            version: "1",
            ..LoginFrame::default()
        }
        .encode(&mut bytes);
        seen.login_sent = Some(ground.now());
        let answer = async {
            client.send(&bytes).await?;
            client.frame().await
        };
        let Ok(answer) = timeout_at(deadline, answer).await else {
            let from = ground.now();
            drop(client);
            return over(seen, from, Ending::Cut);
        };
        let at = ground.now();
        let Ok(Some(frame)) = answer else {
            return over(seen, at, Ending::Lost);
        };
        match frame.decoded() {
            Ok(Frame::LoginOk(ok)) => {
                let session = Session(ok.session);
                seen.login = Some(Login {
                    at,
                    session,
                    epoch: ok.epoch,
                    resumed: ok.resumed,
                });
                let bytes = ok.ticket.to_vec();
                let ticket = (!bytes.is_empty()).then_some(Ticket { session, bytes });
                let line = Self {
                    client,
                    seen,
                    sightings: Vec::new(),
                    next_ping: Instant::now() + PING,
                };
                Opened::Online(Box::new(line), ticket)
            }
            Ok(Frame::LoginRefused(refused)) => over(seen, at, Ending::Refused { code: refused.code }),
            Ok(Frame::Close(close)) => {
                let (code, resumable) = (close.code, close.resumable);
                over(seen, at, Ending::Closed { code, resumable })
            }
            // No gateway says anything else now: as if it had ended without cause.
            _ => over(seen, at, Ending::Lost),
        }
    }

    /// Reads until the connection ends, the time is over, or devices are to be elsewhere.
    pub(super) async fn hold(
        &mut self,
        ground: &Ground,
        until: Option<Instant>,
        phases: &mut watch::Receiver<Phase>,
    ) -> Held {
        loop {
            let time = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                frame = self.client.frame() => {
                    if self.take(ground, frame.ok().flatten()) {
                        return Held::Ended;
                    }
                }
                // An error means that nobody says any more where to be.
                _ = phases.changed() => return Held::Phase,
                () = sleep_until(self.next_ping) => {
                    self.next_ping += PING;
                    let mut bytes = Vec::new();
                    Ping::default().encode(&mut bytes);
                    // A connection that is over is found by reading.
                    let _ = self.client.send(&bytes).await;
                }
                () = time => return Held::Time,
            }
        }
    }

    /// Notes what was read; whether that was the end. `None`: the stream ended.
    fn take(&mut self, ground: &Ground, frame: Option<OwnedFrame>) -> bool {
        let at = ground.now();
        let Some(frame) = frame else {
            self.ended(at, at, Ending::Lost);
            return true;
        };
        match frame.decoded() {
            Ok(Frame::Push(push)) => {
                self.sightings.push(Sighting {
                    push: push_in(push.payload, ground.plan.seed),
                    connection: self.seen.number,
                    at,
                });
                false
            }
            Ok(Frame::Close(close)) => {
                let (code, resumable) = (close.code, close.resumable);
                self.ended(at, at, Ending::Closed { code, resumable });
                true
            }
            Ok(_) => false,
            // A frame of this protocol that isn't one: a push that nobody sent, for all that is known.
            Err(_) => {
                self.sightings.push(Sighting {
                    push: None,
                    connection: self.seen.number,
                    at,
                });
                false
            }
        }
    }

    fn ended(&mut self, from: Moment, at: Moment, how: Ending) {
        self.seen.end = Some(End { from, at, how });
    }

    /// Says goodbye, and waits a while for the gateway to end the connection.
    pub(super) async fn leave(mut self: Box<Self>, ground: &Ground) -> Recorded {
        let from = ground.now();
        let mut bytes = Vec::new();
        Close::with_code(Code::ClientLeft).encode(&mut bytes);
        let deadline = Instant::now() + GOODBYE;
        if self.client.send(&bytes).await.is_ok() {
            while let Ok(frame) = timeout_at(deadline, self.client.frame()).await {
                if self.take(ground, frame.ok().flatten()) {
                    break;
                }
            }
        }
        self.ended(from, ground.now(), Ending::Left);
        self.record()
    }

    /// Closes the socket without a word.
    pub(super) fn cut(self: Box<Self>, ground: &Ground) -> Recorded {
        let Self {
            client,
            mut seen,
            sightings,
            ..
        } = *self;
        let from = ground.now();
        drop(client);
        let (at, how) = (ground.now(), Ending::Cut);
        seen.end = Some(End { from, at, how });
        (seen, sightings)
    }

    /// What was written down.
    pub(super) fn record(self: Box<Self>) -> Recorded {
        (self.seen, self.sightings)
    }

    /// Whether its session may be resumed.
    pub(super) fn is_resumable(&self) -> bool {
        self.seen.end.is_none_or(|end| end.how.resumable())
    }
}
