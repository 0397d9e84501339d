//! HTTP/1.1 keep-alive load, one request outstanding per connection: for ipconfig.
//!
//! Not a client library: on the same cores as the server, one would cost several times what the server costs.

use std::time::Duration;

use anyhow::{Context, bail};
use imaccess_net::epoll::{Epoll, Interest};
use imaccess_net::socket::{self, ClientSocket};

use super::{BATCH, Clock, GRACE, SCRATCH, Sources, fail};
use crate::job::{Exchanged, Http};
use crate::latency::Latency;

/// An answer's header may be this long; ours are a fifth of it.
const MAX_HEADER: usize = 4_096;

/// One keep-alive connection.
struct Visit {
    socket: Option<ClientSocket>,
    answer: Vec<u8>,
    asked_ns: u64,
}

/// Loads the server for the time that the job says.
pub(super) fn load(job: &Http, sources: &mut Sources) -> anyhow::Result<Exchanged> {
    let mut epoll = Epoll::new(BATCH)?;
    let mut scratch = vec![0; SCRATCH];
    let mut visits = Vec::new();
    for number in 0..job.connections {
        let socket = socket::connect(job.address, sources.next(job.address)).context("connect")?;
        epoll.add(&socket, number, Interest::Stream)?;
        visits.push(Visit {
            socket: Some(socket),
            answer: Vec::new(),
            asked_ns: 0,
        });
    }
    let request = format!("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", job.path, job.address);
    let mut done = Exchanged {
        request_bytes: request.len(),
        ..Exchanged::default()
    };
    let mut latency = Latency::new();
    let clock = Clock::start();
    let end_ns = (job.seconds * 1e9) as u64;
    // The first event of each connection says that it is connected; then it asks.
    let mut asking = vec![false; visits.len()];
    let mut outstanding = 0_u64;
    loop {
        let now = clock.ns();
        if now >= end_ns && (outstanding == 0 || now > end_ns + GRACE.as_nanos() as u64) {
            break;
        }
        let events = epoll.wait(Some(Duration::from_millis(100)))?;
        for index in 0..events {
            let ready = epoll.event(index);
            let number = ready.token as usize;
            let visit = &mut visits[number];
            let now = clock.ns();
            if asking[number] {
                let answers = match visit.receive(&mut scratch) {
                    Ok(answers) => answers,
                    Err(error) => {
                        fail(&mut done.failures, &format!("{error:#}"));
                        outstanding -= u64::from(visit.close());
                        continue;
                    }
                };
                let Some(bytes) = answers else { continue };
                latency.record(now - visit.asked_ns);
                done.answered += 1;
                done.answer_bytes = bytes;
                outstanding -= 1;
            }
            if now < end_ns && visit.ask(request.as_bytes(), now) {
                asking[number] = true;
                done.sent += 1;
                outstanding += 1;
            }
        }
    }
    for visit in &mut visits {
        visit.close();
    }
    done.seconds = clock.seconds();
    done.latency = latency.counts();
    Ok(done)
}

impl Visit {
    /// Sends a request; whether it went.
    fn ask(&mut self, request: &[u8], now_ns: u64) -> bool {
        let Some(socket) = &self.socket else { return false };
        self.asked_ns = now_ns;
        // A hundred bytes into an empty socket: they go whole or not at all.
        socket
            .write(request)
            .is_ok_and(|written| written == request.len())
    }

    /// Reads what there is; the length of an answer that is now whole.
    fn receive(&mut self, scratch: &mut [u8]) -> anyhow::Result<Option<usize>> {
        let Some(socket) = &self.socket else {
            return Ok(None);
        };
        match socket.read(scratch) {
            Ok(0) => bail!("closed"),
            Ok(len) => self.answer.extend_from_slice(&scratch[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
            Err(_) => bail!("connection_lost"),
        }
        let Some(len) = answer_length(&self.answer)? else {
            return Ok(None);
        };
        if self.answer.len() < len {
            return Ok(None);
        }
        self.answer.clear();
        Ok(Some(len))
    }

    /// Ends it; whether it was open.
    fn close(&mut self) -> bool {
        let Some(socket) = self.socket.take() else {
            return false;
        };
        socket.close();
        true
    }
}

/// The length of the answer that `bytes` begin with, header and body; `None` while the header isn't whole.
fn answer_length(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(header) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else {
        if bytes.len() > MAX_HEADER {
            bail!("endless_header");
        }
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..header]).context("not_http")?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .context("not_http")?;
    if status != "200" {
        bail!("status_{status}");
    }
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .context("no_content_length")?;
    Ok(Some(
        header + 4 + length.1.trim().parse::<usize>().context("no_content_length")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_as_long_as_it_says() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        assert_eq!(answer_length(answer).unwrap(), Some(answer.len()));
        assert_eq!(answer_length(&answer[..20]).unwrap(), None);
        assert!(answer_length(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(answer_length(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(answer_length(&[b'x'; MAX_HEADER + 1]).is_err());
    }
}
