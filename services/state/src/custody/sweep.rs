//! Which of the held sockets are over, asked in slices so that nothing else waits for long.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec};

/// Sockets asked about at a time: about 0.3 ms.
pub(super) const SLICE: usize = 2_048;

/// What tells that a socket is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// Both sides are shut, or the connection failed.
    Over,
    /// The peer has shut its side as well: with nobody there to read what it sent, that is an end.
    PeerGone,
}

/// The ids of the sockets that are over, and how many were asked about.
///
/// # Errors
/// The kernel's, when it has no memory for it.
pub(super) fn over<'a>(
    sockets: impl Iterator<Item = (u64, &'a OwnedFd)>,
    sign: Sign,
) -> io::Result<(Vec<u64>, usize)> {
    // Shut and failed sockets are always said.
    let interest = match sign {
        Sign::Over => PollFlags::empty(),
        Sign::PeerGone => PollFlags::RDHUP,
    };
    let (ids, mut watched): (Vec<u64>, Vec<PollFd<'_>>) = sockets
        .map(|(id, socket)| (id, PollFd::new(socket, interest)))
        .unzip();
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match rustix::event::poll(&mut watched, Some(&at_once)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok((Vec::new(), ids.len())),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let asked = ids.len();
    let over = ids
        .into_iter()
        .zip(&watched)
        .filter(|(_, watched)| !watched.revents().is_empty())
        .map(|(id, _)| id);
    Ok((over.collect(), asked))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Instant;

    #[test]
    fn only_what_is_over_is_found_and_asking_is_cheap() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let pair = || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (client, OwnedFd::from(listener.accept().unwrap().0))
        };
        let (quiet, half, over) = (pair(), pair(), pair());
        half.0.shutdown(Shutdown::Write).unwrap();
        over.0.shutdown(Shutdown::Write).unwrap();
        rustix::net::shutdown(&over.1, rustix::net::Shutdown::Write).unwrap();
        let held = [(1, &quiet.1), (2, &half.1), (3, &over.1)];
        assert_eq!(super::over(held.into_iter(), Sign::Over).unwrap(), (vec![3], 3));
        assert_eq!(
            super::over(held.into_iter(), Sign::PeerGone).unwrap(),
            (vec![2, 3], 3)
        );

        let sockets: Vec<_> = (0..256).map(|_| pair()).collect();
        let many = (0..SLICE).map(|index| (index as u64, &sockets[index % 256].1));
        let began = Instant::now();
        let found = super::over(many, Sign::PeerGone).unwrap();
        println!("{SLICE} sockets asked about in {:?}", began.elapsed());
        assert_eq!(found, (Vec::new(), SLICE));
    }
}
