//! A custodian that the test plays: it holds what it is given and gives it back.
#![expect(
    deprecated,
    reason = "what replaces AsyncFd's constructors is unsafe, for types that can change their descriptor"
)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use imaccess_net::descriptors::{DescriptorListener, DescriptorSocket, MOST_DESCRIPTORS};
use imaccess_proto::v1::{
    Ack, FromCustodian, Held, HeldKind, Return, ReturnDone, ToCustodian, Welcome, from_custodian,
    to_custodian,
};
use prost::Message;
use tokio::io::unix::AsyncFd;

#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) held: BTreeMap<u64, (Held, OwnedFd)>,
    /// Shards that have said that everything is deposited.
    pub(crate) completes: usize,
    pub(crate) released: usize,
}

/// Serves `custody.sock` in a directory until the test's runtime ends.
pub(crate) struct Custodian {
    pub(crate) kept: Arc<Mutex<Kept>>,
    task: tokio::task::JoinHandle<()>,
}

impl Custodian {
    pub(crate) fn start(directory: &Path) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let listener = DescriptorListener::bind(&directory.join("custody.sock")).unwrap();
        let kept = Arc::new(Mutex::new(Kept::default()));
        let shared = Arc::clone(&kept);
        let task = tokio::spawn(async move {
            let listener = AsyncFd::try_new(listener).map_err(|_| "a listener").unwrap();
            loop {
                let mut guard = listener.readable().await.unwrap();
                match guard.try_io(|listener| listener.get_ref().accept()) {
                    Ok(socket) => {
                        tokio::spawn(serve(socket.unwrap(), Arc::clone(&shared)));
                    }
                    Err(_would_block) => {}
                }
            }
        });
        Self { kept, task }
    }

    pub(crate) fn sockets(&self) -> usize {
        let kept = self.kept.lock().unwrap();
        let sockets = kept
            .held
            .values()
            .filter(|(held, _)| held.kind() == HeldKind::Socket);
        sockets.count()
    }

    pub(crate) fn listeners(&self) -> usize {
        let sockets = self.sockets();
        self.kept.lock().unwrap().held.len() - sockets
    }
}

impl Drop for Custodian {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(socket: DescriptorSocket, kept: Arc<Mutex<Kept>>) {
    let socket = AsyncFd::try_new(socket).map_err(|_| "a socket").unwrap();
    let (mut bytes, mut descriptors, mut applied) = (Vec::new(), Vec::new(), 0);
    loop {
        let Some(message) = hear(&socket, &mut bytes, &mut descriptors).await else {
            return;
        };
        match message {
            to_custodian::Message::Hello(_) => {
                say(
                    &socket,
                    from_custodian::Message::Welcome(Welcome { generation: 1 }),
                    &[],
                );
            }
            to_custodian::Message::Deposit(deposit) => {
                assert_eq!(deposit.held.len(), descriptors.len());
                let arrived = deposit.held.into_iter().zip(descriptors.drain(..));
                let mut kept = kept.lock().unwrap();
                kept.held
                    .extend(arrived.map(|(held, descriptor)| (held.id, (held, descriptor))));
                applied += 1;
                say(
                    &socket,
                    from_custodian::Message::Ack(Ack { messages: applied }),
                    &[],
                );
            }
            to_custodian::Message::Release(release) => {
                let mut kept = kept.lock().unwrap();
                for id in &release.id {
                    kept.held.remove(id);
                    kept.released += 1;
                }
                applied += 1;
                say(
                    &socket,
                    from_custodian::Message::Ack(Ack { messages: applied }),
                    &[],
                );
            }
            to_custodian::Message::Complete(_) => kept.lock().unwrap().completes += 1,
            to_custodian::Message::TakeBack(_) => give_back(&socket, &kept).await,
            to_custodian::Message::ReturnAck(_) => panic!("nothing was returned"),
        }
    }
}

async fn give_back(socket: &AsyncFd<DescriptorSocket>, kept: &Mutex<Kept>) {
    let all: Vec<(Held, OwnedFd)> = {
        let kept = kept.lock().unwrap();
        let copies = kept.held.values();
        copies
            .map(|(held, descriptor)| (held.clone(), descriptor.try_clone().unwrap()))
            .collect()
    };
    let count = |kind| all.iter().filter(|(held, _)| held.kind() == kind).count() as u32;
    let done = ReturnDone {
        generation: 1,
        sockets: count(HeldKind::Socket),
        listeners: count(HeldKind::Listener),
    };
    for part in all.chunks(MOST_DESCRIPTORS) {
        let held = part.iter().map(|(held, _)| held.clone()).collect();
        let descriptors: Vec<_> = part.iter().map(|(_, descriptor)| descriptor.as_fd()).collect();
        say(
            socket,
            from_custodian::Message::Return(Return { held }),
            &descriptors,
        );
        let answer = hear(socket, &mut Vec::new(), &mut Vec::new()).await;
        assert!(
            matches!(answer, Some(to_custodian::Message::ReturnAck(_))),
            "{answer:?}"
        );
    }
    say(socket, from_custodian::Message::ReturnDone(done), &[]);
}

fn say(
    socket: &AsyncFd<DescriptorSocket>,
    message: from_custodian::Message,
    descriptors: &[std::os::fd::BorrowedFd<'_>],
) {
    let bytes = FromCustodian {
        message: Some(message),
    }
    .encode_to_vec();
    // A gateway that has ended hears nothing more.
    let _ = socket.get_ref().send(&bytes, descriptors);
}

async fn hear(
    socket: &AsyncFd<DescriptorSocket>,
    bytes: &mut Vec<u8>,
    descriptors: &mut Vec<OwnedFd>,
) -> Option<to_custodian::Message> {
    loop {
        let mut guard = socket.readable().await.unwrap();
        match guard.try_io(|socket| socket.get_ref().receive(bytes, descriptors)) {
            Ok(Ok(1..)) => return Some(ToCustodian::decode(&bytes[..]).unwrap().message.unwrap()),
            Ok(_) => return None,
            Err(_would_block) => {}
        }
    }
}
