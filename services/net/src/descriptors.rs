//! Packets with descriptors beside them, between two processes of one machine.
//!
//! One packet is one message, whole or not at all (`SOCK_SEQPACKET`), with at most [`MOST_DESCRIPTORS`] descriptors
//! (`SCM_RIGHTS`). Everything is non-blocking. Whatever is received is owned from the first moment: a packet that can't be
//! taken whole is an error, and its descriptors are closed, never leaked.
//!
//! Descriptors that are sent and not received yet count against the user's limit on the whole machine (`ETOOMANYREFS`), so
//! senders wait for an answer before they send more.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Most descriptors that the kernel passes in one packet (its `SCM_MAX_FD`).
pub const MOST_DESCRIPTORS: usize = 253;

/// Longest packet in bytes: 253 records with 256 bytes of a transport's state each are 88 KiB. The kernel's own bound is the
/// send buffer, 208 KiB by default.
pub const MOST_BYTES: usize = 128 * 1024;

/// Asked for as send buffer in bytes, so that a few full packets can be on their way. The kernel grants what
/// `net.core.wmem_max` allows, by default just above one.
const SEND_BUFFER: usize = 1 << 20;

/// Connections that may wait to be accepted: one per shard, of two gateways.
const BACKLOG: i32 = 512;

const CONTROL: usize = rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS));

/// Accepts connections at a path.
#[derive(Debug)]
pub struct DescriptorListener {
    fd: OwnedFd,
}

impl DescriptorListener {
    /// Binds, mode 0600, in place of what a former process left there.
    ///
    /// # Errors
    /// The file system's, and the kernel's for a path that is too long.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let fd = socket()?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        rustix::net::listen(&fd, BACKLOG)?;
        Ok(Self { fd })
    }

    /// Takes one waiting connection.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` when none waits.
    pub fn accept(&self) -> io::Result<DescriptorSocket> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = loop {
            match rustix::net::accept_with(&self.fd, flags) {
                Err(Errno::INTR) => {}
                accepted => break accepted?,
            }
        };
        rustix::net::sockopt::set_socket_send_buffer_size(&fd, SEND_BUFFER)?;
        Ok(DescriptorSocket { fd })
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct DescriptorSocket {
    fd: OwnedFd,
}

impl DescriptorSocket {
    /// Connects to the listener at a path.
    ///
    /// # Errors
    /// The kernel's; `NotFound` and `ConnectionRefused` both mean that nobody is there, `WouldBlock` that too many wait.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let fd = socket()?;
        rustix::net::sockopt::set_socket_send_buffer_size(&fd, SEND_BUFFER)?;
        rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Self { fd })
    }

    /// The user whose process is at the other end.
    ///
    /// # Errors
    /// The kernel's.
    pub fn peer_uid(&self) -> io::Result<u32> {
        crate::kernel_counts::peer_user(self.fd.as_fd())
    }

    /// Sends one packet, whole. The descriptors stay the caller's too.
    ///
    /// # Errors
    /// The kernel's: `WouldBlock` when it takes nothing now, `ETOOMANYREFS` when too many descriptors of this user are
    /// between processes. `InvalidInput` for an empty packet, or one beyond [`MOST_BYTES`] or [`MOST_DESCRIPTORS`].
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.is_empty() || bytes.len() > MOST_BYTES || descriptors.len() > MOST_DESCRIPTORS {
            let what = format!(
                "a packet of {} bytes and {} descriptors can't be sent",
                bytes.len(),
                descriptors.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let mut space = [MaybeUninit::uninit(); CONTROL];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
            debug_assert!(fits, "the space is for as many");
        }
        loop {
            match rustix::net::sendmsg(
                &self.fd,
                &[IoSlice::new(bytes)],
                &mut control,
                SendFlags::NOSIGNAL,
            ) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Receives one packet into `bytes` and `descriptors`, which it clears first. `Ok(0)`: the peer is gone.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` when none is there. `InvalidData` when the packet is longer than [`MOST_BYTES`] or its
    /// descriptors could not all be received (this process may have too many open): what was received of it is closed.
    pub fn receive(&self, bytes: &mut Vec<u8>, descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
        bytes.clear();
        descriptors.clear();
        // A buffer of the longest packet's size would have to be cleared each time, and be kept by every reader.
        let len = self.next_len()?;
        if len == 0 {
            return Ok(0);
        }
        bytes.resize(len.min(MOST_BYTES), 0);
        let mut space = [MaybeUninit::uninit(); CONTROL];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut buffers = [IoSliceMut::new(bytes)];
            match rustix::net::recvmsg(&self.fd, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
                // See `next_len`.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                other => break other,
            }
        };
        let received = match received {
            Ok(received) => received,
            Err(error) => {
                bytes.clear();
                return Err(error.into());
            }
        };
        bytes.truncate(received.bytes);
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                descriptors.extend(passed);
            }
        }
        if received
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            bytes.clear();
            descriptors.clear();
            let what = "a packet was not received whole: it is too long, or too many descriptors are open";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(received.bytes)
    }

    /// How long the next packet is; 0: the peer is gone. (An empty packet looks like that, and nobody sends one.)
    fn next_len(&self) -> Result<usize, Errno> {
        loop {
            match rustix::net::recv(&self.fd, &mut [0u8; 0], RecvFlags::PEEK | RecvFlags::TRUNC) {
                Ok((_, len)) => return Ok(len),
                // CONNRESET: the peer went without reading all that we sent. It is said once, before what the peer sent
                // itself, and that must not be lost: after it comes the end.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

impl AsFd for DescriptorListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for DescriptorListener {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for DescriptorSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for DescriptorSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn pair() -> (tempfile::TempDir, DescriptorSocket, DescriptorSocket) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.sock");
        std::fs::write(&path, "what a former process left").unwrap();
        let listener = DescriptorListener::bind(&path).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let client = DescriptorSocket::connect(&path).unwrap();
        let server = listener.accept().unwrap();
        drop(listener);
        let refused = DescriptorSocket::connect(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        std::fs::remove_file(&path).unwrap();
        let missing = DescriptorSocket::connect(&path).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        (directory, client, server)
    }

    #[test]
    fn the_most_goes_in_one_packet_and_the_descriptors_are_the_same_sockets() {
        let (_directory, client, server) = pair();
        assert_eq!(server.peer_uid().unwrap(), rustix::process::geteuid().as_raw());
        let (mut near, far) = UnixStream::pair().unwrap();
        let sent = vec![far.as_fd(); MOST_DESCRIPTORS];
        let packet = vec![7; MOST_BYTES];
        client.send(&packet, &sent).unwrap();
        client.send(b"bare", &[]).unwrap();

        let (mut bytes, mut descriptors) = (vec![1; 9], Vec::new());
        assert_eq!(server.receive(&mut bytes, &mut descriptors).unwrap(), MOST_BYTES);
        assert_eq!((bytes == packet, descriptors.len()), (true, MOST_DESCRIPTORS));
        for fd in &descriptors {
            let flags = rustix::io::fcntl_getfd(fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
        let mut passed = UnixStream::from(descriptors.pop().unwrap());
        passed.write_all(b"x").unwrap();
        let mut one = [0];
        near.read_exact(&mut one).unwrap();
        assert_eq!(one, *b"x");

        assert_eq!(server.receive(&mut bytes, &mut descriptors).unwrap(), 4);
        assert_eq!((&bytes[..], descriptors.len()), (&b"bare"[..], 0));
        let nothing = server.receive(&mut bytes, &mut descriptors).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        // A peer that goes with something unread resets the connection, but what it sent comes first, and whole.
        client.send(b"never read", &[]).unwrap();
        server.send(b"last words", &[far.as_fd()]).unwrap();
        drop(server);
        assert_eq!(client.receive(&mut bytes, &mut descriptors).unwrap(), 10);
        assert_eq!((&bytes[..], descriptors.len()), (&b"last words"[..], 1));
        assert_eq!(client.receive(&mut bytes, &mut descriptors).unwrap(), 0);
        assert_eq!(
            client.send(b"x", &[]).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }

    #[test]
    fn what_is_too_much_is_not_sent_and_a_full_socket_says_so() {
        let (_directory, client, server) = pair();
        let none: [BorrowedFd<'_>; 0] = [];
        let many = vec![client.as_fd(); MOST_DESCRIPTORS + 1];
        for fault in [
            client.send(b"", &none),
            client.send(&vec![0; MOST_BYTES + 1], &none),
            client.send(b"x", &many),
        ] {
            assert_eq!(fault.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        let packet = vec![0; MOST_BYTES];
        let mut sent = 0;
        let full = loop {
            match client.send(&packet, &[]) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        assert!(sent >= 1);
        let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
        for _ in 0..sent {
            assert_eq!(server.receive(&mut bytes, &mut descriptors).unwrap(), MOST_BYTES);
        }
        client.send(&packet, &[]).unwrap();
    }

    #[test]
    fn a_packet_that_is_too_long_is_an_error_and_its_descriptors_are_closed() {
        let (_directory, client, server) = pair();
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut space = [MaybeUninit::uninit(); CONTROL];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let passed = [far.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
        let packet = vec![0; MOST_BYTES + 1];
        rustix::net::sendmsg(
            &client,
            &[IoSlice::new(&packet)],
            &mut control,
            SendFlags::empty(),
        )
        .unwrap();
        drop(far);
        let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
        let fault = server.receive(&mut bytes, &mut descriptors).unwrap_err();
        assert_eq!(fault.kind(), io::ErrorKind::InvalidData);
        assert_eq!((bytes.len(), descriptors.len()), (0, 0));
        // The last duplicate is closed: the end shows.
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
    }
}
