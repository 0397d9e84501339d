//! Payloads whose every byte follows from who sends them and their number, and that look like the protocol's own
//! frames: a part that loses its place in a stream finds plausible headers everywhere.

use fastrand::Rng;
use imaccess_wire::Code;
use imaccess_wire::frame::{Close, Ping, Reply};
use imaccess_wire::header::{MAGIC, VERSION};

/// At the end of every payload that has room for it: who, number, length, checksum of all that.
pub const TAG: usize = 24;

/// Who sends it, and which one it is. The content follows from this alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Of the whole load.
    pub seed: u64,
    /// The client's number, or one of the pusher's.
    pub who: u32,
    /// A client's message id, or the pusher's count.
    pub number: u64,
}

/// How long payloads are.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    /// Shortest, in bytes.
    pub least: usize,
    /// Longest, in bytes.
    pub most: usize,
}

/// What came, against what should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every byte is right.
    Right,
    /// It is whole, and somebody else's, or another one's.
    Foreign,
    /// It is no whole payload of this load.
    Torn,
}

/// Appends the payload.
pub fn fill(origin: Origin, length: Length, out: &mut Vec<u8>) {
    let mut random = Rng::with_seed(mix(origin));
    let start = out.len();
    let wanted = random.usize(length.least..=length.most);
    let front = wanted.saturating_sub(TAG);
    match random.u8(0..8) {
        0 => header(&mut random, out),
        1 => frame(&mut random, out),
        2 => {
            let before = random.usize(..=front.min(64));
            noise(&mut random, before, out);
            frame(&mut random, out);
        }
        3 => (0..=front / 2).for_each(|_| out.extend_from_slice(&[MAGIC, VERSION])),
        4 => {
            while out.len() - start < front {
                frame(&mut random, out);
            }
        }
        _ => {}
    }
    let so_far = out.len() - start;
    if so_far < wanted {
        noise(&mut random, wanted - so_far, out);
    }
    if wanted < TAG {
        out.truncate(start + wanted);
        return;
    }
    out.truncate(start + front);
    let sum = checksum(&out[start..], origin.who, origin.number);
    out.extend_from_slice(&origin.who.to_be_bytes());
    out.extend_from_slice(&origin.number.to_be_bytes());
    out.extend_from_slice(&u32::try_from(wanted).expect("payloads are short").to_be_bytes());
    out.extend_from_slice(&sum.to_be_bytes());
}

/// Compares what came with what should have; `scratch` is only for its memory.
pub fn judge(origin: Origin, length: Length, got: &[u8], scratch: &mut Vec<u8>) -> Verdict {
    scratch.clear();
    fill(origin, length, scratch);
    if scratch == got {
        Verdict::Right
    } else if tag(got).is_some() {
        Verdict::Foreign
    } else {
        Verdict::Torn
    }
}

/// Who and which number a payload says that it is of, if its tag and checksum fit it.
#[must_use]
pub fn tag(payload: &[u8]) -> Option<(u32, u64)> {
    let (front, tag) = payload.split_at_checked(payload.len().checked_sub(TAG)?)?;
    let who = u32::from_be_bytes(*tag.first_chunk()?);
    let number = u64::from_be_bytes(*tag.get(4..)?.first_chunk()?);
    let length = u32::from_be_bytes(*tag.get(12..)?.first_chunk()?);
    let sum = u64::from_be_bytes(*tag.get(16..)?.first_chunk()?);
    let fits = usize::try_from(length).is_ok_and(|length| length == payload.len())
        && sum == checksum(front, who, number);
    fits.then_some((who, number))
}

fn noise(random: &mut Rng, count: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + count, 0);
    random.fill(&mut out[start..]);
}

/// A header alone: of any type, for a body of any length.
fn header(random: &mut Rng, out: &mut Vec<u8>) {
    out.extend_from_slice(&[MAGIC, VERSION, random.u8(1..=17), random.u8(0..2)]);
    out.extend_from_slice(&random.u32(..=65_536).to_be_bytes());
}

/// A whole frame as a gateway or a client might send.
fn frame(random: &mut Rng, out: &mut Vec<u8>) {
    match random.u8(0..3) {
        0 => Reply {
            message_id: random.u64(1..100),
            payload: b"forged",
            ..Reply::default()
        }
        .encode(out),
        1 => Close::with_code(Code::Kicked).encode(out),
        _ => Ping::default().encode(out),
    }
}

fn mix(origin: Origin) -> u64 {
    let who = u64::from(origin.who).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let number = origin.number.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (origin.seed ^ who.rotate_left(17)).wrapping_add(number)
}

/// Detects accidents; nobody here means harm.
fn checksum(front: &[u8], who: u32, number: u64) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01B3;
    let mut sum = 0xCBF2_9CE4_8422_2325 ^ u64::from(who) ^ number.rotate_left(32);
    let mut words = front.chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(*word.first_chunk().expect("chunks of eight"));
        sum = (sum ^ word).wrapping_mul(PRIME).rotate_left(23);
    }
    words
        .remainder()
        .iter()
        .fold(sum, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Length = Length { least: 0, most: 300 };

    fn made(who: u32, number: u64) -> Vec<u8> {
        let mut out = b"before".to_vec();
        let origin = Origin { seed: 1, who, number };
        fill(origin, LENGTH, &mut out);
        out.split_off(6)
    }

    #[test]
    fn a_payload_is_its_own_and_nobody_elses() {
        let mut scratch = Vec::new();
        for number in 1..500 {
            let origin = Origin {
                seed: 1,
                who: 7,
                number,
            };
            let payload = made(7, number);
            assert!(payload.len() <= LENGTH.most);
            assert_eq!(judge(origin, LENGTH, &payload, &mut scratch), Verdict::Right);
            let other = made(8, number);
            if other.len() >= TAG {
                assert_eq!(tag(&other), Some((8, number)));
                assert_eq!(judge(origin, LENGTH, &other, &mut scratch), Verdict::Foreign);
            }
        }
    }

    #[test]
    fn a_torn_payload_is_found_wherever_it_is_torn() {
        let (number, payload) = (1..)
            .map(|number| (number, made(7, number)))
            .find(|(_, payload)| payload.len() > 2 * TAG)
            .unwrap();
        let origin = Origin {
            seed: 1,
            who: 7,
            number,
        };
        let mut scratch = Vec::new();
        for at in 0..payload.len() {
            let mut flipped = payload.clone();
            flipped[at] ^= 0x10;
            assert_ne!(
                judge(origin, LENGTH, &flipped, &mut scratch),
                Verdict::Right,
                "{at}"
            );
            assert_eq!(
                judge(origin, LENGTH, &payload[..at], &mut scratch),
                Verdict::Torn,
                "{at}"
            );
        }
    }
}
