//! How many bytes have been read from and written to a TCP socket since it was opened, by whichever process held it: the
//! kernel knows, when a killed process can no longer say.
//!
//! - read = bytes received (TCP_INFO) − bytes waiting to be read (SIOCINQ) − 1 once the peer's FIN is in, which counts
//!   as a received byte but never as a waiting one;
//! - written = bytes acknowledged (TCP_INFO) + bytes not acknowledged (SIOCOUTQ: in flight and unsent) − 1 once our own
//!   FIN is queued.
//!
//! Both minus a constant that a socket starts with. None of this is promised by anybody, so [`counts_can_be_trusted`] tries it
//! on connections to ourselves, and what it finds there is the constant; where it doesn't add up, nothing is ever counted.
//!
//! Holds for *accepted* sockets (a connecting one has its SYN acknowledged as a byte), and while nobody reads or writes.
//! Urgent data makes the counts differ from what was read, which looks like a lost byte: nothing is done that shouldn't be.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

/// What the kernel has counted on one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelCounts {
    /// Bytes that processes have read.
    pub read: u64,
    /// Bytes that processes have written.
    pub written: u64,
    /// Whether the peer has shut its side: nothing more will come.
    pub peer_finished: bool,
}

/// What a socket has counted before anything happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Constants {
    read: u64,
    written: u64,
}

/// Readings before giving up on one that stands still. Packets would have to arrive between two system calls each time.
const ATTEMPTS: usize = 16;

/// Longest wait for anything in the self-test; on the loopback device it takes microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

static CONSTANTS: OnceLock<Option<Constants>> = OnceLock::new();

/// Whether the formulas hold on this kernel: tried once per process, on a few connections to itself.
pub fn counts_can_be_trusted() -> bool {
    constants().is_some()
}

fn constants() -> Option<Constants> {
    *CONSTANTS.get_or_init(|| self_test().ok().flatten())
}

/// What has been read from and written to an accepted TCP socket. `None`: it didn't stand still.
///
/// After our own `shutdown` of the write side the count of written bytes is the kernel's best word: don't build on it.
///
/// # Errors
/// The kernel's, such as for a socket that isn't TCP; `NotConnected` when the connection is over (a reset, or both sides have
/// finished: there the kernel no longer says how it ended); `Unsupported` where [`counts_can_be_trusted`] says no.
pub fn kernel_counts(fd: impl AsFd) -> io::Result<Option<KernelCounts>> {
    let fd = fd.as_fd();
    let Some(constants) = constants() else {
        // A socket that isn't TCP is that first.
        tcp_info(fd)?;
        let what = "this kernel doesn't count what is read and written as expected";
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    };
    counts(fd, constants)
}

fn counts(fd: BorrowedFd<'_>, constants: Constants) -> io::Result<Option<KernelCounts>> {
    let Some(raw) = raw_counts(fd)? else {
        return Ok(None);
    };
    Ok(Some(KernelCounts {
        read: raw.read.saturating_sub(constants.read),
        written: raw.written.saturating_sub(constants.written),
        ..raw
    }))
}

fn raw_counts(fd: BorrowedFd<'_>) -> io::Result<Option<KernelCounts>> {
    let mut before = tcp_info(fd)?;
    for _ in 0..ATTEMPTS {
        if !before.is_connected() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let waiting = rustix::io::ioctl_fionread(fd)?;
        let unacknowledged = unacknowledged(fd)?;
        let after = tcp_info(fd)?;
        // What came or was acknowledged between the calls would be counted twice or not at all.
        if after == before {
            let read = before
                .received
                .checked_sub(waiting + u64::from(before.peer_finished()));
            let written = (before.acknowledged + unacknowledged).checked_sub(u64::from(before.finished()));
            return match (read, written) {
                (Some(read), Some(written)) => Ok(Some(KernelCounts {
                    read,
                    written,
                    peer_finished: before.peer_finished(),
                })),
                _ => Ok(None),
            };
        }
        before = after;
    }
    Ok(None)
}

/// The part of the kernel's `struct tcp_info` that is read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Info {
    state: u8,
    acknowledged: u64,
    received: u64,
}

impl Info {
    /// Any state but SYN_SENT, SYN_RECV, TIME_WAIT, CLOSE and LISTEN.
    fn is_connected(&self) -> bool {
        matches!(
            self.state,
            ESTABLISHED | FIN_WAIT1 | FIN_WAIT2 | CLOSE_WAIT | LAST_ACK | CLOSING
        )
    }

    fn peer_finished(&self) -> bool {
        matches!(self.state, CLOSE_WAIT | LAST_ACK | CLOSING)
    }

    /// Whether our own FIN is queued or sent.
    fn finished(&self) -> bool {
        matches!(self.state, FIN_WAIT1 | FIN_WAIT2 | LAST_ACK | CLOSING)
    }
}

// States of `include/net/tcp_states.h`.
const ESTABLISHED: u8 = 1;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;

/// The first 136 bytes of `struct tcp_info` in `linux/tcp.h`, as far as Linux 4.1 has it: fields are only ever added at
/// its end, and the kernel fills as many bytes as are asked for.
#[repr(C)]
struct RawInfo {
    /// `tcpi_state`, the first byte, and what follows it up to `tcpi_max_pacing_rate`.
    head: [u8; 120],
    bytes_acked: u64,
    bytes_received: u64,
}

const _: () = assert!(size_of::<RawInfo>() == 136);

#[expect(unsafe_code, reason = "no safe crate reads TCP_INFO")]
fn tcp_info(fd: BorrowedFd<'_>) -> io::Result<Info> {
    let mut info = RawInfo {
        head: [0; 120],
        bytes_acked: 0,
        bytes_received: 0,
    };
    let mut len = size_of::<RawInfo>() as libc::socklen_t;
    // SAFETY: the descriptor is open as long as it is borrowed; `info` is `len` bytes of plain integers, valid whatever is
    // written there; the kernel writes at most `len` bytes and the new length into `len`, and keeps neither pointer.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if (len as usize) < size_of::<RawInfo>() {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this kernel's TCP_INFO counts no bytes",
        ));
    }
    Ok(Info {
        state: info.head[0],
        acknowledged: info.bytes_acked,
        received: info.bytes_received,
    })
}

/// Bytes that the peer hasn't acknowledged: in flight, and not sent yet.
#[expect(unsafe_code, reason = "no safe crate asks SIOCOUTQ")]
fn unacknowledged(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as it is borrowed; SIOCOUTQ (the number of TIOCOUTQ) writes one `int` through
    // the pointer, which is valid for that, and doesn't keep it.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    u64::try_from(bytes).map_err(|_| io::Error::other("SIOCOUTQ is negative"))
}

/// The user of the process at the other end of a Unix socket.
///
/// rustix has this call, but takes the process id for a number that is never 0. It is 0 where the peer is in another PID
/// namespace, as between two containers of a pod, and rustix's answer is an error then (1.1.6).
#[expect(unsafe_code, reason = "rustix fails for a peer of another PID namespace")]
pub(crate) fn peer_user(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: libc::uid_t::MAX,
        gid: libc::gid_t::MAX,
    };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open as long as it is borrowed; `peer` is `len` bytes of plain integers, valid whatever is
    // written there; the kernel writes at most `len` bytes and the new length into `len`, and keeps neither pointer.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(peer.uid)
}

/// Tries the formulas. `Ok(None)`, as well as an error: they don't hold.
fn self_test() -> io::Result<Option<Constants>> {
    let fresh = |pair: &Pair| raw_counts(pair.accepted.as_fd());
    let (one, other) = (Pair::new()?, Pair::new()?);
    let Some(raw) = fresh(&one)? else { return Ok(None) };
    let constants = Constants {
        read: raw.read,
        written: raw.written,
    };
    // A SYN may count as a byte. More is nothing that we understand.
    let understood = raw.read <= 1 && raw.written <= 1 && !raw.peer_finished;
    if !understood || fresh(&other)? != Some(raw) {
        return Ok(None);
    }
    let trials: [Trial; 4] = [
        reading_counts,
        finishing_counts,
        writing_counts,
        a_full_buffer_counts,
    ];
    for trial in trials {
        if !trial(constants)? {
            return Ok(None);
        }
    }
    Ok(Some(constants))
}

/// Whether the formulas hold in one case.
type Trial = fn(Constants) -> io::Result<bool>;

/// Two ends of one connection.
struct Pair {
    peer: TcpStream,
    accepted: TcpStream,
}

impl Pair {
    fn new() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let peer = TcpStream::connect(listener.local_addr()?)?;
        let (accepted, from) = listener.accept()?;
        if from != peer.local_addr()? {
            return Err(io::Error::other("a stranger connected first"));
        }
        accepted.set_read_timeout(Some(PATIENCE))?;
        peer.set_read_timeout(Some(PATIENCE))?;
        peer.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { peer, accepted })
    }

    fn is(&self, constants: Constants, read: u64, written: u64, peer_finished: bool) -> io::Result<bool> {
        let expected = KernelCounts {
            read,
            written,
            peer_finished,
        };
        Ok(counts(self.accepted.as_fd(), constants)? == Some(expected))
    }

    /// Waits until so many bytes can be read.
    fn arrived(&self, bytes: u64) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        while rustix::io::ioctl_fionread(&self.accepted)? < bytes {
            if Instant::now() > until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Lets the peer finish and waits until that is here.
    fn finish(&self) -> io::Result<()> {
        self.peer.shutdown(Shutdown::Write)?;
        let mut watched = [PollFd::new(&self.accepted, PollFlags::RDHUP)];
        let patience = rustix::time::Timespec {
            tv_sec: PATIENCE.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        match rustix::event::poll(&mut watched, Some(&patience))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

fn reading_counts(constants: Constants) -> io::Result<bool> {
    let mut pair = Pair::new()?;
    pair.peer.write_all(&[1; 1000])?;
    pair.arrived(1000)?;
    let unread = pair.is(constants, 0, 0, false)?;
    pair.accepted.read_exact(&mut [0; 300])?;
    let partly = pair.is(constants, 300, 0, false)?;
    pair.accepted.read_exact(&mut [0; 700])?;
    Ok(unread && partly && pair.is(constants, 1000, 0, false)?)
}

fn finishing_counts(constants: Constants) -> io::Result<bool> {
    let mut pair = Pair::new()?;
    pair.peer.write_all(&[1; 500])?;
    pair.finish()?;
    let unread = pair.is(constants, 0, 0, true)?;
    pair.accepted.read_exact(&mut [0; 200])?;
    let partly = pair.is(constants, 200, 0, true)?;
    pair.accepted.read_exact(&mut [0; 300])?;
    let read = pair.is(constants, 500, 0, true)?;
    let end = pair.accepted.read(&mut [0; 1])? == 0;
    let after = pair.is(constants, 500, 0, true)?;

    let mut bare = Pair::new()?;
    bare.finish()?;
    let before_the_end = bare.is(constants, 0, 0, true)?;
    bare.accepted.write_all(&[2; 50])?;
    let written = bare.is(constants, 0, 50, true)?;
    let bare_end = bare.accepted.read(&mut [0; 1])? == 0;
    let bare_after = bare.is(constants, 0, 50, true)?;
    Ok(unread && partly && read && end && after && before_the_end && written && bare_end && bare_after)
}

fn writing_counts(constants: Constants) -> io::Result<bool> {
    let mut pair = Pair::new()?;
    pair.accepted.write_all(&[1; 100])?;
    let at_once = pair.is(constants, 0, 100, false)?;
    pair.peer.read_exact(&mut [0; 100])?;
    // What it sends acknowledges what it got.
    pair.peer.write_all(&[2; 10])?;
    pair.arrived(10)?;
    let acknowledged = unacknowledged(pair.accepted.as_fd())? == 0;
    Ok(at_once && acknowledged && pair.is(constants, 0, 100, false)?)
}

fn a_full_buffer_counts(constants: Constants) -> io::Result<bool> {
    let mut pair = Pair::new()?;
    rustix::net::sockopt::set_socket_send_buffer_size(&pair.accepted, 16 << 10)?;
    pair.accepted.set_nonblocking(true)?;
    let mut written = 0;
    loop {
        match pair.accepted.write(&[1; 8192]) {
            Ok(count) => written += count as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    let full = pair.is(constants, 0, written, false)?;
    let queued = unacknowledged(pair.accepted.as_fd())? > 0;
    pair.peer.read_exact(&mut [0; 4096])?;
    Ok(full && queued && pair.is(constants, 0, written, false)?)
}

#[cfg(test)]
mod tests;
