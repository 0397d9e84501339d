//! The sealed ticket: what a client shows to go on with its session on any gateway of the cluster.
//!
//! # Layout
//!
//! | bytes | what |
//! |---|---|
//! | 1 | key id |
//! | 16 | session id |
//! | 8 | epoch, big-endian |
//! | 4 | expiry in Unix seconds, big-endian |
//! | 1 + app + device | ciphertext of the app's length, the app and the device |
//! | 16 | AES-256-GCM tag |
//!
//! The first 29 bytes are clear and are the additional data, so no bit of a ticket can be changed. The longest app
//! and device give 94 bytes: under the 96 that an arena slot has, which leaves no room for a random nonce.
//!
//! # Why a fixed nonce is safe
//!
//! The AEAD key is made for each ticket: `HMAC-SHA256(cluster key, clear part)`, where the cluster key is
//! `HMAC-SHA256(master, "imaccess ticket v1" ‖ cluster)`. The nonce is zero. GCM breaks when one key and nonce seal two
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

use crate::identity::{Epoch, SessionId};

/// Longest app id in a ticket, in bytes.
pub const MAX_APP: usize = 12;
/// Longest device id in a ticket, in bytes: a UUID as text.
pub const MAX_DEVICE: usize = 36;
/// Bytes a sealed ticket may have.
pub const MAX_SEALED: usize = 96;

/// Key id, session, epoch, expiry.
const CLEAR: usize = 1 + 16 + 8 + 4;
const TAG: usize = 16;
const PURPOSE: &[u8] = b"imaccess ticket v1";

const _: () = assert!(CLEAR + 1 + MAX_APP + MAX_DEVICE + TAG <= MAX_SEALED);

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
    /// Key id and cluster key; two or three while keys rotate, so that a scan is the fastest look-up.
    keys: Vec<(u8, hmac::Key)>,
}

impl TicketKeys {
    /// Derives the cluster's keys from master keys with their ids. Of two with the same id the first counts. Without
    /// any, nothing can be sealed or opened ([`TicketError::UnknownKey`]).
    #[must_use]
    pub fn new(cluster: &str, keys: Vec<(u8, [u8; 32])>) -> TicketKeys {
        let of_cluster = |(id, master): (u8, [u8; 32])| {
            let mut derivation = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &master));
            derivation.update(PURPOSE);
            derivation.update(cluster.as_bytes());
            (id, hmac::Key::new(hmac::HMAC_SHA256, derivation.sign().as_ref()))
        };
        TicketKeys {
            keys: keys.into_iter().map(of_cluster).collect(),
        }
    }

    /// Seals with the first key. The same ticket always gives the same bytes.
    pub fn seal(&self, ticket: &Ticket) -> Result<SealedTicket, TicketError> {
        let (app, device) = (ticket.app.as_bytes(), ticket.device.as_bytes());
        if app.len() > MAX_APP || device.len() > MAX_DEVICE {
            return Err(TicketError::TooLong);
        }
        let (id, key) = self.keys.first().ok_or(TicketError::UnknownKey)?;
        let mut bytes = [0; MAX_SEALED];
        bytes[0] = *id;
        bytes[1..17].copy_from_slice(ticket.session.as_bytes());
        bytes[17..25].copy_from_slice(&ticket.epoch.0.to_be_bytes());
        bytes[25..29].copy_from_slice(&ticket.expires_unix_s.to_be_bytes());
        let (clear, rest) = bytes.split_at_mut(CLEAR);
        let (app_at, device_at) = (1, 1 + app.len());
        let plain = device_at + device.len();
        rest[0] = app.len() as u8;
        rest[app_at..device_at].copy_from_slice(app);
        rest[device_at..plain].copy_from_slice(device);
        let tag = ticket_key(key, clear)
            .seal_in_place_separate_tag(nonce(), Aad::from(&*clear), &mut rest[..plain])
            .expect("AES-GCM seals fifty bytes");
        rest[plain..plain + TAG].copy_from_slice(tag.as_ref());
        Ok(SealedTicket {
            length: (CLEAR + plain + TAG) as u8,
            bytes,
        })
    }

    /// Opens and checks. Whether it has expired is only told of a genuine one.
    pub fn open(&self, sealed: &[u8], now_unix_s: u32) -> Result<Ticket, TicketError> {
        if sealed.len() > MAX_SEALED || sealed.len() < CLEAR + 1 + TAG {
            return Err(TicketError::Malformed);
        }
        let (clear, rest) = sealed.split_at(CLEAR);
        let (_, key) = self
            .keys
            .iter()
            .find(|(id, _)| *id == clear[0])
            .ok_or(TicketError::UnknownKey)?;
        let mut opened = [0; MAX_SEALED - CLEAR];
        let opened = &mut opened[..rest.len()];
        opened.copy_from_slice(rest);
        let plain = ticket_key(key, clear)
            .open_in_place(nonce(), Aad::from(clear), opened)
            .map_err(|_| TicketError::Forged)?;
        let expires_unix_s = u32::from_be_bytes(array(&clear[25..29]));
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
            session: SessionId(array(&clear[1..17])),
            epoch: Epoch(u64::from_be_bytes(array(&clear[17..25]))),
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
