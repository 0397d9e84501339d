//! Clients that take whatever comes and throw it away: a gateway's outbound load.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;

use crate::raw_client::{APP, RawClient};
use crate::tokens::Tokens;

/// Connects that are under way at the same time.
const DOORS: usize = 32;
/// One read: of the order of what a socket holds.
const READ: usize = 64 << 10;

/// Connections to one gateway. They end when this is dropped.
pub struct Sinks {
    taken: Arc<Taken>,
    clients: usize,
    _readers: JoinSet<()>,
}

#[derive(Default)]
struct Taken {
    bytes: AtomicU64,
    ended: AtomicUsize,
}

impl Sinks {
    /// Connects so many clients to a gateway; they join the group of a business, if one is given.
    ///
    /// # Errors
    /// When one of them can't.
    pub async fn connect(
        gateway: &str,
        tokens: &Tokens,
        prefix: &str,
        clients: usize,
        group: Option<(u32, &str)>,
    ) -> Result<Self> {
        let (taken, mut readers, mut doors) = (Arc::new(Taken::default()), JoinSet::new(), JoinSet::new());
        for number in 0..clients {
            if doors.len() >= DOORS {
                read(&mut doors, &mut readers, &taken).await?;
            }
            let (gateway, tokens) = (gateway.to_owned(), tokens.clone());
            let device = format!("{prefix}-{number}");
            let group = group.map(|(business, group)| (business, group.to_owned()));
            doors.spawn(async move {
                let token = tokens.get(&device).await?;
                let mut client = RawClient::online(&gateway, &device, &token).await?.0;
                if let Some((business, group)) = group {
                    let id = client.next_message_id();
                    client.join(business, group.as_bytes(), id).await?;
                }
                anyhow::Ok(client)
            });
        }
        while !doors.is_empty() {
            read(&mut doors, &mut readers, &taken).await?;
        }
        Ok(Self {
            taken,
            clients,
            _readers: readers,
        })
    }

    /// Bytes that came so far, to all of them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.taken.bytes.load(Ordering::Relaxed)
    }

    /// Checks that all connections are still there.
    ///
    /// # Errors
    /// When one has ended.
    pub fn whole(&self) -> Result<()> {
        match self.taken.ended.load(Ordering::Relaxed) {
            0 => Ok(()),
            ended => bail!("{ended} of {} connections of {APP} have ended", self.clients),
        }
    }
}

async fn read(
    doors: &mut JoinSet<Result<RawClient>>,
    readers: &mut JoinSet<()>,
    taken: &Arc<Taken>,
) -> Result<()> {
    let client = doors.join_next().await.context("a door is open")???;
    let taken = Arc::clone(taken);
    readers.spawn(async move {
        let mut buffer = vec![0; READ];
        loop {
            if client.stream().readable().await.is_err() {
                break;
            }
            match client.stream().try_read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    taken.bytes.fetch_add(read as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        taken.ended.fetch_add(1, Ordering::Relaxed);
    });
    Ok(())
}

/// Bytes per second, in MB.
#[must_use]
pub fn megabytes_per_second(bytes: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "bytes of a test are far below 2^53")]
    let bytes = bytes as f64;
    bytes / 1e6 / time.as_secs_f64()
}
