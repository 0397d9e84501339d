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

#[test]
fn the_longest_ids_fit_and_longer_ones_are_refused() {
    let longest = ticket(&"a".repeat(MAX_APP), &"d".repeat(MAX_DEVICE));
    let sealed = keys("a").seal(&longest).unwrap();
    assert_eq!(sealed.len(), 94);
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
    let sealed = keys("a").seal(&ticket("app", "device")).unwrap();
    assert_eq!(sealed[0], 2);
    assert_eq!(sealed[1..17], [7; 16]);
    assert_eq!(sealed[17..25], [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(sealed[25..29], (NOW + 60).to_be_bytes());
    assert_eq!(sealed.len(), CLEAR + 1 + 3 + 6 + TAG);
    assert!(
        !sealed.windows(6).any(|window| window == b"device"),
        "ids travel encrypted"
    );
}

#[test]
fn every_flipped_bit_is_refused() {
    let keys = keys("a");
    let sealed = keys.seal(&ticket("app", "device")).unwrap();
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        let verdict = keys.open(&changed, NOW).unwrap_err();
        let expected = if bit < 8 && keys.keys.iter().all(|(id, _)| *id != changed[0]) {
            TicketError::UnknownKey
        } else {
            TicketError::Forged
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
    assert_eq!(keys("a").seal(&ticket("app", "device")).unwrap()[0], 2);
}

#[test]
fn expiry_is_told_of_genuine_tickets_only() {
    let keys = keys("a");
    let sealed = keys.seal(&ticket("app", "device")).unwrap();
    assert!(keys.open(&sealed, NOW + 59).is_ok());
    assert_eq!(keys.open(&sealed, NOW + 60), Err(TicketError::Expired));
    let mut later = sealed.to_vec();
    later[25] ^= 1;
    assert_eq!(keys.open(&later, NOW), Err(TicketError::Forged));
}

#[test]
fn nothing_secret_is_shown() {
    let keys = keys("a");
    let sealed = keys.seal(&ticket("app", "device")).unwrap();
    assert_eq!(format!("{sealed:?} {keys:?}"), "SealedTicket(55 bytes) [2, 1]");
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
