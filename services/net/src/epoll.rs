//! One epoll set. Client sockets are registered once, edge-triggered for reading and writing, so that no
//! connection costs another `epoll_ctl` during its life.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Edge-triggered, both directions: the owner reads until a short read and writes until refused.
    Stream,
    /// Level-triggered, readable: listeners, of which only some connections are taken per turn.
    Listener,
}

/// One readiness event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The number that the descriptor was added with.
    pub token: u64,
    /// Bytes, an end of stream or an error can be read.
    pub readable: bool,
    /// The peer has shut its side, or the connection failed: read until the end shows.
    pub hung_up: bool,
    /// More can be written.
    pub writable: bool,
}

/// An epoll set and the buffer that its events are read into.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Epoll {
    /// A new set that hands out at most `batch` events at a time.
    ///
    /// # Errors
    /// The kernel's, such as too many open descriptors.
    pub fn new(batch: usize) -> io::Result<Self> {
        Ok(Self {
            fd: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(batch),
        })
    }

    /// Watches a descriptor; its events carry `token`.
    ///
    /// # Errors
    /// The kernel's, such as no memory for another watch.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(
            &self.fd,
            fd,
            EventData::new_u64(token),
            flags(interest),
        )?)
    }

    /// Watches a descriptor no longer. (Closing it does the same, unless a duplicate is open elsewhere.)
    ///
    /// # Errors
    /// The kernel's, when it wasn't watched.
    pub fn delete(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.fd, fd)?)
    }

    /// Waits at most `timeout` (`None`: as long as it takes; zero: not at all) and returns how many events came.
    /// A signal counts as none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        self.events.clear();
        let timeout = timeout.map(|time| rustix::time::Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        let spare = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.fd, spare, timeout.as_ref()) {
            Ok(_) => Ok(self.events.len()),
            Err(rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// How many events one wait can bring: as many means that more may be waiting.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.events.capacity()
    }

    /// The `index`-th event of the last wait.
    #[inline]
    #[must_use]
    pub fn event(&self, index: usize) -> Ready {
        let event = self.events[index];
        let flags = event.flags;
        Ready {
            token: event.data.u64(),
            readable: flags
                .intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR),
            hung_up: flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR),
            writable: flags.contains(EventFlags::OUT),
        }
    }
}

impl std::fmt::Debug for Epoll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Epoll")
            .field("fd", &self.fd)
            .field("batch", &self.batch())
            .finish()
    }
}

fn flags(interest: Interest) -> EventFlags {
    match interest {
        Interest::Stream => EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET,
        Interest::Listener => EventFlags::IN,
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
