#!/usr/bin/env python3
"""Second decoder of the client protocol, written from PROTOCOL.md; checks all vectors beside it."""
import json
import pathlib
import sys

# Fields as name:kind. Kinds: uN, enumN (N: highest number known), bool, raw16, bytesN, textN (N: longest;
# "+": not empty), and repeated records. In each table: fixed fields | tagged ones, whose tags count from 1 | "payload".
RECORDS = {"group": (256, "business:u32 group:bytes64+ group_epoch:u64 sequence:u64"),
           "endpoint": (16, "cluster:text253 transport:enum5 host:text253 port:u16 server_name:text253")}
UPLINK = "business:u32 message_id:u64 | deadline_ms:u32 trace:text64 metadata:bytes1024 priority:enum2 | payload"
ANSWER = "message_id:u64 code:u16 | retry_after_ms:u32 reason:text256 | payload"
MEMBER = "business:u32 group:bytes64+ message_id:u64 | "
FRAMES = {
    1: ("LOGIN", "device:text36+ app:text12+ token:bytes2048 | ticket:bytes96 install:bytes16 platform:text16 "
                 "version:text32 last_push:u64 group:group features:u64 network:enum6 carrier:text32 transport:enum5 |"),
    2: ("LOGIN_OK", "session:raw16 epoch:u64 | ticket:bytes96 resume_window_s:u32 ping_interval_s:u32 max_body:u32 "
                    "max_in_flight:u32 features:u64 resumed:bool server_unix_ms:u64 |"),
    3: ("LOGIN_REFUSED", "code:u16 | retry_after_ms:u32 reason:text256 resumable:bool |"),
    4: ("PING", "| last_rtt_ms:u32 |"),
    5: ("PONG", "| ping_interval_s:u32 |"),
    6: ("REQUEST", UPLINK),
    7: ("REPLY", ANSWER),
    8: ("SEND", UPLINK),
    9: ("ACCEPTED", ANSWER),
    10: ("PUSH", "business:u32 sequence:u64 | class:enum1 message_id:bytes16 expires_unix_ms:u64 priority:enum2 | payload"),
    11: ("PUSH_ACK", "sequence:u64 | |"),
    12: ("GROUP_PUSH", "business:u32 group:bytes64+ group_epoch:u64 sequence:u64 | "
                       "message_id:bytes16 expires_unix_ms:u64 | payload"),
    13: ("JOIN", MEMBER + "group_epoch:u64 sequence:u64 |"),
    14: ("LEAVE", MEMBER + "|"),
    15: ("GO_AWAY", "code:u16 | deadline_ms:u32 endpoint:endpoint ticket:bytes96 delay_ms:u32 |"),
    16: ("CLOSE", "code:u16 | retry_after_ms:u32 resumable:bool reason:text256 |"),
    17: ("REPEAT", "| |"),
}


class Bad(Exception):
    """Carries the name of the code that answers the bytes."""


def check(condition, code="malformed"):
    if not condition:
        raise Bad(code)


class Reader:
    def __init__(self, data):
        self.data = data

    def take(self, count):
        check(count <= len(self.data))
        front, self.data = self.data[:count], self.data[count:]
        return front

    def varint(self, bits=64):
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                check(value >> bits == 0)
                return value
        raise Bad("malformed")

    def value(self, kind, tagged=False):
        """One value: as a fixed field, or as all of a tagged field's value."""
        name, size = kind.rstrip("0123456789+"), int("".join(filter(str.isdigit, kind)) or 0)
        if kind in RECORDS:
            return {field: self.value(inner) for field, inner in fields(RECORDS[kind][1])}
        if name == "u":
            return self.varint(size)
        if name == "enum":
            number = self.varint()
            return number if number <= size else 0
        if name == "bool":
            return self.varint() != 0
        if name == "raw":
            return self.take(size).hex()
        data = self.data if tagged else self.take(self.varint())
        check(kind.endswith("+") <= len(data) <= size)
        try:
            return data.decode("utf-8") if name == "text" else data.hex()
        except UnicodeDecodeError:
            raise Bad("malformed") from None


def fields(table):
    return [entry.split(":") for entry in table.split()]


def default(kind):
    return [] if kind in RECORDS else False if kind == "bool" else "" if kind[0] in "bt" else 0


def decode(frame):
    check(frame[:1] in (b"", b"\xa9"), "bad_magic")
    check(frame[1:2] in (b"", b"\x01"), "unsupported_version")
    if len(frame) < 8:
        return {"incomplete": True}
    kind, flags, length = frame[2], frame[3], int.from_bytes(frame[4:8], "big")
    check(kind in FRAMES or flags & 1, "unknown_type")
    check(length <= 65536, "oversized")
    if len(frame) < 8 + length:
        return {"incomplete": True}
    if kind not in FRAMES:
        return {"skipped": True}
    name, (fixed, tagged, payload) = FRAMES[kind][0], FRAMES[kind][1].split("|")
    tagged, body = fields(tagged), Reader(frame[8:8 + length])
    found = {field: body.value(inner) for field, inner in fields(fixed)}
    found |= {field: default(inner) for field, inner in tagged}
    section = Reader(body.take(body.varint()) if body.data else b"")
    check(payload or not body.data)
    if payload:
        found["payload"] = body.data.hex()
    while section.data:
        tag = section.varint()
        value = Reader(section.take(section.varint()))
        if 1 <= tag <= len(tagged):
            field, inner = tagged[tag - 1]
            if inner in RECORDS:
                found[field].append(value.value(inner))
                check(len(found[field]) <= RECORDS[inner][0])
            else:
                found[field] = value.value(inner, tagged=True)
    return {"type": name, "fields": found}


def main():
    checked, wrong = 0, 0
    for path in sorted(pathlib.Path(__file__).parent.glob("*.json")):
        for vector in json.loads(path.read_text("utf-8")):
            try:
                found = decode(bytes.fromhex(vector["hex"]))
            except Bad as bad:
                found = {"error": str(bad)}
            checked += 1
            if found != {key: vector[key] for key in vector.keys() - {"name", "hex", "canonical"}}:
                wrong += 1
                print(f"{path.name}: {vector['name']}: found {found}")
    print(f"{checked} vectors, {wrong} wrong")
    return 1 if wrong or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
