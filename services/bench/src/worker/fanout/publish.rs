//! Handing messages to whoever distributes them.

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc as thread_channel;
use std::thread::JoinHandle;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use imaccess_proto::v1::PushGroupRequest;
use imaccess_proto::v1::push_client::PushClient;
use imaccess_wire::frame::GroupPush;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::NUMBER_BYTES;
use crate::job::{Group, Publisher};

/// Where messages go.
pub(super) enum Publishing {
    /// Through the push API, from a thread of its own.
    Push {
        numbers: mpsc::Sender<u64>,
        fault: thread_channel::Receiver<String>,
        thread: JoinHandle<()>,
    },
    /// To a bare server's control port. Messages gather until the flush.
    Bare {
        stream: TcpStream,
        frame: Vec<u8>,
        number_at: usize,
        gathered: Vec<u8>,
    },
}

impl Publishing {
    pub(super) fn start(publisher: &Publisher, bytes: usize, outstanding: usize) -> anyhow::Result<Self> {
        match publisher {
            Publisher::Push { url, group } => {
                // Never full: no more than `outstanding` messages are under way.
                let (numbers, taken) = mpsc::channel(outstanding);
                let (report, fault) = thread_channel::sync_channel(1);
                let pusher = Pusher {
                    url: url.clone(),
                    group: group.clone(),
                    bytes,
                };
                let thread = std::thread::Builder::new()
                    .name("pusher".to_owned())
                    .spawn(move || {
                        if let Err(error) = pusher.run(taken) {
                            // One fault ends the run; a second has nothing to add.
                            let _ = report.try_send(format!("{error:#}"));
                        }
                    })?;
                Ok(Self::Push {
                    numbers,
                    fault,
                    thread,
                })
            }
            Publisher::Bare { address, frame_bytes } => {
                let stream = TcpStream::connect(address).context("connect to the bare server")?;
                stream.set_nodelay(true)?;
                let frame = frame_of(*frame_bytes, bytes)?;
                Ok(Self::Bare {
                    stream,
                    number_at: frame.len() - bytes,
                    frame,
                    gathered: Vec::new(),
                })
            }
        }
    }

    /// Publishes message `number`.
    pub(super) fn publish(&mut self, number: u64) -> anyhow::Result<()> {
        match self {
            Self::Push { numbers, fault, .. } => numbers.try_send(number).map_err(|_| {
                anyhow!(
                    "the push API: {}",
                    fault.recv().unwrap_or_else(|_| "no answer".to_owned())
                )
            }),
            Self::Bare {
                frame,
                number_at,
                gathered,
                ..
            } => {
                frame[*number_at..*number_at + NUMBER_BYTES].copy_from_slice(&number.to_be_bytes());
                gathered.extend_from_slice(frame);
                Ok(())
            }
        }
    }

    /// Sees that what was published goes.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Push { fault, .. } => match fault.try_recv() {
                Ok(fault) => bail!("the push API: {fault}"),
                Err(_) => Ok(()),
            },
            Self::Bare { stream, gathered, .. } => {
                if !gathered.is_empty() {
                    stream.write_all(gathered).context("write to the bare server")?;
                    gathered.clear();
                }
                Ok(())
            }
        }
    }

    /// Nothing more will be published.
    pub(super) fn end(self) -> anyhow::Result<()> {
        if let Self::Push {
            numbers,
            fault,
            thread,
        } = self
        {
            drop(numbers);
            thread
                .join()
                .map_err(|_| anyhow!("the pushing thread panicked"))?;
            if let Ok(fault) = fault.try_recv() {
                bail!(fault);
            }
        }
        Ok(())
    }
}

/// Pushes to a group, each message as soon as its number comes.
struct Pusher {
    url: String,
    group: Group,
    bytes: usize,
}

impl Pusher {
    fn run(self, numbers: mpsc::Receiver<u64>) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.push_all(numbers))
    }

    async fn push_all(self, mut numbers: mpsc::Receiver<u64>) -> anyhow::Result<()> {
        let client = PushClient::connect(self.url).await.context("connect")?;
        let mut pushes = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(pushed) = pushes.join_next() => pushed??,
                number = numbers.recv() => {
                    let Some(number) = number else { break };
                    let mut payload = vec![0; self.bytes];
                    payload[..NUMBER_BYTES].copy_from_slice(&number.to_be_bytes());
                    let request = PushGroupRequest {
                        business: self.group.business,
                        group: Bytes::copy_from_slice(self.group.id.as_bytes()),
                        payload: payload.into(),
                        ..PushGroupRequest::default()
                    };
                    let mut client = client.clone();
                    pushes.spawn(async move {
                        let answer = client.push_group(request).await.context("push")?.into_inner();
                        if answer.instances == 0 || answer.unsynced > 0 {
                            bail!("{} gateways have members, {} are not in sync", answer.instances, answer.unsynced);
                        }
                        Ok(())
                    });
                }
            }
        }
        while let Some(pushed) = pushes.join_next().await {
            pushed??;
        }
        Ok(())
    }
}

/// A group push of exactly `frame_bytes` whose payload of `bytes` stands at its end.
fn frame_of(frame_bytes: usize, bytes: usize) -> anyhow::Result<Vec<u8>> {
    let payload = vec![0; bytes];
    let mut group = vec![b'g'];
    loop {
        let mut frame = Vec::new();
        GroupPush {
            group: &group,
            payload: &payload,
            ..GroupPush::default()
        }
        .encode(&mut frame);
        if frame.len() == frame_bytes {
            return Ok(frame);
        }
        if frame.len() > frame_bytes || group.len() >= imaccess_wire::limits::MAX_GROUP {
            bail!("no group push of {frame_bytes} bytes carries {bytes} bytes");
        }
        group.push(b'g');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_frame_is_as_long_as_ours_and_ends_with_its_payload() {
        for frame_bytes in 120..160 {
            let frame = frame_of(frame_bytes, 100).unwrap();
            assert_eq!(frame.len(), frame_bytes);
            let split = imaccess_wire::header::split(&frame, imaccess_wire::Limits::default())
                .unwrap()
                .unwrap();
            assert_eq!(GroupPush::decode(split.body()).unwrap().payload.len(), 100);
        }
        assert!(frame_of(100, 100).is_err());
        assert!(frame_of(300, 100).is_err());
    }
}
