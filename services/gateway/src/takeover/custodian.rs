//! Taking everything back from the custodian, at the start and in one go.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use imaccess_common::generation;
use imaccess_net::descriptors::DescriptorSocket;
use imaccess_proto::v1::{
    FromCustodian, HeldKind, ReturnAck, TakeBack, ToCustodian, from_custodian, to_custodian,
};
use prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::TakenBack;
use crate::volume::Incarnation;

/// For one answer of the custodian, which has nothing else to do; longer means that it hangs.
const ANSWER: Duration = Duration::from_secs(5);

/// Why nothing could be taken back. Nothing is lost by it: the custodian goes on holding what it has.
#[derive(Debug, thiserror::Error)]
pub enum TakeBackError {
    /// It refuses this gateway.
    #[error("the custodian refuses this gateway: {0}")]
    Refused(String),
    /// It says what can't be understood.
    #[error("the custodian's answer can't be understood: {0}")]
    Strange(String),
    /// The connection to it failed.
    #[error("the custodian can't be spoken with")]
    Io(#[from] io::Error),
}

/// Takes back everything that is held. `None`: nobody holds anything, for no custodian is there.
pub(crate) fn take_back(path: &Path, identity: &Incarnation) -> Result<Option<TakenBack>, TakeBackError> {
    let socket = match DescriptorSocket::connect(path) {
        Ok(socket) => socket,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let span = generation::spoken().custody;
    say(
        &socket,
        to_custodian::Message::TakeBack(TakeBack {
            oldest_generation: span.oldest,
            newest_generation: span.newest,
            instance: identity.instance.as_str().to_owned(),
            incarnation: identity.number,
        }),
    )?;
    let mut taken = TakenBack::default();
    let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
    loop {
        match hear(&socket, &mut bytes, &mut descriptors)? {
            from_custodian::Message::Return(returned) => {
                if returned.held.len() != descriptors.len() {
                    return Err(TakeBackError::Strange(format!(
                        "{} records with {} descriptors",
                        returned.held.len(),
                        descriptors.len()
                    )));
                }
                for (held, descriptor) in returned.held.into_iter().zip(descriptors.drain(..)) {
                    match held.kind() {
                        HeldKind::Listener => taken.listeners.push((held, descriptor)),
                        HeldKind::Socket | HeldKind::Unspecified => taken.sockets.push((held, descriptor)),
                    }
                }
                say(&socket, to_custodian::Message::ReturnAck(ReturnAck {}))?;
            }
            from_custodian::Message::ReturnDone(done) => {
                let (sockets, listeners) = (taken.sockets.len(), taken.listeners.len());
                if (done.sockets as usize, done.listeners as usize) != (sockets, listeners) {
                    return Err(TakeBackError::Strange(format!(
                        "{sockets} sockets and {listeners} listeners came of {} and {}",
                        done.sockets, done.listeners
                    )));
                }
                return Ok(Some(taken));
            }
            from_custodian::Message::Refused(refused) => return Err(TakeBackError::Refused(refused.reason)),
            other => return Err(TakeBackError::Strange(format!("{other:?}"))),
        }
    }
}

fn say(socket: &DescriptorSocket, message: to_custodian::Message) -> io::Result<()> {
    let bytes = ToCustodian {
        message: Some(message),
    }
    .encode_to_vec();
    loop {
        match socket.send(&bytes, &[]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(socket, PollFlags::OUT)?,
            done => return done,
        }
    }
}

fn hear(
    socket: &DescriptorSocket,
    bytes: &mut Vec<u8>,
    descriptors: &mut Vec<OwnedFd>,
) -> Result<from_custodian::Message, TakeBackError> {
    loop {
        match socket.receive(bytes, descriptors) {
            Ok(0) => return Err(TakeBackError::Strange("it hung up".to_owned())),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(socket, PollFlags::IN)?,
            Err(error) => return Err(error.into()),
        }
    }
    FromCustodian::decode(&bytes[..])
        .map_err(|fault| TakeBackError::Strange(fault.to_string()))?
        .message
        .ok_or_else(|| TakeBackError::Strange("an empty message".to_owned()))
}

fn wait(socket: &DescriptorSocket, flags: PollFlags) -> io::Result<()> {
    let deadline = Instant::now() + ANSWER;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let fd = socket.as_fd();
        match poll(&mut [PollFd::new(&fd, flags)], Some(&timeout)) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("the custodian didn't answer within {} s", ANSWER.as_secs()),
                ));
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
