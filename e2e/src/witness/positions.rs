//! Which pushes a client got: their content, and that they rise.

use super::book::Seen;
use super::payload::{self, Length, Origin, TAG, Verdict};

/// The pusher's number among the clients', for pushes to the group.
pub const GROUP_PUSHER: u32 = u32::MAX;
/// As [`GROUP_PUSHER`], for pushes to devices.
pub const DEVICE_PUSHER: u32 = u32::MAX - 1;
/// A tag at least: only that says which push it is.
pub const PUSH: Length = Length {
    least: TAG,
    most: 256,
};

/// The last push of each kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Positions {
    /// Numbering stream and number of the last group push.
    pub group: (u64, u64),
    group_number: u64,
    device_number: u64,
}

impl Positions {
    /// A group push came, at this place of the group's numbering.
    pub fn group_push(&mut self, seed: u64, place: (u64, u64), content: &[u8], seen: &mut Seen) {
        seen.group_pushes += 1;
        let (epoch, sequence) = place;
        if epoch == self.group.0 {
            if sequence <= self.group.1 {
                seen.repeated_pushes += 1;
                return;
            }
            seen.missed
                .extend((self.group.1 + 1..sequence).map(|number| (epoch, number)));
        }
        self.group = place;
        if let Some(number) = number(seed, GROUP_PUSHER, content, seen) {
            seen.repeated_pushes += u64::from(number <= self.group_number);
            self.group_number = number;
        }
    }

    /// A push to this device came.
    pub fn device_push(&mut self, seed: u64, content: &[u8], seen: &mut Seen) {
        seen.device_pushes += 1;
        if let Some(number) = number(seed, DEVICE_PUSHER, content, seen) {
            seen.repeated_pushes += u64::from(number <= self.device_number);
            self.device_number = number;
        }
    }
}

/// The number of a push whose content is right.
fn number(seed: u64, who: u32, content: &[u8], seen: &mut Seen) -> Option<u64> {
    let Some((_, number)) = payload::tag(content).filter(|(by, _)| *by == who) else {
        seen.torn += 1;
        return None;
    };
    let origin = Origin { seed, who, number };
    match payload::judge(origin, PUSH, content, &mut seen.scratch) {
        Verdict::Right => return Some(number),
        Verdict::Foreign => seen.foreign += 1,
        Verdict::Torn => seen.torn += 1,
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(who: u32, number: u64) -> Vec<u8> {
        let mut content = Vec::new();
        payload::fill(Origin { seed: 9, who, number }, PUSH, &mut content);
        content
    }

    #[test]
    fn group_pushes_rise_and_gaps_are_counted() {
        let (mut positions, mut seen) = (Positions::default(), Seen::default());
        for (sequence, number) in [(10, 1), (11, 2), (14, 5)] {
            positions.group_push(9, (5, sequence), &content(GROUP_PUSHER, number), &mut seen);
        }
        assert_eq!(
            (seen.group_pushes, &seen.missed[..], seen.repeated_pushes),
            (3, &[(5, 12), (5, 13)][..], 0)
        );
        positions.group_push(9, (5, 14), &content(GROUP_PUSHER, 5), &mut seen);
        assert_eq!(seen.repeated_pushes, 1);
        // In another numbering stream nothing is missing, but an old push is still one that came before.
        positions.group_push(9, (6, 1), &content(GROUP_PUSHER, 5), &mut seen);
        assert_eq!((seen.repeated_pushes, seen.missed.len()), (2, 2));
        assert_eq!((positions.group, seen.torn, seen.foreign), ((6, 1), 0, 0));
    }

    #[test]
    fn content_is_the_pushers_and_whole() {
        let (mut positions, mut seen) = (Positions::default(), Seen::default());
        let mut bent = content(DEVICE_PUSHER, 1);
        bent[0] ^= 1;
        positions.device_push(9, &bent, &mut seen);
        positions.device_push(9, &content(GROUP_PUSHER, 1), &mut seen);
        positions.device_push(9, b"short", &mut seen);
        assert_eq!((seen.torn, seen.device_pushes), (3, 3));
        positions.device_push(9, &content(DEVICE_PUSHER, 1), &mut seen);
        assert_eq!((seen.torn, seen.repeated_pushes), (3, 0));
    }
}
