//! Frames that are valid but not what this version writes, and bytes that are no frames.

use super::cases::Case;

/// A frame from its parts: type, flags, body.
fn raw(name: &str, kind: u8, flags: u8, body: &[u8]) -> Case {
    let mut bytes = vec![0xA9, 1, kind, flags];
    bytes.extend_from_slice(&u32::try_from(body.len()).expect("short").to_be_bytes());
    bytes.extend_from_slice(body);
    (name.to_owned(), bytes)
}

/// Valid, but not what this version would write.
pub(crate) fn extended() -> Vec<Case> {
    vec![
        raw("extended: unknown ignorable type", 200, 1, b"anything"),
        raw("extended: unknown ignorable type 0 without a body", 0, 1, b""),
        raw("extended: known type with the ignorable flag", 4, 1, b""),
        raw("extended: unknown flags", 5, 0xFE, b""),
        raw("extended: repeat without its flag", 17, 0, b""),
        raw(
            "extended: repeat with tags from a later version",
            17,
            1,
            b"\x06\x01\x01\x07\x02\x01x",
        ),
        raw("extended: unknown tag alone", 4, 0, b"\x03\x63\x01x"),
        raw(
            "extended: unknown tags around a known one",
            4,
            0,
            b"\x0c\x64\x00\x01\x01\x29\xff\x01\x04abcd",
        ),
        raw(
            "extended: unknown tag in a request",
            6,
            0,
            b"\x01\x02\x06\x09\x01!\x01\x01\x07payload",
        ),
        raw(
            "extended: longest tag",
            10,
            0,
            b"\x01\x00\x0c\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x01?p",
        ),
        raw(
            "extended: bytes behind a number",
            5,
            0,
            b"\x05\x01\x03\x3c\xff\xff",
        ),
        raw(
            "extended: bytes behind a group's values",
            1,
            0,
            b"\x01d\x01a\x00\x09\x06\x07\x01\x01g\x00\x05zz",
        ),
        raw(
            "extended: a tag twice, the last one holds",
            10,
            0,
            b"\x01\x00\x06\x01\x01\x01\x01\x01\x00",
        ),
        raw(
            "extended: tags out of order",
            16,
            0,
            b"\x93\x03\x06\x02\x01\x01\x01\x01\x05",
        ),
        raw(
            "extended: defaults written out",
            16,
            0,
            b"\x00\x08\x01\x01\x00\x02\x01\x00\x03\x00",
        ),
        raw(
            "extended: varint not in its shortest form",
            11,
            0,
            b"\x85\x80\x00",
        ),
        raw(
            "extended: ten-byte varint of zero",
            11,
            0,
            b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00",
        ),
        raw("extended: empty tagged fields written out", 11, 0, b"\x05\x00"),
        raw(
            "extended: unknown enumeration values",
            1,
            0,
            b"\x01d\x01a\x00\x06\x08\x01\x63\x0a\x01\x63",
        ),
        raw("extended: a truth beyond one", 3, 0, b"\xc8\x01\x03\x03\x01\x02"),
        raw(
            "extended: unknown delivery class",
            10,
            0,
            b"\x01\x00\x03\x01\x01\x09",
        ),
        raw(
            "extended: unknown tag in a go-away",
            15,
            0,
            b"\x94\x03\x04\x0b\x02hi",
        ),
    ]
}

pub(crate) fn invalid() -> Vec<Case> {
    let bytes = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    let mut too_many_groups = vec![1, b'd', 1, b'a', 0];
    let groups = b"\x06\x05\x01\x01g\x00\x00".repeat(257);
    imaccess_wire::field::put_bytes(&mut too_many_groups, &groups);
    let mut too_many_endpoints = vec![0];
    imaccess_wire::field::put_bytes(
        &mut too_many_endpoints,
        &b"\x02\x06\x00\x01\x01h\x01\x00".repeat(17),
    );
    let mut long_token = vec![1, b'd', 1, b'a'];
    imaccess_wire::field::put_bytes(&mut long_token, &[0; 2049]);
    let mut long_ticket = vec![1, b'd', 1, b'a', 0, 99, 1, 97];
    long_ticket.extend_from_slice(&[0; 97]);
    let mut long_group = vec![7, 65];
    long_group.extend_from_slice(&[b'g'; 65]);
    long_group.extend_from_slice(&[1, 1]);
    vec![
        bytes("invalid: wrong first byte", b"G"),
        bytes("invalid: wrong version, two bytes are enough", &[0xA9, 2]),
        bytes("invalid: version 0", &[0xA9, 0, 4, 0, 0, 0, 0, 0]),
        bytes("invalid: nothing", b""),
        bytes("invalid: half a header", &[0xA9, 1, 4, 0]),
        bytes("invalid: half a body", &[0xA9, 1, 4, 0, 0, 0, 0, 4, 3, 1]),
        raw("invalid: unknown type", 18, 0, b""),
        raw("invalid: unknown type with other flags", 255, 0xFE, b""),
        bytes("invalid: oversized", &[0xA9, 1, 6, 0, 0, 1, 0, 1]),
        bytes(
            "invalid: oversized and to be skipped",
            &[0xA9, 1, 99, 1, 0xFF, 0xFF, 0xFF, 0xFF],
        ),
        bytes(
            "invalid: unknown type goes before oversized",
            &[0xA9, 1, 99, 0, 0xFF, 0xFF, 0xFF, 0xFF],
        ),
        raw("invalid: login without a body", 1, 0, b""),
        raw("invalid: login without a device", 1, 0, b"\x00\x01a\x00"),
        raw("invalid: login without an app", 1, 0, b"\x01d\x00\x00"),
        raw(
            "invalid: login with bytes behind its tags",
            1,
            0,
            b"\x01d\x01a\x00\x00!",
        ),
        raw(
            "invalid: device too long",
            1,
            0,
            b"\x250123456789012345678901234567890123456\x01a\x00",
        ),
        raw("invalid: device not UTF-8", 1, 0, b"\x01\xff\x01a\x00"),
        raw(
            "invalid: platform not UTF-8",
            1,
            0,
            b"\x01d\x01a\x00\x03\x03\x01\xc3",
        ),
        raw("invalid: token too long", 1, 0, &long_token),
        raw("invalid: ticket too long", 1, 0, &long_ticket),
        raw(
            "invalid: group with an empty id",
            1,
            0,
            b"\x01d\x01a\x00\x06\x06\x04\x01\x00\x00\x00",
        ),
        raw(
            "invalid: group cut short",
            1,
            0,
            b"\x01d\x01a\x00\x05\x06\x03\x01\x01g",
        ),
        raw("invalid: too many groups", 1, 0, &too_many_groups),
        raw("invalid: login-ok with half a session", 2, 0, &[7; 8]),
        raw("invalid: code over 16 bits", 3, 0, b"\x80\x80\x04"),
        raw("invalid: number without bytes", 4, 0, b"\x02\x01\x00"),
        raw(
            "invalid: number over 32 bits",
            4,
            0,
            b"\x07\x01\x05\x80\x80\x80\x80\x10",
        ),
        raw("invalid: tags run past the body", 4, 0, b"\x05\x01\x01\x01"),
        raw("invalid: tag runs past its section", 4, 0, b"\x03\x63\x02x"),
        raw("invalid: ping with a payload", 4, 0, b"\x00x"),
        raw(
            "invalid: business over 32 bits",
            6,
            0,
            b"\x80\x80\x80\x80\x10\x00",
        ),
        raw("invalid: request without a message id", 6, 0, b"\x01"),
        raw("invalid: varint that doesn't end", 11, 0, b"\xff"),
        raw(
            "invalid: varint over 64 bits",
            11,
            0,
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
        ),
        raw(
            "invalid: varint of eleven bytes",
            11,
            0,
            b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00",
        ),
        raw("invalid: group too long", 12, 0, &long_group),
        raw("invalid: join without a group", 13, 0, b"\x01\x00\x01"),
        raw(
            "invalid: port over 16 bits",
            15,
            0,
            b"\x00\x0a\x02\x08\x00\x01\x01h\x80\x80\x04\x00",
        ),
        raw("invalid: too many endpoints", 15, 0, &too_many_endpoints),
        raw("invalid: close without a code", 16, 0, b""),
        raw("invalid: repeat with a payload", 17, 1, b"\x00p"),
    ]
}
