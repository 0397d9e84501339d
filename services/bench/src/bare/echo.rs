//! The bare echo: one read, one write, nothing else.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use imaccess_net::epoll::{Epoll, Interest};

use super::{Asker, BATCH, BUFFER, CONTROL, Counts, LISTENER, Sockets, Started, listen};

/// Serves on a free port until the asker's input ends.
///
/// # Errors
/// The kernel's, when a port, a descriptor or a watch isn't to be had.
pub(crate) fn run<In: Read + AsFd, Out: Write>(mut asker: Asker<In, Out>) -> anyhow::Result<()> {
    let listener = listen()?;
    let mut epoll = Epoll::new(BATCH)?;
    epoll.add(&listener, LISTENER, Interest::Listener)?;
    epoll.add(asker.input.get_ref(), CONTROL, Interest::Listener)?;
    let mut sockets = Sockets::new();
    let mut buffer = vec![0; BUFFER];
    let mut counts = Counts::default();
    asker.say(&Started {
        address: listener.address(),
        control: None,
    })?;
    loop {
        let events = epoll.wait(None)?;
        counts.waits += 1;
        for index in 0..events {
            let ready = epoll.event(index);
            match ready.token {
                LISTENER => sockets.accept(&listener, &epoll, &mut counts)?,
                CONTROL if asker.answer(&counts)? => {}
                CONTROL => {
                    sockets.close_all();
                    return Ok(());
                }
                slot if ready.readable => echo(&mut sockets, slot as usize, &mut buffer, &mut counts),
                // Writable, which it is until it isn't: nothing to do.
                _ => {}
            }
        }
    }
}

#[inline]
fn echo(sockets: &mut Sockets, slot: usize, buffer: &mut [u8], counts: &mut Counts) {
    let Some(socket) = &sockets.slots[slot] else {
        return;
    };
    let len = match socket.read(buffer) {
        Ok(len) if len > 0 => len,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
        _ => return sockets.close(slot),
    };
    counts.reads += 1;
    counts.read_bytes += len as u64;
    counts.writes += 1;
    if !socket.write(&buffer[..len]).is_ok_and(|written| written == len) {
        counts.short_writes += 1;
        sockets.close(slot);
    }
}
