//! Giving everything back to a starting gateway. Nothing is let go of by it.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use imaccess_net::descriptors::MOST_DESCRIPTORS;
use imaccess_proto::v1::from_custodian::Message as Answer;
use imaccess_proto::v1::to_custodian::Message;
use imaccess_proto::v1::{HeldKind, Return, ReturnDone};

use super::connection::{Fault, Peer, encoded, receive, send, unless_gone};
use super::serve::Custodian;

/// Wait when too many descriptors of this user are between processes, for others to take theirs.
const CROWDED: Duration = Duration::from_millis(10);

/// Packets on their way at most: 2,024 descriptors, a tenth of the 20,000 that a user may have in flight where its limit is lowest.
/// With one at a time each costs a switch between two processes, which on a busy machine took most of the time.
const AHEAD: u32 = 8;

/// Sends everything that is held, a few packets ahead of the gateway's acknowledgements, and waits for it to go.
pub(super) async fn give_back(
    custodian: &Custodian,
    peer: &Peer,
    incarnation: u32,
    generation: u32,
) -> Result<(), Fault> {
    let began = Instant::now();
    let ids = custodian.store.borrow().ids();
    tracing::info!(incarnation, held = ids.len(), "a gateway takes back what is held");
    let (mut sockets, mut listeners, mut ahead) = (0, 0, 0);
    for ids in ids.chunks(MOST_DESCRIPTORS) {
        let given = give(custodian, peer, ids).await?;
        if given == (0, 0) {
            // Swept since.
            continue;
        }
        sockets += given.0;
        listeners += given.1;
        ahead += 1;
        if ahead == AHEAD {
            if !acknowledged(custodian, peer).await? {
                return Ok(());
            }
            ahead -= 1;
        }
    }
    for _ in 0..ahead {
        if !acknowledged(custodian, peer).await? {
            return Ok(());
        }
    }
    let done = ReturnDone {
        generation,
        sockets,
        listeners,
    };
    send(peer, Answer::ReturnDone(done)).await?;
    let milliseconds = began.elapsed().as_millis();
    tracing::info!(
        incarnation,
        sockets,
        listeners,
        milliseconds,
        "the gateway has everything back"
    );
    match receive(custodian, peer).await? {
        None => Ok(()),
        Some(_) => Err(Fault::Protocol("more after everything was given back")),
    }
}

/// Waits for the acknowledgement of one packet; whether the gateway is still there.
async fn acknowledged(custodian: &Custodian, peer: &Peer) -> Result<bool, Fault> {
    match receive(custodian, peer).await? {
        Some(Message::ReturnAck(_)) => Ok(true),
        Some(_) => Err(Fault::Protocol("something else before it acknowledged a return")),
        None => {
            tracing::warn!("a gateway went while it took back what is held");
            Ok(false)
        }
    }
}

/// Sends those of these that are still held; how many sockets and listeners that were.
async fn give(custodian: &Custodian, peer: &Peer, ids: &[u64]) -> Result<(u32, u32), Fault> {
    loop {
        let mut ready = peer.socket.writable().await?;
        let attempt = ready.try_io(|socket| {
            let store = custodian.store.borrow();
            let (held, descriptors): (Vec<_>, Vec<BorrowedFd<'_>>) = ids
                .iter()
                .filter_map(|id| store.get(*id))
                .map(|(held, descriptor)| (held, descriptor.as_fd()))
                .unzip();
            let listeners = held.iter().filter(|held| held.kind() == HeldKind::Listener);
            let listeners = listeners.count() as u32;
            let sockets = held.len() as u32 - listeners;
            if !held.is_empty() {
                let packet = encoded(Answer::Return(Return { held }));
                unless_gone(socket.get_ref().send(&packet, &descriptors))?;
            }
            Ok((sockets, listeners))
        });
        match attempt {
            Ok(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::TOOMANYREFS.raw_os_error()) => {
                tokio::time::sleep(CROWDED).await;
            }
            Ok(given) => return Ok(given?),
            Err(_full) => {}
        }
    }
}
