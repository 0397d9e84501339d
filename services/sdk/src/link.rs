//! One connection: a socket and the session that speaks on it.
//!
//! Nothing here decides. Every `await` waits for the socket or a timer only, so each future may be dropped at any time
//! without losing a byte.

use std::io;
use std::time::Duration;

use imaccess_wire::client::{ClientEvent, ClientSession, LoginParameters, SubmitError};
use imaccess_wire::frame::{Request, Send};
use imaccess_wire::header::{self, HEADER_LEN};
use imaccess_wire::{Code, Limits};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::endpoints::Endpoint;
use crate::incoming::{Incoming, Over, copied};
use crate::pending::{Ask, Entry};

/// Bytes read at once: most frames are far smaller, the biggest takes four reads.
const READ: usize = 16 * 1024;
/// Above this many unwritten bytes nothing more is submitted: four of the biggest frames.
const MAX_OUT: usize = 256 * 1024;
/// Data that the peer's kernel hasn't acknowledged for this long means a dead connection.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the last bytes of a connection may take to be written.
const FLUSH: Duration = Duration::from_secs(1);

/// Milliseconds since the client began, which is what sessions count in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    fn now_ms(self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn at(self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    pub(crate) session: ClientSession,
    /// Where it leads.
    pub(crate) endpoint: Endpoint,
    clock: Clock,
    out: Vec<u8>,
    input: Box<[u8]>,
}

impl Link {
    /// Opens a connection.
    pub(crate) async fn connect(endpoint: &Endpoint, clock: Clock) -> io::Result<Unstarted> {
        let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        stream.set_nodelay(true)?;
        // A kernel without this option is no reason not to connect: pings find out as well, only later.
        if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(USER_TIMEOUT)) {
            tracing::debug!(%error, "TCP_USER_TIMEOUT can't be set");
        }
        let endpoint = endpoint.clone();
        Ok(Unstarted {
            stream,
            endpoint,
            clock,
        })
    }

    /// Sends the login and reads exactly its answer, so that whatever follows is handled by whoever owns the link then.
    pub(crate) async fn login(&mut self, parameters: &LoginParameters<'_>) -> Result<Incoming, Over> {
        self.session
            .start(self.clock.now_ms(), parameters, &mut self.out)
            .map_err(|error| error.code())?;
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        let mut frame = vec![0; HEADER_LEN];
        self.stream.read_exact(&mut frame).await?;
        // Bytes that aren't a header are shown to the session, which says what is wrong with them.
        if let Ok(Some(header)) = header::peek(&frame, Limits::default()) {
            frame.resize(header.frame_len(), 0);
            self.stream.read_exact(&mut frame[HEADER_LEN..]).await?;
        }
        let mut incoming = Vec::new();
        self.handle(&frame, &mut incoming)?;
        // An ignorable frame would be a strange first answer: as good as none.
        incoming.pop().ok_or_else(|| Code::Unexpected.into())
    }

    /// Waits for the socket or the session's next deadline, and does what is due then. Without `reading` the socket
    /// isn't read and its silence means nothing.
    pub(crate) async fn turn(&mut self, reading: bool, incoming: &mut Vec<Incoming>) -> Result<(), Over> {
        let deadline = self.session.next_deadline().filter(|_| reading);
        let interest = match (reading, self.out.is_empty()) {
            (true, true) => Some(Interest::READABLE),
            (true, false) => Some(Interest::READABLE | Interest::WRITABLE),
            (false, false) => Some(Interest::WRITABLE),
            (false, true) => None,
        };
        tokio::select! {
            biased;
            // Before the timer: what has arrived must be seen before anything is called silent.
            ready = when_ready(&self.stream, interest) => {
                let ready = ready?;
                if ready.is_writable() {
                    self.write()?;
                }
                if reading && ready.is_readable() {
                    self.read(incoming)?;
                }
            }
            () = when(deadline.map(|ms| self.clock.at(ms))) => {}
        }
        let now = self.clock.now_ms();
        if reading && self.session.next_deadline().is_some_and(|due| due <= now) {
            let event = &mut |event: ClientEvent<'_>| incoming.extend(copied(event));
            self.session.handle_timeout(now, &mut self.out, event);
            self.write()?;
        }
        Ok(())
    }

    /// Takes in what has arrived, without waiting.
    pub(crate) fn read_rest(&mut self, incoming: &mut Vec<Incoming>) {
        while let Ok(count) = self.stream.try_read(&mut self.input) {
            if count == 0 || self.take_in(count, incoming).is_err() {
                return;
            }
        }
    }

    /// Whether more may be submitted.
    pub(crate) fn has_room(&self) -> bool {
        self.out.len() < MAX_OUT
    }

    /// Appends what was asked; returns its message id. [`flush`](Self::flush) afterwards.
    pub(crate) fn submit(&mut self, entry: &Entry, now: Instant) -> Result<u64, SubmitError> {
        let (message_id, out) = (entry.message_id, &mut self.out);
        let left = entry.deadline.saturating_duration_since(now).as_millis();
        let deadline_ms = u32::try_from(left).unwrap_or(u32::MAX).max(1);
        match &entry.ask {
            Ask::Request {
                business,
                payload,
                metadata,
                trace,
            } => {
                let (business, metadata, payload) = (*business, metadata.as_ref(), payload.as_ref());
                let request = Request {
                    business,
                    message_id,
                    deadline_ms,
                    trace,
                    metadata,
                    payload,
                    ..Request::default()
                };
                self.session.request(request, out)
            }
            Ask::Send {
                business,
                payload,
                metadata,
                trace,
            } => {
                let (business, metadata, payload) = (*business, metadata.as_ref(), payload.as_ref());
                let send = Send {
                    business,
                    message_id,
                    deadline_ms,
                    trace,
                    metadata,
                    payload,
                    ..Send::default()
                };
                self.session.send(send, out)
            }
            Ask::Join(name) => self.session.join(name.business, &name.group, out),
            Ask::Leave(name) => self.session.leave(name.business, &name.group, out),
        }
    }

    /// The application has handled the numbered pushes up to here.
    pub(crate) fn push_ack(&mut self, sequence: u64) {
        self.session.push_ack(sequence, &mut self.out);
    }

    /// Writes what the kernel takes now; the rest waits for [`turn`](Self::turn).
    pub(crate) fn flush(&mut self) -> Result<(), Over> {
        Ok(self.write()?)
    }

    /// Says goodbye and ends the connection, within a second. Gives the session back.
    pub(crate) async fn close(mut self, code: Code) -> ClientSession {
        self.session.close(code, &mut self.out);
        let farewell = async {
            self.stream.write_all(&self.out).await?;
            self.stream.shutdown().await
        };
        // Going anyway: what can't be written is not worth more than a second.
        let _ = tokio::time::timeout(FLUSH, farewell).await;
        self.session
    }

    /// The connection is gone. Gives the session back.
    pub(crate) fn lost(mut self) -> ClientSession {
        self.session.connection_lost(self.clock.now_ms());
        self.session
    }

    fn read(&mut self, incoming: &mut Vec<Incoming>) -> Result<(), Over> {
        match self.stream.try_read(&mut self.input) {
            Ok(0) => Err(Code::ConnectionLost.into()),
            Ok(count) => self.take_in(count, incoming),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn take_in(&mut self, count: usize, incoming: &mut Vec<Incoming>) -> Result<(), Over> {
        let input = std::mem::take(&mut self.input);
        let result = self.handle(&input[..count], incoming);
        self.input = input;
        result
    }

    fn handle(&mut self, bytes: &[u8], incoming: &mut Vec<Incoming>) -> Result<(), Over> {
        let event = &mut |event: ClientEvent<'_>| incoming.extend(copied(event));
        let result = self
            .session
            .handle_bytes(self.clock.now_ms(), bytes, &mut self.out, event);
        // A close with the error's code, or a repeated acknowledgement.
        self.write()?;
        result.map_err(|error| {
            tracing::debug!(%error, "the gateway broke the protocol");
            error.code().into()
        })
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.try_write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A socket without a session yet.
#[derive(Debug)]
pub(crate) struct Unstarted {
    stream: TcpStream,
    endpoint: Endpoint,
    clock: Clock,
}

impl Unstarted {
    pub(crate) fn with(self, session: ClientSession) -> Link {
        let input = vec![0; READ].into_boxed_slice();
        Link {
            stream: self.stream,
            session,
            endpoint: self.endpoint,
            clock: self.clock,
            out: Vec::new(),
            input,
        }
    }
}

/// Waits for a moment, or for ever.
pub(crate) async fn when(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn when_ready(stream: &TcpStream, interest: Option<Interest>) -> io::Result<tokio::io::Ready> {
    match interest {
        Some(interest) => stream.ready(interest).await,
        None => std::future::pending().await,
    }
}
