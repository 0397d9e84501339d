//! Who is who: instances, connections, sessions, and the epochs that fence their routes.
//!
//! Identity and address are two things. What is here identifies; nothing here is ever used to look up a socket.

use std::fmt;
use std::hash::Hasher;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;

/// First half of the fixed SipHash-2-4 key behind [`InstanceId::key`]: the ASCII bytes `imaccess`, big-endian.
const INSTANCE_KEY_0: u64 = u64::from_be_bytes(*b"imaccess");
/// Second half of that key: the ASCII bytes `instance`, big-endian.
const INSTANCE_KEY_1: u64 = u64::from_be_bytes(*b"instance");

/// Names one gateway pod (with its sidecar): the pod's UID, or a random id made with its volume.
///
/// A lost volume is a new instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub String);

impl InstanceId {
    /// A new random id (32 hexadecimal digits), for where no pod UID exists.
    #[must_use]
    pub fn random() -> InstanceId {
        InstanceId(hex::encode(random_16()))
    }

    /// The 64 bits that stand for this instance in every [`ConnId`].
    ///
    /// SipHash-2-4 of the id's bytes under a fixed, public key: all processes must agree on it, and an id comes from
    /// the platform, not from clients, so it needs no secret. Two of 10,000 instances share a key with
    /// probability 3 × 10⁻¹².
    #[must_use]
    pub fn key(&self) -> u64 {
        let mut hasher = SipHasher24::new_with_keys(INSTANCE_KEY_0, INSTANCE_KEY_1);
        hasher.write(self.0.as_bytes());
        hasher.finish()
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for InstanceId {
    fn from(id: &str) -> InstanceId {
        InstanceId(id.to_owned())
    }
}

/// Names a connection for life, also over a takeover: for logs, routes and fencing, never for look-up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ConnId {
    /// [`InstanceId::key`] of the instance where the connection was born.
    pub instance_key: u64,
    /// Incarnation and count at birth, as that gateway composed them; opaque to everyone else.
    pub serial: u64,
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.instance_key, self.serial)
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnId({self})")
    }
}

/// A session's own 128-bit id, random at its first login and kept over every resume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// A new id from the operating system's random source.
    #[must_use]
    pub fn random() -> SessionId {
        SessionId(random_16())
    }

    /// The id in `bytes`, if there are exactly sixteen.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<SessionId> {
        bytes.try_into().ok().map(SessionId)
    }

    /// The id's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// Fences the route of one (app, device): of two announcements the one with the higher epoch holds.
///
/// A hybrid logical clock: 48 bits of Unix milliseconds (until the year 10889), then 16 bits of counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Bits of the counter below the milliseconds.
    pub const COUNTER_BITS: u32 = 16;

    /// The Unix milliseconds in it: those of the stamping, or of the stamp it had to exceed.
    #[must_use]
    pub fn unix_ms(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Stamps epochs; shared by all threads of a process through one atomic.
///
/// Only epochs from sealed tickets or from routing may be given to [`stamp`](EpochClock::stamp): a forged one far
/// in the future would take the clock with it.
#[derive(Debug, Default)]
pub struct EpochClock {
    last: AtomicU64,
}

impl EpochClock {
    /// A clock that has stamped nothing.
    #[must_use]
    pub fn new() -> EpochClock {
        EpochClock::default()
    }

    /// A stamp greater than every earlier one of this clock and than `at_least_above`, and not before `unix_ms`.
    ///
    /// When the counter overflows (65,536 stamps in a millisecond) it borrows from the next millisecond. At the
    /// very end of the range, which no clock reaches, stamps stay equal instead of wrapping.
    pub fn stamp(&self, unix_ms: u64, at_least_above: Option<Epoch>) -> Epoch {
        let of_time = unix_ms.min(u64::MAX >> Epoch::COUNTER_BITS) << Epoch::COUNTER_BITS;
        let floor = at_least_above.map_or(of_time, |epoch| of_time.max(epoch.0.saturating_add(1)));
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let next = floor.max(last.saturating_add(1));
            match self
                .last
                .compare_exchange_weak(last, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Epoch(next),
                Err(seen) => last = seen,
            }
        }
    }
}

fn random_16() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system's random source works");
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_instance_key_is_the_same_in_every_build() {
        assert_eq!(InstanceId::from("a"), InstanceId("a".to_owned()));
        assert_eq!(InstanceId::from("pod-1").key(), InstanceId::from("pod-1").key());
        assert_ne!(InstanceId::from("pod-1").key(), InstanceId::from("pod-2").key());
        // A golden value: changing the hash would change every ConnId in routes and logs.
        assert_eq!(
            format!("{:016x}", InstanceId::from("pod-1").key()),
            "22270a8fc088974b"
        );
    }

    #[test]
    fn ids_print_as_thirty_two_digits() {
        let conn = ConnId {
            instance_key: 0xab,
            serial: 1,
        };
        assert_eq!(conn.to_string(), "00000000000000ab0000000000000001");
        assert_eq!(SessionId([0x0f; 16]).to_string(), "0f".repeat(16));
        assert_eq!(SessionId::from_slice(&[1; 15]), None);
        assert_eq!(SessionId::from_slice(&[1; 16]), Some(SessionId([1; 16])));
        assert_ne!(SessionId::random(), SessionId::random());
        assert_eq!(InstanceId::random().as_str().len(), 32);
    }

    proptest! {
        #[test]
        fn every_stamp_exceeds_all_it_must(
            steps in prop::collection::vec((0..1u64 << 48, prop::option::of(0..u64::MAX / 2)), 1..50),
        ) {
            let clock = EpochClock::new();
            let mut last = None;
            for (now, above) in steps {
                let stamp = clock.stamp(now, above.map(Epoch));
                prop_assert!(last.is_none_or(|last| stamp > last));
                prop_assert!(above.is_none_or(|above| stamp.0 > above));
                prop_assert!(stamp.unix_ms() >= now);
                last = Some(stamp);
            }
        }

        #[test]
        fn a_sane_clock_stamps_its_own_time(now in 1..1u64 << 47) {
            prop_assert_eq!(EpochClock::new().stamp(now, Some(Epoch(5))).unix_ms(), now);
        }
    }

    #[test]
    fn the_end_of_the_range_does_not_wrap() {
        let clock = EpochClock::new();
        assert_eq!(clock.stamp(u64::MAX, Some(Epoch(u64::MAX))), Epoch(u64::MAX));
        assert_eq!(clock.stamp(1, None), Epoch(u64::MAX));
    }

    #[test]
    fn threads_never_get_the_same_stamp() {
        let clock = EpochClock::new();
        let stamps: Vec<Epoch> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..5_000).map(|_| clock.stamp(7, None)).collect::<Vec<_>>()))
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(stamps.iter().collect::<HashSet<_>>().len(), 20_000);
    }
}
