//! Sockets with one owner, and listeners that share a port.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags};
use socket2::{Domain, Protocol, Socket, Type};

/// Sockets that were dropped without a verdict since the process started. Anything but zero is a bug: with a
/// duplicate of the descriptor elsewhere, dropping one closes nothing.
static DROPPED_WITHOUT_VERDICT: AtomicU64 = AtomicU64::new(0);

/// How many sockets were dropped without a verdict: a bug to be counted, not to be hidden.
#[must_use]
pub fn dropped_without_verdict() -> u64 {
    DROPPED_WITHOUT_VERDICT.load(Ordering::Relaxed)
}

/// A connected client socket, non-blocking. Its end is a verdict: [`ClientSocket::close`].
#[derive(Debug)]
pub struct ClientSocket {
    /// `None` only after the verdict.
    fd: Option<OwnedFd>,
}

impl ClientSocket {
    /// Takes over a connected, non-blocking descriptor.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd: Some(fd) }
    }

    fn fd(&self) -> &OwnedFd {
        self.fd
            .as_ref()
            .expect("the descriptor is there until close takes the socket")
    }

    /// Reads what is there into `buffer`; `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` when nothing is there.
    #[inline]
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::net::recv(self.fd(), &mut *buffer, RecvFlags::empty()) {
                Ok((len, _)) => return Ok(len),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// As [`Self::read`], but what is read stays in the kernel and is read again.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::net::recv(self.fd(), &mut *buffer, RecvFlags::PEEK) {
                Ok((len, _)) => return Ok(len),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes as much of `bytes` as the kernel takes.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` when it takes nothing.
    #[inline]
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::net::send(self.fd(), bytes, SendFlags::NOSIGNAL) {
                Ok(len) => return Ok(len),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes as much of several buffers as the kernel takes, in one call.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_vectored(&self, buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
        loop {
            match rustix::io::writev(self.fd(), buffers) {
                Ok(len) => return Ok(len),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The peer's address; `None` once the connection has failed.
    #[must_use]
    pub fn peer_address(&self) -> Option<std::net::IpAddr> {
        let peer = rustix::net::getpeername(self.fd()).ok()??;
        SocketAddr::try_from(peer).ok().map(|address| address.ip())
    }

    /// Says that nothing more will be written: what is in flight still arrives, then the end of the stream.
    pub fn shutdown_write(&self) {
        // The peer may be gone already, which is what we want.
        let _ = rustix::net::shutdown(self.fd(), Shutdown::Write);
    }

    /// The verdict: the connection ends, also for other holders of the descriptor.
    pub fn close(mut self) {
        if let Some(fd) = self.fd.take() {
            // `close` alone would close nothing while a custodian holds a duplicate.
            let _ = rustix::net::shutdown(&fd, Shutdown::Both);
        }
    }

    /// Ends the ownership, not the connection: another process has a duplicate and goes on with it.
    #[must_use]
    pub fn detach(mut self) -> OwnedFd {
        self.fd
            .take()
            .expect("the descriptor is there until close takes the socket")
    }

    /// Ends the connection with a reset, without waiting for anything: for peers that are refused in numbers.
    pub fn abort(mut self) {
        if let Some(fd) = self.fd.take() {
            let _ = rustix::net::sockopt::set_socket_linger(&fd, Some(Duration::ZERO));
        }
    }
}

impl AsFd for ClientSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd().as_fd()
    }
}

impl Drop for ClientSocket {
    fn drop(&mut self) {
        if self.fd.is_some() {
            DROPPED_WITHOUT_VERDICT.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What a listener passes on to every connection that it accepts (Linux copies these options).
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// Kernel send buffer in bytes: small, so that what waits for a slow reader waits where policy sees it.
    pub send_buffer: usize,
    /// Kernel receive buffer in bytes; `None`: the kernel's default.
    pub receive_buffer: Option<usize>,
    /// How long written bytes may stay unacknowledged before the kernel gives the connection up.
    pub user_timeout: Duration,
}

impl StreamOptions {
    fn set(&self, socket: &Socket) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_user_timeout(Some(self.user_timeout))?;
        socket.set_send_buffer_size(self.send_buffer)?;
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        Ok(())
    }
}

/// A listening socket that shares its port with the listeners of the other shards.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: SocketAddr,
}

impl Listener {
    /// Binds and listens. Port 0 takes a free one: bind the first shard's, then the others to its address.
    ///
    /// # Errors
    /// The kernel's, such as an address that is in use by another user's process.
    pub fn bind(address: SocketAddr, backlog: i32, options: StreamOptions) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            // `[::]` and `0.0.0.0` are asked for separately, so that neither surprises.
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        options.set(&socket)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(backlog)?;
        let address = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok(Self { socket, address })
    }

    /// Takes over a listening socket that another process bound, with what waits in its queue; connections accepted from
    /// now on have these options. `address` is where it is said to listen; the kernel's own word counts.
    ///
    /// # Errors
    /// The kernel's; `InvalidInput` when it doesn't listen, or not on an address of the internet.
    pub fn adopt(fd: OwnedFd, address: SocketAddr, options: StreamOptions) -> io::Result<Self> {
        let strange = |what: &str| {
            let what = format!("the descriptor said to listen on {address} {what}");
            io::Error::new(io::ErrorKind::InvalidInput, what)
        };
        let socket = Socket::from(fd);
        if !socket.is_listener()? {
            return Err(strange("doesn't listen"));
        }
        let Some(address) = socket.local_addr()?.as_socket() else {
            return Err(strange("has no such address"));
        };
        options.set(&socket)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }

    /// Ends listening, also for other holders of the descriptor. What waits in its queue is reset.
    pub fn close(self) {
        // `close` alone would leave a socket that completes handshakes for nobody.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Ends the ownership, not the listening: another process has a duplicate and goes on with it.
    #[must_use]
    pub fn detach(self) -> OwnedFd {
        self.socket.into()
    }

    /// Where it listens, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes one waiting connection.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` when none waits.
    pub fn accept(&self) -> io::Result<(ClientSocket, Option<SocketAddr>)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (fd, peer) = rustix::net::acceptfrom_with(&self.socket, flags)?;
        Ok((
            ClientSocket::new(fd),
            peer.and_then(|peer| SocketAddr::try_from(peer).ok()),
        ))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Connects without blocking: the socket is writable once it is connected. `source` chooses the local address,
/// for load that needs more ports than one address has.
///
/// # Errors
/// The kernel's.
pub fn connect(address: SocketAddr, source: Option<SocketAddr>) -> io::Result<ClientSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        socket.bind(&source.into())?;
    }
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(ClientSocket::new(socket.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoll::{Epoll, Interest};

    fn options() -> StreamOptions {
        StreamOptions {
            send_buffer: 16 << 10,
            receive_buffer: None,
            user_timeout: Duration::from_secs(30),
        }
    }

    fn pair() -> (ClientSocket, ClientSocket, Epoll) {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), 16, options()).unwrap();
        let client = connect(listener.address(), None).unwrap();
        let mut epoll = Epoll::new(8).unwrap();
        epoll.add(&listener, 1, Interest::Listener).unwrap();
        assert_eq!(epoll.wait(Some(Duration::from_secs(5))).unwrap(), 1);
        let (server, peer) = listener.accept().unwrap();
        assert!(peer.is_some());
        epoll.delete(&listener).unwrap();
        (client, server, epoll)
    }

    #[test]
    fn bytes_arrive_and_readiness_names_the_token() {
        let (client, server, mut epoll) = pair();
        epoll.add(&server, 7, Interest::Stream).unwrap();
        assert_eq!(client.write(b"hello").unwrap(), 5);
        let mut buffer = [0; 16];
        loop {
            let count = epoll.wait(Some(Duration::from_secs(5))).unwrap();
            assert!(count > 0, "nothing became ready");
            let ready = epoll.event(0);
            assert_eq!(ready.token, 7);
            if ready.readable {
                break;
            }
        }
        assert_eq!(server.read(&mut buffer).unwrap(), 5);
        assert_eq!(
            server.read(&mut buffer).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        client.close();
        server.close();
    }

    #[test]
    fn close_is_a_verdict_even_with_a_duplicate_elsewhere() {
        let (client, server, mut epoll) = pair();
        let duplicate = server.as_fd().try_clone_to_owned().unwrap();
        epoll.add(&client, 9, Interest::Stream).unwrap();
        server.close();
        let mut buffer = [0; 1];
        loop {
            assert!(
                epoll.wait(Some(Duration::from_secs(5))).unwrap() > 0,
                "the close never showed"
            );
            if epoll.event(0).hung_up {
                break;
            }
        }
        assert_eq!(client.read(&mut buffer).unwrap(), 0);
        drop(duplicate);
        client.close();
    }

    #[test]
    fn what_is_peeked_is_read_again() {
        let (client, server, mut epoll) = pair();
        epoll.add(&server, 7, Interest::Stream).unwrap();
        client.write(b"hello").unwrap();
        let mut buffer = [0; 16];
        let peeked = loop {
            match server.peek(&mut buffer) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    assert!(epoll.wait(Some(Duration::from_secs(5))).unwrap() > 0);
                }
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(&buffer[..peeked], b"hello");
        assert_eq!(server.read(&mut buffer).unwrap(), 5);
        client.close();
        server.close();
    }

    #[test]
    fn a_detached_socket_goes_on_elsewhere() {
        let (client, server, _epoll) = pair();
        let server = ClientSocket::new(server.detach());
        assert_eq!(server.write(b"on").unwrap(), 2);
        client.close();
        server.close();
    }

    #[test]
    fn an_adopted_listener_has_what_waited_and_a_closed_one_ends_everywhere() {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), 16, options()).unwrap();
        let address = listener.address();
        let duplicate = listener.as_fd().try_clone_to_owned().unwrap();
        let client = connect(address, None).unwrap();
        drop(listener.detach());

        let adopted = Listener::adopt(duplicate, address, options()).unwrap();
        assert_eq!(adopted.address(), address);
        let mut epoll = Epoll::new(8).unwrap();
        epoll.add(&adopted, 1, Interest::Listener).unwrap();
        assert_eq!(epoll.wait(Some(Duration::from_secs(5))).unwrap(), 1);
        let (server, _) = adopted.accept().unwrap();

        let other = adopted.as_fd().try_clone_to_owned().unwrap();
        adopted.close();
        let refused = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let fault = Listener::adopt(other, address, options()).unwrap_err();
        assert_eq!(fault.kind(), io::ErrorKind::InvalidInput);
        client.close();
        server.close();
    }

    #[test]
    fn a_drop_without_a_verdict_is_counted() {
        let (client, server, _epoll) = pair();
        let before = dropped_without_verdict();
        drop(server);
        assert!(dropped_without_verdict() > before);
        client.close();
    }
}
