use proptest::prelude::*;

use super::*;

const NOW: u32 = 1_800_000_000;

fn ticket(app: &str, device: &str) -> Ticket {
    Ticket {
        session: SessionId([7; 16]),
        epoch: Epoch(0x0102_0304_0506_0708),
        expires_unix_s: NOW + 60,
        app: app.to_owned(),
        device: device.to_owned(),
    }
}

fn keys(cluster: &str) -> TicketKeys {
    TicketKeys::new(cluster, vec![(2, [2; 32]), (1, [1; 32])])
}

/// Keys that seal as the version before did.
fn first_generation(cluster: &str) -> TicketKeys {
    TicketKeys {
        generation: Generation::First,
        ..keys(cluster)
    }
}

#[test]
fn the_longest_ids_fit_and_longer_ones_are_refused() {
    let longest = ticket(&"a".repeat(MAX_APP), &"d".repeat(MAX_DEVICE));
    let sealed = keys("a").seal(&longest).unwrap();
    assert_eq!(sealed.len(), 95);
    assert_eq!(keys("a").open(&sealed, NOW), Ok(longest));
    assert_eq!(
        keys("a").seal(&ticket(&"a".repeat(MAX_APP + 1), "d")),
        Err(TicketError::TooLong)
    );
    assert_eq!(
        keys("a").seal(&ticket("a", &"d".repeat(MAX_DEVICE + 1))),
        Err(TicketError::TooLong)
    );
    assert!(size_of::<SealedTicket>() <= MAX_SEALED + 1);
}

#[test]
fn the_clear_part_is_where_the_layout_says() {
    for (keys, prefix) in [(keys("a"), &[0x82][..]), (first_generation("a"), &[])] {
        let sealed = keys.seal(&ticket("app", "device")).unwrap();
        let fields = sealed.strip_prefix(prefix).unwrap();
        assert_eq!(fields[0], 2);
        assert_eq!(fields[1..17], [7; 16]);
        assert_eq!(fields[17..25], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(fields[25..29], (NOW + 60).to_be_bytes());
        assert_eq!(fields.len(), FIELDS + 1 + 3 + 6 + TAG);
        assert!(
            !sealed.windows(6).any(|window| window == b"device"),
            "ids travel encrypted"
        );
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let keys = keys("a");
    let sealed = keys.seal(&ticket("app", "device")).unwrap();
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        let verdict = keys.open(&changed, NOW).unwrap_err();
        let ours = |id: u8| keys.keys.iter().any(|(other, _)| *other == id);
        let expected = match changed[0] {
            // As one of generation 1, whose key id is 2: another key.
            0x02 => TicketError::Forged,
            0x80 | 0x81 => TicketError::Malformed,
            0x82 if !ours(changed[1]) => TicketError::UnknownKey,
            0x82 => TicketError::Forged,
            _ => TicketError::UnknownGeneration,
        };
        assert_eq!(verdict, expected, "bit {bit}");
    }
}

#[test]
fn every_other_length_is_refused() {
    let keys = keys("a");
    let sealed = keys.seal(&ticket("app", "device")).unwrap();
    for length in 0..sealed.len() {
        let verdict = keys.open(&sealed[..length], NOW).unwrap_err();
        assert!(
            matches!(verdict, TicketError::Malformed | TicketError::Forged),
            "{length}"
        );
    }
    let longer = [&sealed[..], &[0; 70]].concat();
    for length in sealed.len() + 1..longer.len() {
        assert!(keys.open(&longer[..length], NOW).is_err(), "{length}");
    }
}

#[test]
fn another_cluster_or_key_does_not_open_it() {
    let sealed = keys("a").seal(&ticket("app", "device")).unwrap();
    assert_eq!(keys("b").open(&sealed, NOW), Err(TicketError::Forged));
    assert_eq!(
        TicketKeys::new("a", vec![(2, [9; 32])]).open(&sealed, NOW),
        Err(TicketError::Forged)
    );
    assert_eq!(
        TicketKeys::new("a", vec![(3, [2; 32])]).open(&sealed, NOW),
        Err(TicketError::UnknownKey)
    );
    assert_eq!(
        TicketKeys::new("a", Vec::new()).open(&sealed, NOW),
        Err(TicketError::UnknownKey)
    );
    assert_eq!(
        TicketKeys::new("a", Vec::new()).seal(&ticket("a", "d")),
        Err(TicketError::UnknownKey)
    );
}

#[test]
fn keys_rotate() {
    let old = TicketKeys::new("a", vec![(1, [1; 32])]);
    let sealed = old.seal(&ticket("app", "device")).unwrap();
    assert_eq!(keys("a").open(&sealed, NOW), Ok(ticket("app", "device")));
    assert_eq!(keys("a").seal(&ticket("app", "device")).unwrap()[1], 2);
}

#[test]
fn both_generations_open_and_a_later_one_is_told_apart() {
    let (first, second) = (first_generation("a"), keys("a"));
    let ticket = ticket("app", "device");
    let (old, new) = (first.seal(&ticket).unwrap(), second.seal(&ticket).unwrap());
    for keys in [&first, &second] {
        assert_eq!(keys.open(&old, NOW), Ok(ticket.clone()));
        assert_eq!(keys.open(&new, NOW), Ok(ticket.clone()));
    }
    // One dressed as the other.
    assert_eq!(
        second.open(&[&[0x82], &old[..]].concat(), NOW),
        Err(TicketError::Forged)
    );
    assert_eq!(second.open(&new[1..], NOW), Err(TicketError::Forged));
    let mut later = new.to_vec();
    later[0] = 0x83;
    assert_eq!(second.open(&later, NOW), Err(TicketError::UnknownGeneration));
    assert_eq!(
        second.open(&[0xFF; 120], NOW),
        Err(TicketError::UnknownGeneration)
    );
    assert_eq!(second.open(&[], NOW), Err(TicketError::Malformed));
}

/// What any version must open, byte for byte.
#[test]
fn golden_tickets() {
    let ticket = ticket("app", "device");
    let golden = [
        (
            first_generation("a"),
            "020707070707070707070707070707070701020304050607086b49d23c70b8dfcca20011309f12a078f42c97106050bbe169964c5736e6",
        ),
        (
            keys("a"),
            "82020707070707070707070707070707070701020304050607086b49d23c0713416065d54fd9d4883bf18392bd27d719a365b664558e7fa6",
        ),
    ];
    for (keys, bytes) in golden {
        assert_eq!(hex::encode(&*keys.seal(&ticket).unwrap()), bytes);
        assert_eq!(keys.open(&hex::decode(bytes).unwrap(), NOW), Ok(ticket.clone()));
    }
}

#[test]
fn a_key_id_that_would_be_a_generation_is_none() {
    let keys = TicketKeys::new("a", vec![(130, [2; 32]), (127, [1; 32])]);
    assert_eq!(format!("{keys:?}"), "[127]");
    assert!(keys.open(&keys.seal(&ticket("a", "d")).unwrap(), NOW).is_ok());
}

#[test]
fn expiry_is_told_of_genuine_tickets_only() {
    let keys = keys("a");
    let sealed = keys.seal(&ticket("app", "device")).unwrap();
    assert!(keys.open(&sealed, NOW + 59).is_ok());
    assert_eq!(keys.open(&sealed, NOW + 60), Err(TicketError::Expired));
    let mut later = sealed.to_vec();
    later[26] ^= 1;
    assert_eq!(keys.open(&later, NOW), Err(TicketError::Forged));
}

#[test]
fn nothing_secret_is_shown() {
    let keys = keys("a");
    let sealed = keys.seal(&ticket("app", "device")).unwrap();
    assert_eq!(format!("{sealed:?} {keys:?}"), "SealedTicket(56 bytes) [2, 1]");
    assert_eq!(SealedTicket::from_slice(&sealed), Some(sealed));
    assert_eq!(SealedTicket::from_slice(&[0; MAX_SEALED + 1]), None);
}

proptest! {
    #[test]
    fn what_is_sealed_opens(
        session: [u8; 16], epoch: u64, expires in 1_u32.., app in "[a-zä]{0,6}", device in "[0-9a-f-]{0,36}",
    ) {
        let ticket = Ticket { session: SessionId(session), epoch: Epoch(epoch), expires_unix_s: expires, app, device };
        let keys = keys("c");
        let sealed = keys.seal(&ticket).unwrap();
        prop_assert_eq!(sealed, keys.seal(&ticket).unwrap());
        prop_assert_eq!(keys.open(&sealed, expires - 1), Ok(ticket));
    }

    #[test]
    fn garbage_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        prop_assert!(keys("c").open(&bytes, 0).is_err());
    }
}
