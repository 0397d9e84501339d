//! The custodian's neighbours, played by the test.

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use imaccess_net::descriptors::{DescriptorSocket, MOST_DESCRIPTORS};
use imaccess_proto::v1::from_custodian::Message as Answer;
use imaccess_proto::v1::to_custodian::Message;
use imaccess_proto::v1::{
    CustodyHello, Deposit, FromCustodian, Held, HeldKind, Release, ReturnAck, TakeBack, ToCustodian,
    Transport,
};
use prometheus::Registry;
use prost::Message as _;
use rustix::event::{PollFd, PollFlags, Timespec};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::custody::{Custody, CustodyEvent, CustodyTimes, EVENTS};

pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Longer than any test.
pub(super) fn long() -> CustodyTimes {
    CustodyTimes {
        listeners: Duration::from_secs(600),
        sockets: Duration::from_secs(700),
        sweep: Duration::from_secs(600),
    }
}

/// Looks every few milliseconds until it is so.
pub(super) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "{what}: not within ten seconds");
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: 2_000_000,
        };
        rustix::event::poll(&mut [], Some(&moment)).unwrap();
    }
}

/// A custodian.
pub(super) struct Running {
    directory: Option<TempDir>,
    registry: Registry,
    events: mpsc::Receiver<CustodyEvent>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

pub(super) fn start(times: CustodyTimes) -> Running {
    Running::start(tempfile::tempdir().unwrap(), times)
}

impl Running {
    pub(super) fn start(directory: TempDir, times: CustodyTimes) -> Running {
        // Both sides' descriptors are this process's.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let most = rustix::process::Rlimit {
            current: limit.maximum,
            ..limit
        };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, most).unwrap();
        let registry = Registry::new();
        let (sender, events) = mpsc::channel(EVENTS);
        let stop = CancellationToken::new();
        let custody = Custody::bind(&directory.path().join("sockets"), &registry).unwrap();
        let thread = custody.start(times, sender, stop.clone()).unwrap();
        Running {
            directory: Some(directory),
            registry,
            events,
            stop,
            thread: Some(thread),
        }
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.directory.as_ref().unwrap().path().join("sockets")
    }

    pub(super) fn event(&mut self) -> CustodyEvent {
        let mut event = None;
        wait_until("an event", || {
            event = self.events.try_recv().ok();
            event.is_some()
        });
        event.unwrap()
    }

    /// Sockets and listeners held, and the reasons for which descriptors are held no longer.
    pub(super) fn held(&self) -> (u64, u64, String) {
        let page = imaccess_common::metrics::render(&self.registry);
        let held = |kind: &str| value(&page, &format!("imaccess_state_custody_held{{kind=\"{kind}\"}} "));
        let closed = page.lines().filter_map(|line| {
            let rest = line.strip_prefix("imaccess_state_custody_closed_total{reason=\"")?;
            let (reason, count) = rest.split_once("\"} ")?;
            (count != "0").then(|| format!("{reason} {count}"))
        });
        let closed: Vec<String> = closed.collect();
        (held("sockets"), held("listeners"), closed.join(" "))
    }

    pub(super) fn refused(&self, reason: &str) -> u64 {
        let page = imaccess_common::metrics::render(&self.registry);
        value(
            &page,
            &format!("imaccess_state_custody_refused_total{{reason=\"{reason}\"}} "),
        )
    }

    /// Its planned end.
    pub(super) fn stop(mut self) -> TempDir {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap();
        self.directory.take().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn value(page: &str, name: &str) -> u64 {
    page.lines()
        .find_map(|line| line.strip_prefix(name))
        .map_or(0, |value| value.parse().unwrap())
}

/// Clients, and the sockets that a gateway accepted.
pub(super) fn connections(listener: &TcpListener, count: usize) -> (Vec<TcpStream>, Vec<OwnedFd>) {
    let address = listener.local_addr().unwrap();
    let pair = |_| {
        let client = TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        (client, OwnedFd::from(accepted))
    };
    (0..count).map(pair).unzip()
}

pub(super) fn socket(id: u64) -> Held {
    Held {
        id,
        kind: HeldKind::Socket.into(),
        transport: Transport::Tcp.into(),
        ..Held::default()
    }
}

/// One connection of a gateway.
pub(super) struct Gateway {
    socket: DescriptorSocket,
    /// Of the last message.
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Gateway {
    pub(super) fn connect(running: &Running) -> Gateway {
        Gateway {
            socket: DescriptorSocket::connect(&Custody::path(&running.directory())).unwrap(),
            descriptors: Vec::new(),
        }
    }

    /// A shard's connection, let in.
    pub(super) fn shard(running: &Running, incarnation: u32, shard: u32, shards: u32) -> Gateway {
        let mut gateway = Self::connect(running);
        gateway.hello(incarnation, shard, shards, (1, 1), "pod-1");
        let Some(Answer::Welcome(welcome)) = gateway.receive() else {
            panic!("shard {shard} isn't welcome");
        };
        assert_eq!(welcome.generation, 1);
        gateway
    }

    /// Everything that is held.
    pub(super) fn take_back(running: &Running, incarnation: u32) -> Vec<(Held, OwnedFd)> {
        let mut gateway = Self::connect(running);
        gateway.ask_back(incarnation, "pod-1");
        gateway.take_all()
    }

    pub(super) fn hello(
        &mut self,
        incarnation: u32,
        shard: u32,
        shards: u32,
        speaks: (u32, u32),
        name: &str,
    ) {
        self.send(Message::Hello(CustodyHello {
            oldest_generation: speaks.0,
            newest_generation: speaks.1,
            instance: name.to_owned(),
            incarnation,
            shard,
            shards,
        }));
    }

    pub(super) fn ask_back(&mut self, incarnation: u32, instance: &str) {
        self.send(Message::TakeBack(TakeBack {
            oldest_generation: 1,
            newest_generation: 1,
            instance: instance.to_owned(),
            incarnation,
        }));
    }

    pub(super) fn take_all(mut self) -> Vec<(Held, OwnedFd)> {
        let mut all = Vec::new();
        loop {
            match self.receive().expect("the custodian goes on") {
                Answer::Return(back) => {
                    assert!(!back.held.is_empty() && back.held.len() <= MOST_DESCRIPTORS);
                    assert_eq!(back.held.len(), self.descriptors.len());
                    all.extend(back.held.into_iter().zip(self.descriptors.drain(..)));
                    self.send(Message::ReturnAck(ReturnAck {}));
                }
                Answer::ReturnDone(done) => {
                    assert_eq!((done.sockets + done.listeners) as usize, all.len());
                    return all;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    pub(super) fn deposit(&mut self, sockets: &[(u64, &OwnedFd)]) {
        let held: Vec<Held> = sockets.iter().map(|(id, _)| socket(*id)).collect();
        let descriptors: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
        self.send_deposit(&held, &descriptors);
    }

    /// As ids from 1 on, acknowledged.
    pub(super) fn deposit_many(&mut self, count: u64, descriptor: &OwnedFd) {
        let ids: Vec<u64> = (1..=count).collect();
        for (index, ids) in ids.chunks(MOST_DESCRIPTORS).enumerate() {
            let sockets: Vec<_> = ids.iter().map(|id| (*id, descriptor)).collect();
            self.deposit(&sockets);
            self.acknowledged(index as u64 + 1);
        }
    }

    pub(super) fn deposit_listener(&mut self, id: u64, listener: &TcpListener) {
        let held = Held {
            kind: HeldKind::Listener.into(),
            address: "0.0.0.0:1".to_owned(),
            ..socket(id)
        };
        self.send_deposit(&[held], &[listener.as_fd()]);
    }

    /// A record without a descriptor.
    pub(super) fn deposit_nothing(&mut self) {
        self.send_deposit(&[socket(1)], &[]);
    }

    pub(super) fn send_deposit(&mut self, held: &[Held], descriptors: &[BorrowedFd<'_>]) {
        let deposit = Deposit { held: held.to_vec() };
        self.send_with(Message::Deposit(deposit), descriptors);
    }

    pub(super) fn release(&mut self, ids: &[u64]) {
        self.send(Message::Release(Release { id: ids.to_vec() }));
    }

    pub(super) fn send(&mut self, message: Message) {
        self.send_with(message, &[]);
    }

    pub(super) fn send_bytes(&mut self, bytes: &[u8]) {
        self.socket.send(bytes, &[]).unwrap();
    }

    fn send_with(&mut self, message: Message, descriptors: &[BorrowedFd<'_>]) {
        let bytes = ToCustodian {
            message: Some(message),
        }
        .encode_to_vec();
        loop {
            match self.socket.send(&bytes, descriptors) {
                Err(fault) if fault.kind() == std::io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT),
                sent => return sent.unwrap(),
            }
        }
    }

    fn wait(&self, flags: PollFlags) {
        let patience = Timespec {
            tv_sec: PATIENCE.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        let ready = rustix::event::poll(&mut [PollFd::new(&self.socket, flags)], Some(&patience)).unwrap();
        assert_eq!(ready, 1, "the custodian doesn't answer");
    }

    /// The next message; `None`: the custodian has closed the connection.
    pub(super) fn receive(&mut self) -> Option<Answer> {
        let mut bytes = Vec::new();
        loop {
            match self.socket.receive(&mut bytes, &mut self.descriptors) {
                Ok(0) => return None,
                Ok(_) => return FromCustodian::decode(bytes.as_slice()).unwrap().message,
                Err(fault) if fault.kind() == std::io::ErrorKind::WouldBlock => self.wait(PollFlags::IN),
                Err(fault) => panic!("{fault}"),
            }
        }
    }

    /// Waits until so many deposits and releases are applied.
    pub(super) fn acknowledged(&mut self, messages: u64) {
        loop {
            match self.receive() {
                Some(Answer::Ack(ack)) if ack.messages == messages => return,
                Some(Answer::Ack(ack)) => assert!(ack.messages < messages),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits until the custodian has ended the connection.
    pub(super) fn is_ended(&mut self) -> bool {
        while let Some(message) = self.receive() {
            assert!(matches!(message, Answer::Ack(_)), "{message:?}");
        }
        true
    }
}
