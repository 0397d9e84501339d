//! A client without SDK at its gateway's end: it sees GO_AWAY as it comes, follows it by the protocol or stays, and sees how the
//! stream ends.

use std::time::Duration;

use anyhow::{Context, Result};
use imaccess_wire::Frame;
use imaccess_wire::frame::{Close, Login};
use imaccess_wire::{Code, HEADER_LEN};
use tokio::time::{Instant, sleep, timeout};

use crate::raw_client::{APP, Ended, LoggedIn, RawClient};

/// What a client does when it is told to go.
#[derive(Clone, Debug)]
pub enum Manner {
    /// Logs in with its ticket at this address, then leaves with `moved`.
    Follows(String),
    /// Stays as if it didn't know the frame.
    Stays,
}

/// What it saw.
#[derive(Clone, Debug)]
pub struct Farewell {
    /// When GO_AWAY came, if it did.
    pub told: Option<Instant>,
    /// The code in it.
    pub code: Option<Code>,
    /// Until when the gateway would close, as GO_AWAY said.
    pub patience: Duration,
    /// Whether the session went on elsewhere; only for those that follow.
    pub resumed: Option<bool>,
    /// How the stream ended.
    pub ended: Ended,
    /// When it did.
    pub ended_at: Instant,
}

/// A client that waits to be told.
#[derive(Debug)]
pub struct Guest {
    client: RawClient,
    device: String,
    login: LoggedIn,
}

impl Guest {
    /// Logs in at a gateway.
    ///
    /// # Errors
    /// When that fails.
    pub async fn arrive(address: &str, device: &str, token: &str) -> Result<Self> {
        let (client, login) = RawClient::online(address, device, token).await?;
        Ok(Self {
            client,
            device: device.to_owned(),
            login,
        })
    }

    /// Reads until the stream ends, and does as is its manner when it is told to go.
    ///
    /// # Errors
    /// When the stream doesn't end within the deadline, or the other gateway doesn't take a client that follows.
    pub async fn stay(mut self, manner: Manner, deadline: Duration) -> Result<Farewell> {
        let seeing = self.see(&manner);
        timeout(deadline, seeing)
            .await
            .with_context(|| format!("the connection wasn't closed within {deadline:?}"))?
    }

    async fn see(&mut self, manner: &Manner) -> Result<Farewell> {
        let mut seen = Farewell {
            told: None,
            code: None,
            patience: Duration::ZERO,
            resumed: None,
            ended: Ended::Silent,
            ended_at: Instant::now(),
        };
        // Open until the old stream has ended: closing it is what a client does last.
        let mut elsewhere = None;
        loop {
            let frame = match self.client.frame().await {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                // A gateway that closes with our bytes unread resets; a code that came before still counts.
                Err(_) if seen.ended != Ended::Silent => break,
                Err(_) => {
                    seen.ended = Ended::Reset;
                    break;
                }
            };
            match frame.decoded() {
                Ok(Frame::Close(close)) => seen.ended = Ended::Close(Close::known_code(&close)),
                Ok(Frame::GoAway(away)) => {
                    seen.told = Some(Instant::now());
                    seen.code = Code::from_u16(away.code);
                    seen.patience = Duration::from_millis(u64::from(away.deadline_ms));
                    if !away.ticket.is_empty() {
                        self.login.ticket = away.ticket.to_vec();
                    }
                    if let Manner::Follows(address) = manner {
                        sleep(Duration::from_millis(u64::from(away.delay_ms))).await;
                        let (client, login) = self.follow(address).await?;
                        seen.resumed = Some(login.resumed && login.session == self.login.session);
                        elsewhere = Some(client);
                        self.say(Code::Moved).await?;
                    }
                }
                _ => {}
            }
        }
        seen.ended_at = Instant::now();
        drop(elsewhere);
        Ok(seen)
    }

    async fn follow(&self, address: &str) -> Result<(RawClient, LoggedIn)> {
        let mut client = RawClient::connect(address).await?;
        let login = Login {
            device: &self.device,
            app: APP,
            ticket: &self.login.ticket,
            ..Login::default()
        };
        let login = client
            .login(&login)
            .await
            .with_context(|| format!("{} goes on at {address}", self.device))?;
        Ok((client, login))
    }

    async fn say(&mut self, code: Code) -> Result<()> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + 2);
        Close {
            code: code as u16,
            ..Close::default()
        }
        .encode(&mut bytes);
        self.client.send(&bytes).await
    }
}
