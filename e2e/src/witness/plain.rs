//! Clients that only speak frames: they know nothing of replacements, and come back only if the load says so.

mod asking;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use fastrand::Rng;
use imaccess_wire::frame::{GroupPosition, GroupPositions, Login};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::agenda::Task;
use super::book::{Book, LoginAnswer, Seen};
use super::out::Out;
use super::parking::Held;
use super::tally::code_name;
use super::{GROUP, Ground};
use crate::raw_client::APP;

/// Connections that are opened at the same time in the beginning.
const OPENING: usize = 64;
/// What PROTOCOL.md gives a client for the answer to its login.
const LOGIN: Duration = Duration::from_secs(10);
/// Waits between attempts in a row: the first, what each is longer by, and the longest (PROTOCOL.md 3.5).
const BACKOFF_S: (f64, f64, f64) = (1.0, 1.8, 60.0);
/// Of one read. Whole bursts of pushes fit.
const READ: usize = 16 * 1024;

thread_local! {
    /// One per worker: a connection needs memory of its own for a partial frame only.
    static BUFFERS: RefCell<(Vec<u8>, Seen)> = RefCell::new((vec![0; READ], Seen::default()));
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    number: u32,
    online: AtomicBool,
    left: AtomicBool,
    /// Counts connections, so that what was planned for an old one isn't done to a new one.
    connection: AtomicU32,
    state: Held<State>,
}

#[derive(Debug)]
struct State {
    book: Book,
    out: Out,
    writer: Option<OwnedWriteHalf>,
    ticket: Vec<u8>,
}

/// What one read brought for its connection.
enum Read {
    More,
    Login(LoginAnswer),
    Ended(String),
}

/// Its device id.
pub(super) fn device(number: u32) -> String {
    format!("plain-{number}")
}

/// Starts them all, a few at a time.
pub(super) fn start(ground: &Arc<Ground>, tasks: &mut JoinSet<()>) {
    let turns = Arc::new(Semaphore::new(OPENING));
    for number in 0..ground.load.plain {
        tasks.spawn(live(Arc::clone(ground), number, Arc::clone(&turns)));
    }
}

/// Connects, and reads until the end; again, if it may come back.
async fn live(ground: Arc<Ground>, number: u32, turns: Arc<Semaphore>) {
    let client = &ground.plain[number as usize];
    let mut random = Rng::with_seed(ground.load.seed ^ u64::from(number));
    let (mut failures, mut was_online) = (0, false);
    let first = random.f64();
    ground
        .agenda
        .add(ground.load.ping.mul_f64(first), Task::Ping { client: number });
    loop {
        let turn = turns.acquire().await;
        let opened = client.open(&ground, was_online).await;
        drop(turn);
        let mut wait = Duration::ZERO;
        match opened {
            Ok(mut reader) => {
                (failures, was_online) = (0, true);
                let how = client.read(&ground, &mut reader).await;
                client.ended(&ground, &how);
            }
            Err((how, at_least)) => {
                client.ended_before_online(&ground, how);
                let (base, factor, longest) = BACKOFF_S;
                let row = (base * f64::powi(factor, failures)).min(longest);
                wait = Duration::from_secs_f64(row * (0.7 + 0.6 * random.f64())).max(at_least);
                failures += 1;
            }
        }
        let comes_back = ground.load.reconnect || !was_online;
        if client.has_left() || ground.leaving.load(Ordering::Relaxed) || !comes_back {
            return;
        }
        sleep(wait).await;
    }
}

impl Client {
    pub(super) fn new(seed: u64, number: u32) -> Self {
        Self {
            number,
            online: AtomicBool::new(false),
            left: AtomicBool::new(false),
            connection: AtomicU32::new(0),
            state: Held::new(State {
                book: Book::new(seed, number),
                out: Out::default(),
                writer: None,
                ticket: Vec::new(),
            }),
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn is_online(&self) -> bool {
        self.online.load(Ordering::Relaxed)
    }

    pub(super) fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    pub(super) fn unanswered(&self) -> usize {
        // Who has left waits for nothing.
        if self.has_left() {
            return 0;
        }
        self.state.lock().book.unanswered()
    }

    /// Number of the last group push that it got.
    pub(super) fn group_sequence(&self) -> u64 {
        self.state.lock().book.positions.group.1
    }

    /// Opens a connection and logs in; else what happened, and how long to wait at least.
    async fn open(&self, ground: &Ground, again: bool) -> Result<OwnedReadHalf, (String, Duration)> {
        let failed = |what: &str| (what.to_owned(), Duration::ZERO);
        let stream = timeout(LOGIN, TcpStream::connect(ground.place.address_of(self.number))).await;
        let stream = stream
            .map_err(|_| failed("connect timed out"))?
            .map_err(|error| failed(&format!("connect: {:?}", error.kind())))?;
        let _ = stream.set_nodelay(true);
        let (mut reader, writer) = stream.into_split();
        let device = device(self.number);
        let token = ground.token(&device);
        self.connection.fetch_add(1, Ordering::Relaxed);
        {
            let mut state = self.state.lock();
            let state = &mut *state;
            state.book.connection_began();
            state.out.clear();
            let (group_epoch, sequence) = state.book.positions.group;
            let groups = [GroupPosition {
                business: ground.place.business,
                group: GROUP,
                group_epoch,
                sequence,
            }];
            let login = Login {
                device: &device,
                app: APP,
                token: token.as_bytes(),
                ticket: &state.ticket,
                groups: GroupPositions::new(&groups),
                ..Login::default()
            };
            state.out.append(|out| login.encode(out));
            state.writer = Some(writer);
        }
        self.flush(ground);
        let answer = timeout(LOGIN, self.read_until_login(ground, &mut reader)).await;
        match answer.map_err(|_| failed("login not answered"))? {
            Ok(LoginAnswer::Online { ticket, resumed }) => {
                self.logged_in(ground, ticket, resumed, again);
                Ok(reader)
            }
            Ok(LoginAnswer::Refused(code, wait)) => Err((format!("refused {}", code_name(code)), wait)),
            Err(how) => Err((format!("login: {how}"), Duration::ZERO)),
        }
    }

    fn logged_in(&self, ground: &Ground, ticket: Vec<u8>, resumed: bool, again: bool) {
        let now = ground.now();
        let mut state = self.state.lock();
        state.ticket = ticket;
        if again {
            let ids = state.book.repeat_all(now);
            for id in &ids {
                state.append_request(ground.place.business, *id);
            }
            let mut tally = ground.plain_tally.lock();
            tally.retries += ids.len() as u64;
            if resumed {
                tally.resumed += 1;
            } else {
                tally.not_resumed += 1;
            }
        }
        drop(state);
        self.online.store(true, Ordering::Relaxed);
        self.flush(ground);
    }

    async fn read_until_login(
        &self,
        ground: &Ground,
        reader: &mut OwnedReadHalf,
    ) -> Result<LoginAnswer, String> {
        loop {
            match std::future::poll_fn(|context| self.poll_read(ground, reader, context)).await {
                Read::More => {}
                Read::Login(answer) => return Ok(answer),
                Read::Ended(how) => return Err(how),
            }
        }
    }

    /// Reads until the end, and says how it was.
    async fn read(&self, ground: &Ground, reader: &mut OwnedReadHalf) -> String {
        loop {
            let read = std::future::poll_fn(|context| self.poll_read(ground, reader, context)).await;
            if let Read::Ended(how) = read {
                return how;
            }
        }
    }

    fn poll_read(
        &self,
        ground: &Ground,
        reader: &mut OwnedReadHalf,
        context: &mut Context<'_>,
    ) -> Poll<Read> {
        BUFFERS.with_borrow_mut(|(buffer, seen)| {
            let mut buffer = ReadBuf::new(buffer);
            if let Err(error) = ready!(Pin::new(reader).poll_read(context, &mut buffer)) {
                return Poll::Ready(Read::Ended(reset(&error)));
            }
            if buffer.filled().is_empty() {
                return Poll::Ready(Read::Ended("silent".to_owned()));
            }
            seen.clear();
            let now = ground.now();
            self.state.lock().book.receive(buffer.filled(), now, seen);
            for (id, at) in seen.repeats.drain(..) {
                let client = self.number;
                ground.agenda.add(at, Task::Repeat { client, id });
            }
            let gateway = ground.place.gateway_of(self.number);
            ground.plain_tally.lock().add(seen, Some(gateway));
            Poll::Ready(if seen.forged.is_some() {
                Read::Ended("forged".to_owned())
            } else if let Some(code) = seen.closed {
                Read::Ended(format!("close {}", code_name(code)))
            } else if let Some(answer) = seen.login.take() {
                Read::Login(answer)
            } else {
                Read::More
            })
        })
    }

    /// An online connection is gone.
    fn ended(&self, ground: &Ground, how: &str) {
        let within_a_frame = self.disconnected();
        if self.has_left() {
            return;
        }
        let mut tally = ground.plain_tally.lock();
        *tally.ended.entry(how.to_owned()).or_default() += 1;
        if within_a_frame {
            tally.torn += 1;
            tally.example(format!("{} ended ({how}) within a frame", device(self.number)));
        }
    }

    fn ended_before_online(&self, ground: &Ground, how: String) {
        self.disconnected();
        *ground.plain_tally.lock().login_failures.entry(how).or_default() += 1;
    }

    fn disconnected(&self) -> bool {
        self.online.store(false, Ordering::Relaxed);
        self.connection.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.writer = None;
        state.out.clear();
        state.book.connection_ended()
    }
}

fn reset(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset".to_owned(),
        other => format!("error {other:?}"),
    }
}
