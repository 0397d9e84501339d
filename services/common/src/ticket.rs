//! The sealed ticket: what a client shows to go on with its session on any gateway of the cluster.
//!
//! # Layout
//!
//! | bytes | what |
//! |---|---|
//! | 1 | `0x80` + generation; not there in generation 1 |
//! | 1 | key id, at most 127 |
//! | 16 | session id |
//! | 8 | epoch, big-endian |
//! | 4 | expiry in Unix seconds, big-endian |
//! | 1 + app + device | ciphertext of the app's length, the app and the device |
//! | 16 | AES-256-GCM tag |
//!
//! Everything before the ciphertext is clear and is the additional data, so no bit of a ticket can be changed. The
//! longest app and device give 95 bytes: under the 96 that an arena slot has, which leaves no room for a random nonce.
//!
//! Generation 1 begins with its key id, which is why key ids end at 127. Both are opened; sealed is the newest that this
//! process [speaks](crate::generation::spoken). One of a later generation is told apart
//! ([`UnknownGeneration`](TicketError::UnknownGeneration)), so that its holder logs in as if for the first time.
//!
//! # Why a fixed nonce is safe
//!
//! The AEAD key is made for each ticket: `HMAC-SHA256(cluster key, clear part)`, where the cluster key is
//! `HMAC-SHA256(master, "imaccess ticket v2" ‖ cluster)`, with the generation's own text, so that none is taken for one of
//! another. The nonce is zero. GCM breaks when one key and nonce seal two
//! different plaintexts. Here a derived key stands for exactly one (key id, cluster, session, epoch, expiry), and for
//! that the plaintext is always the same: a session belongs to one app and device from its first login on, and its
//! id is 128 random bits, never chosen by a client, so two sessions never share one. Sealing the same ticket twice
//! gives the same bytes and reveals nothing new. HMAC as a pseudo-random function keeps the derived keys
//! independent of each other.
//!
//! Because the cluster is part of the key, another cluster's ticket is [`Forged`](TicketError::Forged), even with the
//! same master key; callers treat that, like an unknown key, as an ordinary first login.

use std::fmt;
use std::ops::Deref;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;

use crate::generation;
use crate::identity::{Epoch, SessionId};

/// Longest app id in a ticket, in bytes.
pub const MAX_APP: usize = 12;
/// Longest device id in a ticket, in bytes: a UUID as text.
pub const MAX_DEVICE: usize = 36;
/// Bytes a sealed ticket may have.
pub const MAX_SEALED: usize = 96;

/// Highest key id: a first byte above it says a generation.
pub const MAX_KEY_ID: u8 = 0x7F;

/// Set in the first byte from generation 2 on.
const GENERATION_FLAG: u8 = 0x80;
/// Key id, session, epoch, expiry.
const FIELDS: usize = 1 + 16 + 8 + 4;
const TAG: usize = 16;

const _: () = assert!(1 + FIELDS + 1 + MAX_APP + MAX_DEVICE + TAG <= MAX_SEALED);

/// How a ticket is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Generation {
    /// Its first byte is the key id.
    First,
    /// Its first byte is the generation.
    Second,
}

impl Generation {
    /// What goes into the derivation of its keys.
    fn purpose(self) -> &'static [u8] {
        match self {
            Generation::First => b"imaccess ticket v1",
            Generation::Second => b"imaccess ticket v2",
        }
    }

    /// Bytes before the key id.
    fn prefix(self) -> usize {
        match self {
            Generation::First => 0,
            Generation::Second => 1,
        }
    }

    /// The newest that this process speaks and this code writes.
    fn newest() -> Generation {
        match generation::spoken().ticket.newest {
            0 | 1 => Generation::First,
            _ => Generation::Second,
        }
    }

    /// That of a sealed ticket.
    fn of(sealed: &[u8]) -> Result<Generation, TicketError> {
        match *sealed.first().ok_or(TicketError::Malformed)? {
            0..=MAX_KEY_ID => Ok(Generation::First),
            first => match first & !GENERATION_FLAG {
                0 | 1 => Err(TicketError::Malformed),
                2 => Ok(Generation::Second),
                _ => Err(TicketError::UnknownGeneration),
            },
        }
    }
}

/// What a ticket says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The session it continues.
    pub session: SessionId,
    /// The session's epoch when it was sealed; a resume stamps a higher one.
    pub epoch: Epoch,
    /// From this Unix second on it is worthless.
    pub expires_unix_s: u32,
    /// The app, at most [`MAX_APP`] bytes.
    pub app: String,
    /// The device, at most [`MAX_DEVICE`] bytes.
    pub device: String,
}

/// Why a ticket can't be sealed or isn't accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It names a key that isn't among ours (retired, or another cluster's).
    #[error("the ticket's key is unknown")]
    UnknownKey,
    /// It was sealed by a later version, in a way that isn't known here.
    #[error("the ticket is of a later generation")]
    UnknownGeneration,
    /// It has not a ticket's form.
    #[error("not a ticket")]
    Malformed,
    /// It wasn't sealed by this cluster's key, or was changed since.
    #[error("the ticket's seal is broken")]
    Forged,
    /// It is genuine and too old.
    #[error("the ticket has expired")]
    Expired,
    /// App or device are longer than a ticket can hold.
    #[error("app or device is too long for a ticket")]
    TooLong,
}

/// A ticket as it travels and as the gateway stores it: inline, copied like a number.
#[derive(Clone, Copy)]
pub struct SealedTicket {
    length: u8,
    bytes: [u8; MAX_SEALED],
}

impl SealedTicket {
    /// Takes bytes that came from elsewhere, unopened; none if there are more than [`MAX_SEALED`].
    #[must_use]
    pub fn from_slice(sealed: &[u8]) -> Option<SealedTicket> {
        let mut bytes = [0; MAX_SEALED];
        bytes.get_mut(..sealed.len())?.copy_from_slice(sealed);
        Some(SealedTicket {
            length: u8::try_from(sealed.len()).ok()?,
            bytes,
        })
    }
}

impl Deref for SealedTicket {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl AsRef<[u8]> for SealedTicket {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for SealedTicket {
    fn eq(&self, other: &SealedTicket) -> bool {
        **self == **other
    }
}

impl Eq for SealedTicket {}

/// A ticket is a credential: only its length is shown.
impl fmt::Debug for SealedTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedTicket({} bytes)", self.length)
    }
}

/// A cluster's ticket keys; the first seals, all open.
pub struct TicketKeys {
    /// Key id and the cluster's key of each generation; two or three while keys rotate, so that a scan is the fastest
    /// look-up.
    keys: Vec<(u8, [hmac::Key; 2])>,
    /// What is sealed.
    generation: Generation,
}

impl TicketKeys {
    /// Derives the cluster's keys from master keys with their ids. Of two with the same id the first counts. Without
    /// any, nothing can be sealed or opened ([`TicketError::UnknownKey`]). Ids are at most [`MAX_KEY_ID`]: one above it
    /// is not a key's, and is left out.
    #[must_use]
    pub fn new(cluster: &str, keys: Vec<(u8, [u8; 32])>) -> TicketKeys {
        let of_cluster = |(id, master): (u8, [u8; 32])| {
            let master = hmac::Key::new(hmac::HMAC_SHA256, &master);
            let of_generation = |generation: Generation| {
                let mut derivation = hmac::Context::with_key(&master);
                derivation.update(generation.purpose());
                derivation.update(cluster.as_bytes());
                hmac::Key::new(hmac::HMAC_SHA256, derivation.sign().as_ref())
            };
            (id, [Generation::First, Generation::Second].map(of_generation))
        };
        let keys = keys.into_iter().filter(|(id, _)| *id <= MAX_KEY_ID);
        TicketKeys {
            keys: keys.map(of_cluster).collect(),
            generation: Generation::newest(),
        }
    }

    /// Seals with the first key. The same ticket always gives the same bytes.
    pub fn seal(&self, ticket: &Ticket) -> Result<SealedTicket, TicketError> {
        let (app, device) = (ticket.app.as_bytes(), ticket.device.as_bytes());
        if app.len() > MAX_APP || device.len() > MAX_DEVICE {
            return Err(TicketError::TooLong);
        }
        let (id, keys) = self.keys.first().ok_or(TicketError::UnknownKey)?;
        let mut bytes = [0; MAX_SEALED];
        let prefix = self.generation.prefix();
        bytes[0] = GENERATION_FLAG | 2;
        let fields = &mut bytes[prefix..prefix + FIELDS];
        fields[0] = *id;
        fields[1..17].copy_from_slice(ticket.session.as_bytes());
        fields[17..25].copy_from_slice(&ticket.epoch.0.to_be_bytes());
        fields[25..29].copy_from_slice(&ticket.expires_unix_s.to_be_bytes());
        let (clear, rest) = bytes.split_at_mut(prefix + FIELDS);
        let (app_at, device_at) = (1, 1 + app.len());
        let plain = device_at + device.len();
        rest[0] = app.len() as u8;
        rest[app_at..device_at].copy_from_slice(app);
        rest[device_at..plain].copy_from_slice(device);
        let tag = ticket_key(&keys[self.generation as usize], clear)
            .seal_in_place_separate_tag(nonce(), Aad::from(&*clear), &mut rest[..plain])
            .expect("AES-GCM seals fifty bytes");
        rest[plain..plain + TAG].copy_from_slice(tag.as_ref());
        Ok(SealedTicket {
            length: (prefix + FIELDS + plain + TAG) as u8,
            bytes,
        })
    }

    /// Opens and checks. Whether it has expired is only told of a genuine one.
    pub fn open(&self, sealed: &[u8], now_unix_s: u32) -> Result<Ticket, TicketError> {
        let generation = Generation::of(sealed)?;
        let prefix = generation.prefix();
        if sealed.len() > MAX_SEALED || sealed.len() < prefix + FIELDS + 1 + TAG {
            return Err(TicketError::Malformed);
        }
        let (clear, rest) = sealed.split_at(prefix + FIELDS);
        let fields = &clear[prefix..];
        let (_, keys) = self
            .keys
            .iter()
            .find(|(id, _)| *id == fields[0])
            .ok_or(TicketError::UnknownKey)?;
        let mut opened = [0; MAX_SEALED - FIELDS];
        let opened = &mut opened[..rest.len()];
        opened.copy_from_slice(rest);
        let plain = ticket_key(&keys[generation as usize], clear)
            .open_in_place(nonce(), Aad::from(clear), opened)
            .map_err(|_| TicketError::Forged)?;
        let expires_unix_s = u32::from_be_bytes(array(&fields[25..29]));
        if now_unix_s >= expires_unix_s {
            return Err(TicketError::Expired);
        }
        let (app, device) = plain[1..]
            .split_at_checked(usize::from(plain[0]))
            .ok_or(TicketError::Malformed)?;
        let text = |bytes: &[u8]| {
            std::str::from_utf8(bytes)
                .map(str::to_owned)
                .map_err(|_| TicketError::Malformed)
        };
        Ok(Ticket {
            session: SessionId(array(&fields[1..17])),
            epoch: Epoch(u64::from_be_bytes(array(&fields[17..25]))),
            expires_unix_s,
            app: text(app)?,
            device: text(device)?,
        })
    }
}

/// Keys are never shown.
impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.keys.iter().map(|(id, _)| id))
            .finish()
    }
}

fn ticket_key(cluster_key: &hmac::Key, clear: &[u8]) -> LessSafeKey {
    let derived = hmac::sign(cluster_key, clear);
    let key =
        UnboundKey::new(&AES_256_GCM, derived.as_ref()).expect("HMAC-SHA256 gives the 32 bytes of the key");
    LessSafeKey::new(key)
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the caller slices N bytes")
}

#[cfg(test)]
mod tests;
