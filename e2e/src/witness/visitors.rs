//! New connections all the time: each logs in, asks once, and leaves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastrand::Rng;
use imaccess_wire::frame::{Close, Login, Request};
use imaccess_wire::{Code, Frame};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::book::{Book, LOST, LoginAnswer, REQUEST, Seen};
use super::drive::pause;
use super::tally::{Stall, code_name};
use super::{Ground, payload};
use crate::raw_client::APP;

/// From the connect to the login's answer: longer counts as refused.
const LOGIN: Duration = Duration::from_secs(5);
/// Visitors at a time; beyond it, a visit counts as refused.
const MOST: u64 = 2_000;
/// Their numbers begin here among all clients'.
const FIRST: u32 = 0xE000_0000;

/// What new connections met.
#[derive(Clone, Debug, Default)]
pub struct Visits {
    /// Begun.
    pub begun: u64,
    /// Ended as they should.
    pub well: u64,
    /// Ended otherwise, by what happened.
    pub refused: BTreeMap<String, u64>,
    /// Repetitions of their requests.
    pub retries: u64,
    /// Begun and not ended.
    pub under_way: u64,
    /// From the connect to the login's answer: when begun, how long.
    logins: Vec<(Duration, Duration)>,
}

impl Visits {
    /// All that didn't end as they should.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refused.values().sum()
    }

    /// The longest login, connect included, in milliseconds.
    #[must_use]
    pub fn longest_login_ms(&self) -> f64 {
        self.login_quantile_ms(1.0)
    }

    /// How long this share of the logins took at most, connect included, in milliseconds.
    #[must_use]
    pub fn login_quantile_ms(&self, share: f64) -> f64 {
        Stall::of(self.logins.iter().map(|(_, took)| *took)).quantile_ms(share)
    }
}

/// Lets them come, until it is aborted.
pub(super) async fn run(ground: Arc<Ground>) {
    if ground.load.visits <= 0.0 {
        return;
    }
    let mut random = Rng::with_seed(ground.load.seed.rotate_left(13));
    let mut next = Instant::now();
    for number in 0.. {
        next += pause(ground.load.visits, &mut random);
        sleep_until(next).await;
        if ground.quiet.load(Ordering::Relaxed) {
            continue;
        }
        let mut visits = ground.visits.lock();
        visits.begun += 1;
        if visits.under_way >= MOST {
            *visits.refused.entry("too many wait".to_owned()).or_default() += 1;
            continue;
        }
        visits.under_way += 1;
        drop(visits);
        tokio::spawn(one(Arc::clone(&ground), number));
    }
}

async fn one(ground: Arc<Ground>, number: u32) {
    let visit = visit(&ground, number).await;
    let mut visits = ground.visits.lock();
    visits.under_way -= 1;
    match visit {
        Ok(()) => visits.well += 1,
        Err(what) => *visits.refused.entry(what).or_default() += 1,
    }
}

/// A whole visit; else what happened instead.
async fn visit(ground: &Ground, number: u32) -> Result<(), String> {
    let begun = ground.now();
    let deadline = Instant::now() + LOGIN;
    let stream = timeout_at(deadline, TcpStream::connect(ground.place.address_of(number))).await;
    let stream = stream.map_err(|_| "connect timed out")?;
    let mut stream = stream.map_err(|error| format!("connect {:?}", error.kind()))?;
    let _ = stream.set_nodelay(true);
    let device = format!("visitor-{number}");
    let token = ground.token(&device);
    let mut bytes = Vec::new();
    let login = Login {
        device: &device,
        app: APP,
        token: token.as_bytes(),
        ..Login::default()
    };
    login.encode(&mut bytes);
    write(&mut stream, &bytes).await?;
    let mut book = Book::new(ground.load.seed, FIRST + number);
    let mut seen = Seen::default();
    let online = async {
        while seen.login.is_none() {
            read(ground, &mut stream, &mut book, &mut seen).await?;
        }
        Ok::<(), String>(())
    };
    timeout_at(deadline, online)
        .await
        .map_err(|_| "login over 5 s")??;
    if let Some(LoginAnswer::Refused(code, _)) = seen.login {
        return Err(format!("refused {}", code_name(code)));
    }
    let took = ground.now() - begun;
    ground.visits.lock().logins.push((begun, took));

    let id = book.ask(ground.now());
    let answered = async {
        ask(ground, &mut stream, &book, id).await?;
        while seen.answers.is_empty() {
            read(ground, &mut stream, &mut book, &mut seen).await?;
            if let Some((id, at)) = seen.repeats.pop() {
                sleep_until(ground.begin + at).await;
                book.repeat(id, ground.now());
                ground.visits.lock().retries += 1;
                ask(ground, &mut stream, &book, id).await?;
            }
        }
        Ok::<(), String>(())
    };
    timeout(LOST, answered).await.map_err(|_| "request lost")??;
    if seen.doubled + seen.foreign + seen.torn > 0 {
        return Err("a wrong reply".to_owned());
    }
    match seen.answers[..] {
        [(_, _, 0)] => {}
        [(_, _, code)] => return Err(format!("request {}", code_name(code))),
        _ => return Err("several replies".to_owned()),
    }
    bytes.clear();
    Close::with_code(Code::ClientLeft).encode(&mut bytes);
    write(&mut stream, &bytes).await?;
    // The goodbye is said; how the other side takes it is its affair.
    let _ = stream.shutdown().await;
    Ok(())
}

async fn ask(ground: &Ground, stream: &mut TcpStream, book: &Book, id: u64) -> Result<(), String> {
    let (mut content, mut bytes) = (Vec::with_capacity(REQUEST.most + payload::TAG), Vec::new());
    book.payload(id, &mut content);
    let request = Frame::Request(Request {
        business: ground.place.business,
        message_id: id,
        payload: &content,
        ..Request::default()
    });
    request.encode(&mut bytes);
    write(stream, &bytes).await
}

async fn write(stream: &mut TcpStream, bytes: &[u8]) -> Result<(), String> {
    let written = stream.write_all(bytes).await;
    written.map_err(|error| format!("write {:?}", error.kind()))
}

async fn read(
    ground: &Ground,
    stream: &mut TcpStream,
    book: &mut Book,
    seen: &mut Seen,
) -> Result<(), String> {
    let mut buffer = [0; 4096];
    let ready = stream.readable().await;
    ready.map_err(|error| format!("read {:?}", error.kind()))?;
    match stream.try_read(&mut buffer) {
        Ok(0) => return Err("silent end".to_owned()),
        Ok(count) => book.receive(&buffer[..count], ground.now(), seen),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(format!("read {:?}", error.kind())),
    }
    if let Some(why) = &seen.forged {
        return Err(format!("forged: {why}"));
    }
    if let Some(code) = seen.closed {
        return Err(format!("closed {}", code_name(code)));
    }
    Ok(())
}
