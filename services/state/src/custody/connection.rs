//! One connection of a gateway: what it says first, then either a shard's deposits and releases, or giving everything back.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use imaccess_common::generation::{self, Span};
use imaccess_net::descriptors::DescriptorSocket;
use imaccess_proto::v1::from_custodian::Message as Answer;
use imaccess_proto::v1::to_custodian::Message;
use imaccess_proto::v1::{Ack, Deposit, FromCustodian, Refused, ToCustodian, Welcome};
use prost::Message as _;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use super::giving::give_back;
use super::newcomer::{Newcomer, Role};
use super::serve::{Custodian, shut};
use super::store;

/// The first message must come within this; a gateway sends it at once.
const FIRST: Duration = Duration::from_secs(5);
/// How long a refused gateway has to read why, and to close.
const FAREWELL: Duration = Duration::from_secs(5);
/// Messages taken per turn, so that connections take turns: at most 16,000 descriptors, some 20 ms.
const MESSAGES_PER_TURN: usize = 64;
/// How long a shard isn't heard after descriptors couldn't be received. It will dial again and deposit all that it has, which
/// would keep both processes busy if it could do so at once.
const BREATH: Duration = if cfg!(test) {
    Duration::from_millis(50)
} else {
    Duration::from_secs(10)
};
/// Messages read from a connection that is ended: more than its buffers hold. (One that lives could go on for ever.)
const LAST_MESSAGES: usize = 4_096;

/// The other end of a connection.
pub(super) struct Peer {
    pub(super) socket: AsyncFd<DescriptorSocket>,
    /// Its number in the store; 0: not let in.
    number: Cell<u32>,
    /// Deposits and releases applied, and as many as the last `Ack` said.
    applied: Cell<u64>,
    acknowledged: Cell<u64>,
    /// A later incarnation has come.
    ended: CancellationToken,
}

impl Peer {
    pub(super) fn new(socket: AsyncFd<DescriptorSocket>) -> Self {
        Self {
            socket,
            number: Cell::new(0),
            applied: Cell::new(0),
            acknowledged: Cell::new(0),
            ended: CancellationToken::new(),
        }
    }
}

/// Why a connection ends that should not.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("a message can't be read: {0}")]
    Garbled(#[from] prost::DecodeError),
    #[error("it sent {0}")]
    Protocol(&'static str),
    /// The packet is lost: what came of it is closed.
    #[error(
        "{0}. This process needs as many open descriptors as the gateway has connections, and a few more: raise its limit"
    )]
    Full(io::Error),
}

impl Fault {
    /// Its label in metrics.
    fn label(&self) -> &'static str {
        match self {
            Fault::Full(_) => "descriptors",
            _ => "protocol",
        }
    }
}

/// What a turn found.
enum Turn {
    /// Nothing more is there now.
    Dry,
    /// There may be more.
    More,
    /// The peer is gone.
    Gone,
}

/// Serves a connection to its end.
pub(super) async fn serve(custodian: &Custodian, peer: Rc<Peer>) {
    let served = speak(custodian, &peer).await;
    if let Err(fault) = served {
        custodian
            .metrics
            .refused
            .with_label_values(&[fault.label()])
            .inc();
        tracing::warn!(%fault, "a gateway's connection to the custodian was ended");
    }
    let number = peer.number.get();
    custodian.peers.borrow_mut().remove(&number);
    let now = custodian.clock.now();
    if custodian.store.borrow_mut().leave(number, now) {
        tracing::info!("no gateway is connected to the custodian any more");
    }
    custodian.note();
}

async fn speak(custodian: &Custodian, peer: &Rc<Peer>) -> Result<(), Fault> {
    let Ok(first) = tokio::time::timeout(FIRST, receive(custodian, peer)).await else {
        return Err(Fault::Protocol("nothing"));
    };
    let Some(first) = first? else { return Ok(()) };
    match first {
        Message::Hello(hello) => {
            let newcomer = Newcomer {
                speaks: Span::new(hello.oldest_generation, hello.newest_generation),
                instance: &hello.instance,
                incarnation: hello.incarnation,
                role: Role::Shard {
                    shard: hello.shard,
                    shards: hello.shards,
                },
            };
            let Some(generation) = admit(custodian, peer, &newcomer).await? else {
                return Ok(());
            };
            tracing::info!(
                incarnation = hello.incarnation,
                shard = hello.shard,
                shards = hello.shards,
                held = custodian.store.borrow().sockets(),
                "a gateway's shard is in custody"
            );
            send(peer, Answer::Welcome(Welcome { generation })).await?;
            tokio::select! {
                biased;
                () = peer.ended.cancelled() => Ok(()),
                served = shard(custodian, peer) => served,
            }
        }
        Message::TakeBack(asked) => {
            let newcomer = Newcomer {
                speaks: Span::new(asked.oldest_generation, asked.newest_generation),
                instance: &asked.instance,
                incarnation: asked.incarnation,
                role: Role::Taker,
            };
            let Some(generation) = admit(custodian, peer, &newcomer).await? else {
                return Ok(());
            };
            tokio::select! {
                biased;
                () = peer.ended.cancelled() => Ok(()),
                given = give_back(custodian, peer, asked.incarnation, generation) => given,
            }
        }
        _ => Err(Fault::Protocol("neither a hello nor a take-back first")),
    }
}

/// Lets a gateway in, and says by which generation; `None`: it is refused, and told why.
async fn admit(
    custodian: &Custodian,
    peer: &Rc<Peer>,
    newcomer: &Newcomer<'_>,
) -> Result<Option<u32>, Fault> {
    let checked = custodian
        .store
        .borrow()
        .check(newcomer, generation::spoken().custody);
    let generation = match checked {
        Ok(generation) => generation,
        Err(refusal) => {
            custodian
                .metrics
                .refused
                .with_label_values(&[refusal.label()])
                .inc();
            tracing::warn!(%refusal, "a gateway is refused custody");
            let reason = refusal.to_string();
            send(peer, Answer::Refused(Refused { reason })).await?;
            // The other side sees the end at once. Closing with something unread would look like a failure to it.
            let _ = rustix::net::shutdown(peer.socket.get_ref(), rustix::net::Shutdown::Write);
            let _ = tokio::time::timeout(FAREWELL, async {
                while let Ok(Some(_)) = receive(custodian, peer).await {}
            })
            .await;
            return Ok(None);
        }
    };
    let ended = custodian.store.borrow().ended_by(newcomer);
    for number in ended {
        let Some(other) = custodian.peers.borrow_mut().remove(&number) else {
            continue;
        };
        // Its process may have been killed a moment ago, and what it sent last isn't read yet. No matter how that ends.
        let _ = take(custodian, &other, LAST_MESSAGES);
        other.ended.cancel();
    }
    let (number, strangers) = custodian.store.borrow_mut().admit(newcomer);
    if !strangers.is_empty() {
        tracing::warn!(
            held = strangers.len(),
            instance = newcomer.instance,
            "another instance of the gateway has come: what was held for the one before is closed"
        );
        custodian.metrics.orphans.inc_by(strangers.len() as u64);
        strangers.into_iter().for_each(shut);
    }
    peer.number.set(number);
    custodian.peers.borrow_mut().insert(number, Rc::clone(peer));
    custodian.note();
    Ok(Some(generation))
}

/// A shard's connection, to its end.
async fn shard(custodian: &Custodian, peer: &Peer) -> Result<(), Fault> {
    loop {
        let owed = peer.applied.get() != peer.acknowledged.get();
        tokio::select! {
            biased;
            ready = peer.socket.writable(), if owed => {
                // Refused: the readiness was an old one, and is cleared.
                if let Ok(sent) = ready?.try_io(|socket| acknowledge(peer, socket.get_ref())) {
                    sent?;
                }
            }
            ready = peer.socket.readable() => {
                let mut ready = ready?;
                match take(custodian, peer, MESSAGES_PER_TURN) {
                    Ok(Turn::Gone) => return Ok(()),
                    Ok(Turn::Dry) => ready.clear_ready(),
                    Ok(Turn::More) => tokio::task::yield_now().await,
                    Err(fault) => {
                        if matches!(fault, Fault::Full(_)) {
                            tokio::time::sleep(BREATH).await;
                        }
                        return Err(fault);
                    }
                }
            }
        }
    }
}

/// Reads and applies what is there.
fn take(custodian: &Custodian, peer: &Peer, most: usize) -> Result<Turn, Fault> {
    let mut turn = Turn::More;
    for _ in 0..most {
        let scratch = &mut *custodian.scratch.borrow_mut();
        match peer
            .socket
            .get_ref()
            .receive(&mut scratch.bytes, &mut scratch.descriptors)
        {
            Ok(0) => {
                turn = Turn::Gone;
                break;
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                turn = Turn::Dry;
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(Fault::Full(error)),
            Err(error) => return Err(error.into()),
        }
        let message = ToCustodian::decode(scratch.bytes.as_slice())?.message;
        if !matches!(message, Some(Message::Deposit(_))) && !scratch.descriptors.is_empty() {
            return Err(Fault::Protocol("descriptors with what is no deposit"));
        }
        match message {
            Some(Message::Deposit(deposit)) => {
                deposited(custodian, peer, deposit, &mut scratch.descriptors)?;
            }
            Some(Message::Release(release)) => {
                let mut store = custodian.store.borrow_mut();
                if store.is_current(peer.number.get()) {
                    let released = release.id.iter().filter_map(|id| store.release(*id));
                    custodian.metrics.released.inc_by(released.count() as u64);
                }
                peer.applied.set(peer.applied.get() + 1);
            }
            Some(Message::Complete(_)) => complete(custodian, peer),
            _ => return Err(Fault::Protocol("what doesn't belong on a shard's connection")),
        }
        custodian.store.borrow_mut().heard();
    }
    custodian.note();
    Ok(turn)
}

/// Keeps what came with a deposit: all of it, or nothing.
fn deposited(
    custodian: &Custodian,
    peer: &Peer,
    deposit: Deposit,
    descriptors: &mut Vec<OwnedFd>,
) -> Result<(), Fault> {
    if deposit.held.len() != descriptors.len() {
        return Err(Fault::Protocol("a deposit without a descriptor for each record"));
    }
    for held in &deposit.held {
        store::validate(held).map_err(Fault::Protocol)?;
    }
    let mut store = custodian.store.borrow_mut();
    for (held, descriptor) in deposit.held.into_iter().zip(descriptors.drain(..)) {
        drop(store.deposit(peer.number.get(), held, descriptor));
    }
    peer.applied.set(peer.applied.get() + 1);
    Ok(())
}

fn complete(custodian: &Custodian, peer: &Peer) {
    let mut store = custodian.store.borrow_mut();
    let orphans = store.complete(peer.number.get());
    if store.is_complete() {
        let (sockets, listeners) = (store.sockets(), store.listeners());
        tracing::info!(sockets, listeners, "custody is complete");
    }
    drop(store);
    if !orphans.is_empty() {
        tracing::warn!(
            orphans = orphans.len(),
            "the gateway has no use for some of what was held: closed"
        );
        custodian.metrics.orphans.inc_by(orphans.len() as u64);
        orphans.into_iter().for_each(shut);
    }
}

fn acknowledge(peer: &Peer, socket: &DescriptorSocket) -> io::Result<()> {
    let messages = peer.applied.get();
    unless_gone(socket.send(&encoded(Answer::Ack(Ack { messages })), &[]))?;
    peer.acknowledged.set(messages);
    Ok(())
}

/// A peer that is gone is no failure to send: what it sent before it was killed is still to be read, and then comes the end.
pub(super) fn unless_gone(sent: io::Result<()>) -> io::Result<()> {
    match sent {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) =>
        {
            Ok(())
        }
        sent => sent,
    }
}

/// The next message, on a connection on which no descriptors come; `None`: the peer is gone.
pub(super) async fn receive(custodian: &Custodian, peer: &Peer) -> Result<Option<Message>, Fault> {
    loop {
        let mut ready = peer.socket.readable().await?;
        let scratch = &mut *custodian.scratch.borrow_mut();
        let received = ready.try_io(|socket| {
            socket
                .get_ref()
                .receive(&mut scratch.bytes, &mut scratch.descriptors)
        });
        let Ok(received) = received else { continue };
        if received? == 0 {
            return Ok(None);
        }
        if !scratch.descriptors.is_empty() {
            scratch.descriptors.clear();
            return Err(Fault::Protocol("descriptors with what is no deposit"));
        }
        let message = ToCustodian::decode(scratch.bytes.as_slice())?.message;
        return message.map(Some).ok_or(Fault::Protocol("an unknown message"));
    }
}

/// Sends a message without descriptors.
pub(super) async fn send(peer: &Peer, message: Answer) -> Result<(), Fault> {
    let packet = encoded(message);
    loop {
        let mut ready = peer.socket.writable().await?;
        if let Ok(sent) = ready.try_io(|socket| unless_gone(socket.get_ref().send(&packet, &[]))) {
            return Ok(sent?);
        }
    }
}

pub(super) fn encoded(message: Answer) -> Vec<u8> {
    FromCustodian {
        message: Some(message),
    }
    .encode_to_vec()
}
