//! The bare fan-out: what its control port gets goes to every member.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use clap::ValueEnum;
use imaccess_net::epoll::{Epoll, Interest};
use imaccess_net::socket::ClientSocket;
use imaccess_wire::{Limits, header};

use super::{
    Asker, BATCH, BUFFER, CONTROL, Counts, LISTENER, PUBLISHER, SECOND_LISTENER, Sockets, Started, listen,
};

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A write per message and member.
    Send,
    /// All messages that wait, in one write per member.
    Gather,
}

/// Serves on two free ports, members and publisher, until the asker's input ends.
///
/// # Errors
/// The kernel's, when a port, a descriptor or a watch isn't to be had.
pub(crate) fn run<In: Read + AsFd, Out: Write>(mode: Mode, mut asker: Asker<In, Out>) -> anyhow::Result<()> {
    let listener = listen()?;
    let control = listen()?;
    let mut epoll = Epoll::new(BATCH)?;
    epoll.add(&listener, LISTENER, Interest::Listener)?;
    epoll.add(&control, SECOND_LISTENER, Interest::Listener)?;
    epoll.add(asker.input.get_ref(), CONTROL, Interest::Listener)?;
    let mut sockets = Sockets::new();
    let mut inbox = Inbox {
        bytes: vec![0; BUFFER],
        filled: 0,
        publisher: None,
    };
    let mut counts = Counts::default();
    asker.say(&Started {
        address: listener.address(),
        control: Some(control.address()),
    })?;
    loop {
        let events = epoll.wait(None)?;
        counts.waits += 1;
        for index in 0..events {
            let ready = epoll.event(index);
            match ready.token {
                LISTENER => sockets.accept(&listener, &epoll, &mut counts)?,
                SECOND_LISTENER => {
                    let (publisher, _) = control.accept()?;
                    epoll.add(&publisher, PUBLISHER, Interest::Stream)?;
                    inbox.replace(Some(publisher));
                }
                CONTROL if asker.answer(&counts)? => {}
                CONTROL => {
                    inbox.replace(None);
                    sockets.close_all();
                    return Ok(());
                }
                PUBLISHER if ready.readable => distribute(mode, &mut inbox, &mut sockets, &mut counts),
                // A member has nothing to say: it goes.
                slot if ready.hung_up => sockets.close(slot as usize),
                _ => {}
            }
        }
    }
}

/// What the publisher sent and the members don't have yet.
struct Inbox {
    bytes: Vec<u8>,
    filled: usize,
    publisher: Option<ClientSocket>,
}

impl Inbox {
    fn replace(&mut self, publisher: Option<ClientSocket>) {
        if let Some(former) = std::mem::replace(&mut self.publisher, publisher) {
            former.close();
        }
        self.filled = 0;
    }

    /// Length of the whole frames at the front, the last frame's end being where the loop stops.
    fn whole(&self) -> usize {
        let mut rest = &self.bytes[..self.filled];
        while let Ok(Some(split)) = header::split(rest, Limits::default()) {
            rest = split.rest;
        }
        self.filled - rest.len()
    }
}

fn distribute(mode: Mode, inbox: &mut Inbox, sockets: &mut Sockets, counts: &mut Counts) {
    let Some(publisher) = &inbox.publisher else { return };
    match publisher.read(&mut inbox.bytes[inbox.filled..]) {
        Ok(len) if len > 0 => {
            counts.reads += 1;
            counts.read_bytes += len as u64;
            inbox.filled += len;
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
        _ => return inbox.replace(None),
    }
    let whole = inbox.whole();
    match mode {
        Mode::Gather if whole > 0 => to_all(&inbox.bytes[..whole], sockets, counts),
        Mode::Gather => {}
        Mode::Send => {
            let mut rest = &inbox.bytes[..whole];
            while let Ok(Some(split)) = header::split(rest, Limits::default()) {
                to_all(split.frame, sockets, counts);
                rest = split.rest;
            }
        }
    }
    inbox.bytes.copy_within(whole..inbox.filled, 0);
    inbox.filled -= whole;
}

fn to_all(bytes: &[u8], sockets: &mut Sockets, counts: &mut Counts) {
    for slot in 0..sockets.slots.len() {
        let Some(socket) = &sockets.slots[slot] else {
            continue;
        };
        counts.writes += 1;
        if !socket.write(bytes).is_ok_and(|written| written == bytes.len()) {
            counts.short_writes += 1;
            sockets.close(slot);
        }
    }
}
