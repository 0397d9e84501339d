//! A client made of a plain socket: for what an SDK would never send, and to see each byte that comes back.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use imaccess_wire::frame::{Close, Join, Login, LoginOk, LoginRefused, Reply, Request};
use imaccess_wire::header::{Header, split};
use imaccess_wire::{Code, Frame, FrameType, HEADER_LEN, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// For one answer. Generous, because it decides nothing: it turns a hang into a failure with a name.
pub const ANSWER: Duration = Duration::from_secs(30);

/// The app that clients of scenarios belong to.
pub const APP: &str = "demo";

/// One connection.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    input: Vec<u8>,
    next_message_id: u64,
}

/// A whole frame, header included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedFrame {
    bytes: Vec<u8>,
    header: Header,
}

impl OwnedFrame {
    /// The frame's type, if this build knows it.
    #[must_use]
    pub fn kind(&self) -> Option<FrameType> {
        self.header.kind
    }

    /// The frame's body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.bytes[HEADER_LEN..]
    }

    /// The frame, decoded.
    ///
    /// # Errors
    /// When its body isn't what its type says, or its type is unknown.
    pub fn decoded(&self) -> Result<Frame<'_>> {
        let whole = split(&self.bytes, Limits::default())?.context("a whole frame")?;
        Frame::decode(&whole)?.context("a frame of a known type")
    }
}

/// What a login answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedIn {
    /// The session's id.
    pub session: [u8; 16],
    /// Its epoch.
    pub epoch: u64,
    /// The ticket to resume it with.
    pub ticket: Vec<u8>,
    /// Whether it went on with the ticket's session.
    pub resumed: bool,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With a close frame and this code.
    Close(Option<Code>),
    /// With a refusal of the login and this code.
    Refused(Option<Code>),
    /// With nothing: end of stream.
    Silent,
    /// With a reset, perhaps after bytes that were lost by it.
    Reset,
}

impl Ended {
    /// The code, if one was given.
    #[must_use]
    pub fn code(self) -> Option<Code> {
        match self {
            Self::Close(code) | Self::Refused(code) => code,
            Self::Silent | Self::Reset => None,
        }
    }
}

impl RawClient {
    /// Connects and sends nothing.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(address: &str) -> Result<Self> {
        let stream = timeout(ANSWER, TcpStream::connect(address))
            .await
            .context("connecting takes too long")?;
        let stream = stream.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            input: Vec::new(),
            next_message_id: 1,
        })
    }

    /// Connects with a receive buffer of this size in the kernel, and sends nothing.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect_with_buffer(address: &str, bytes: u32) -> Result<Self> {
        let address: SocketAddr = address
            .parse()
            .with_context(|| format!("{address} is no address"))?;
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        socket.set_recv_buffer_size(bytes)?;
        let stream = timeout(ANSWER, socket.connect(address))
            .await
            .context("connecting takes too long")?;
        let stream = stream.with_context(|| format!("cannot connect to {address}"))?;
        Ok(Self {
            stream,
            input: Vec::new(),
            next_message_id: 1,
        })
    }

    /// The same connection, logged in as a device.
    ///
    /// # Errors
    /// When the login fails.
    pub async fn logged_in(mut self, device: &str, token: &str) -> Result<Self> {
        let login = Login {
            device,
            app: APP,
            token: token.as_bytes(),
            ..Login::default()
        };
        self.login(&login)
            .await
            .with_context(|| format!("login of {device}"))?;
        Ok(self)
    }

    /// Connects and logs in as a device.
    ///
    /// # Errors
    /// When the connection or the login fails.
    pub async fn online(address: &str, device: &str, token: &str) -> Result<(Self, LoggedIn)> {
        let mut client = Self::connect(address).await?;
        let login = Login {
            device,
            app: APP,
            token: token.as_bytes(),
            ..Login::default()
        };
        let ok = client
            .login(&login)
            .await
            .with_context(|| format!("login of {device}"))?;
        Ok((client, ok))
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        timeout(ANSWER, self.stream.write_all(bytes))
            .await
            .context("the peer doesn't read")?
            .context("cannot write")
    }

    /// The next frame; `None` at the end of the stream.
    ///
    /// # Errors
    /// When the peer sends what is no frame, or resets the connection.
    pub async fn frame(&mut self) -> Result<Option<OwnedFrame>> {
        loop {
            if let Some(whole) =
                split(&self.input, Limits::default()).context("the peer sent what is no frame")?
            {
                let (bytes, header) = (whole.frame.to_vec(), whole.header);
                self.input.drain(..bytes.len());
                return Ok(Some(OwnedFrame { bytes, header }));
            }
            if self
                .stream
                .read_buf(&mut self.input)
                .await
                .context("cannot read")?
                == 0
            {
                if !self.input.is_empty() {
                    bail!(
                        "the stream ended within a frame, after {} bytes",
                        self.input.len()
                    );
                }
                return Ok(None);
            }
        }
    }

    /// The next frame, within [`ANSWER`].
    ///
    /// # Errors
    /// Also when the stream ends instead.
    pub async fn answer(&mut self) -> Result<OwnedFrame> {
        let frame = timeout(ANSWER, self.frame())
            .await
            .with_context(|| format!("no answer within {ANSWER:?}"))??;
        frame.context("the connection was closed instead of an answer")
    }

    /// Sends a login and reads its answer.
    ///
    /// # Errors
    /// When it is refused; the message names the code.
    pub async fn login(&mut self, login: &Login<'_>) -> Result<LoggedIn> {
        let mut bytes = Vec::new();
        login.encode(&mut bytes);
        self.send(&bytes).await?;
        let answer = self.answer().await?;
        match answer.decoded()? {
            Frame::LoginOk(LoginOk {
                session,
                epoch,
                ticket,
                resumed,
                ..
            }) => Ok(LoggedIn {
                session,
                epoch,
                ticket: ticket.to_vec(),
                resumed,
            }),
            Frame::LoginRefused(refused) => {
                bail!("refused with {:?} ({})", refused.known_code(), refused.code)
            }
            other => bail!("a login is not answered by {other:?}"),
        }
    }

    /// Sends one request and does not wait for its reply.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn request(&mut self, business: u32, message_id: u64, payload: &[u8]) -> Result<()> {
        let mut bytes = Vec::new();
        Request {
            business,
            message_id,
            payload,
            ..Request::default()
        }
        .encode(&mut bytes);
        self.send(&bytes).await
    }

    /// Sends one request and waits for its reply, passing over pushes.
    ///
    /// # Errors
    /// When the connection ends, or nothing answers in time.
    pub async fn call(&mut self, business: u32, message_id: u64, payload: &[u8]) -> Result<(u16, Vec<u8>)> {
        self.request(business, message_id, payload).await?;
        loop {
            let answer = self.answer().await?;
            match answer.decoded()? {
                Frame::Reply(Reply {
                    message_id: id,
                    code,
                    payload,
                    ..
                }) if id == message_id => {
                    return Ok((code, payload.to_vec()));
                }
                Frame::Close(close) => bail!("closed with {:?} ({})", close.known_code(), close.code),
                _ => {}
            }
        }
    }

    /// Joins a group and waits until that is accepted.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn join(&mut self, business: u32, group: &[u8], message_id: u64) -> Result<()> {
        let mut bytes = Vec::new();
        Join {
            business,
            group,
            message_id,
            ..Join::default()
        }
        .encode(&mut bytes);
        self.send(&bytes).await?;
        loop {
            let answer = self.answer().await?;
            match answer.decoded()? {
                Frame::Accepted(accepted) if accepted.message_id == message_id => {
                    if accepted.code != Code::Ok as u16 {
                        bail!(
                            "join refused with {:?} ({})",
                            accepted.known_code(),
                            accepted.code
                        );
                    }
                    return Ok(());
                }
                Frame::Close(close) => bail!("closed with {:?} ({})", close.known_code(), close.code),
                _ => {}
            }
        }
    }

    /// Reads until the connection ends, and says how.
    ///
    /// # Errors
    /// When it doesn't end within the deadline.
    pub async fn ended(&mut self, deadline: Duration) -> Result<Ended> {
        let reading = async {
            let mut last = Ended::Silent;
            loop {
                match self.frame().await {
                    Ok(Some(frame)) => match frame.decoded() {
                        Ok(Frame::Close(close)) => last = Ended::Close(Close::known_code(&close)),
                        Ok(Frame::LoginRefused(no)) => last = Ended::Refused(LoginRefused::known_code(&no)),
                        _ => {}
                    },
                    Ok(None) => return last,
                    // A peer that closes with our bytes unread resets; a code that came before still counts.
                    Err(_) if last != Ended::Silent => return last,
                    Err(_) => return Ended::Reset,
                }
            }
        };
        timeout(deadline, reading)
            .await
            .with_context(|| format!("the connection wasn't closed within {deadline:?}"))
    }

    /// A message id that this connection hasn't used.
    pub fn next_message_id(&mut self) -> u64 {
        let id = self.next_message_id;
        self.next_message_id += 1;
        id
    }

    /// The socket, for what only it can do.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}
