//! The tables of PROTOCOL.md say what the constants say.

use std::collections::BTreeMap;

use imaccess_wire::limits::{
    DEFAULT_PING_INTERVAL_S, DEFAULT_RESUME_WINDOW_S, FRAME_DEADLINE_MS, LOGIN_ANSWER_MS, LOGIN_DEADLINE_MS,
    MAX_APP, MAX_BODY, MAX_CARRIER, MAX_DEVICE, MAX_ENDPOINTS, MAX_GROUP, MAX_HOST, MAX_INSTALL,
    MAX_LOGIN_GROUPS, MAX_METADATA, MAX_PLATFORM, MAX_PUSH_ID, MAX_REASON, MAX_TICKET, MAX_TOKEN, MAX_TRACE,
    MAX_VERSION, PONG_DEADLINE_MS, REMEMBERED_IDS, SESSION_LEN, SILENCE_HALF_INTERVALS,
};
use imaccess_wire::{Code, FrameType, HEADER_LEN};

const DOCUMENT: &str = include_str!("../../../proto/PROTOCOL.md");

/// The rows of the table whose heading row begins with these cells.
fn table(heading: &[&str]) -> Vec<Vec<&'static str>> {
    let mut rows = DOCUMENT
        .lines()
        .map(cells)
        .skip_while(|row| !row.starts_with(heading));
    assert!(rows.next().is_some(), "no table {heading:?}");
    let rows: Vec<_> = rows.skip(1).take_while(|row| !row.is_empty()).collect();
    assert!(!rows.is_empty());
    rows
}

fn cells(line: &'static str) -> Vec<&'static str> {
    let inner = line.strip_prefix('|').and_then(|line| line.strip_suffix('|'));
    inner
        .map(|inner| inner.split('|').map(str::trim).collect())
        .unwrap_or_default()
}

fn yes(cell: &str) -> bool {
    match cell {
        "yes" => true,
        "no" => false,
        other => panic!("{other:?} is neither yes nor no"),
    }
}

/// `LoginOk` is `LOGIN_OK` in the document.
fn written(kind: FrameType) -> String {
    let mut name = String::new();
    for letter in format!("{kind:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[test]
fn frame_types() {
    let rows = table(&["type", "name", "direction"]);
    let documented: Vec<_> = rows
        .iter()
        .map(|row| (row[0].to_owned(), row[1].to_owned()))
        .collect();
    let ours: Vec<_> = FrameType::ALL
        .iter()
        .map(|&kind| ((kind as u8).to_string(), written(kind)))
        .collect();
    assert_eq!(documented, ours);
}

#[test]
fn codes() {
    let rows = table(&["code", "name", "where"]);
    let documented: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row[0].parse().expect("a number"),
                row[1],
                yes(row[3]),
                yes(row[4]),
            )
        })
        .collect();
    let ours: Vec<_> = Code::ALL
        .iter()
        .map(|&code| (code as u16, code.name(), code.resumable(), code.retryable()))
        .collect();
    assert_eq!(documented, ours);
}

#[test]
fn a_code_that_a_frame_carries_is_used_where_its_hundred_says() {
    for row in table(&["code", "name", "where"]) {
        let places: Vec<_> = row[2].split(", ").collect();
        assert!(
            places
                .iter()
                .all(|place| ["R", "A", "C", "G", "E"].contains(place)),
            "{row:?}"
        );
        let expected = match row[0].as_bytes()[0] {
            b'0' | b'3' => "A",
            b'1' | b'4' => "C",
            b'2' => "R",
            _ => "C",
        };
        assert!(places.contains(&expected) || places == ["E"], "{row:?}");
    }
}

#[test]
fn limits() {
    let ours = BTreeMap::from([
        ("header_len", HEADER_LEN),
        ("max_body", MAX_BODY),
        ("max_device", MAX_DEVICE),
        ("max_app", MAX_APP),
        ("max_token", MAX_TOKEN),
        ("max_ticket", MAX_TICKET),
        ("max_install", MAX_INSTALL),
        ("max_platform", MAX_PLATFORM),
        ("max_version", MAX_VERSION),
        ("max_carrier", MAX_CARRIER),
        ("max_group", MAX_GROUP),
        ("max_login_groups", MAX_LOGIN_GROUPS),
        ("max_push_id", MAX_PUSH_ID),
        ("max_trace", MAX_TRACE),
        ("max_metadata", MAX_METADATA),
        ("max_reason", MAX_REASON),
        ("max_host", MAX_HOST),
        ("max_endpoints", MAX_ENDPOINTS),
        ("session_len", SESSION_LEN),
        ("remembered_ids", REMEMBERED_IDS),
    ]);
    assert_eq!(
        numbers(&["limit", "value"]),
        ours.iter().map(|(&name, &value)| (name, value as u64)).collect()
    );
}

#[test]
fn timers() {
    let ours = BTreeMap::from([
        ("login_deadline_ms", LOGIN_DEADLINE_MS),
        ("frame_deadline_ms", FRAME_DEADLINE_MS),
        ("default_ping_interval_s", DEFAULT_PING_INTERVAL_S.into()),
        ("silence_half_intervals", SILENCE_HALF_INTERVALS),
        ("default_resume_window_s", DEFAULT_RESUME_WINDOW_S.into()),
        ("login_answer_ms", LOGIN_ANSWER_MS),
        ("pong_deadline_ms", PONG_DEADLINE_MS),
    ]);
    assert_eq!(numbers(&["timer", "value"]), ours);
}

fn numbers(heading: &[&str]) -> BTreeMap<&'static str, u64> {
    table(heading)
        .iter()
        .map(|row| (row[0], row[1].parse().expect("a number")))
        .collect()
}

/// Every limit that is named in a field's type is one of the limits' table, in both directions.
#[test]
fn field_lengths_are_limits() {
    let known: Vec<u64> = numbers(&["limit", "value"]).into_values().collect();
    for kind in ["text(", "bytes(", "raw("] {
        for found in DOCUMENT.split(kind).skip(1) {
            let digits: String = found.chars().take_while(char::is_ascii_digit).collect();
            if let Ok(number) = digits.parse::<u64>() {
                assert!(
                    known.contains(&number),
                    "{kind}{number}) is no limit of section 6"
                );
            }
        }
    }
}
