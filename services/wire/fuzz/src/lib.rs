//! What the fuzz targets do with their input. The crate's own tests replay the committed corpus through the
//! same functions, so that a finding stays found without a fuzzer.

use imaccess_wire::client::State;
use imaccess_wire::frame::{Login, Request};
use imaccess_wire::{ClientSession, Code, Frame, FrameBuffer, HEADER_LEN, Limits, LoginParameters};
use imaccess_wire::{ProtocolError, header};

/// Arbitrary bytes as a stream of frames: what can be read, can be written, and then reads the same.
pub fn frame(input: &[u8]) {
    let limits = Limits::default();
    let mut rest = input;
    while let Ok(Some(split)) = header::split(rest, limits) {
        assert_eq!(split.frame.len() + split.rest.len(), rest.len());
        if let Ok(Some(frame)) = Frame::decode(&split) {
            stable(&frame);
        }
        rest = split.rest;
    }
    whole_and_in_pieces_agree(input);
}

/// Arbitrary bytes as the body of a LOGIN, which is the longest of the frames that strangers may send.
pub fn login(body: &[u8]) {
    if let Ok(login) = Login::decode(body) {
        assert!((1..=36).contains(&login.device.len()) && (1..=12).contains(&login.app.len()));
        assert!(login.token.len() <= 2048 && login.ticket.len() <= 96);
        assert!(login.groups.iter().count() <= 256);
        stable(&Frame::Login(login));
    }
}

/// Arbitrary bytes from a gateway, cut at places that the first byte chooses, with an application that answers.
pub fn client(input: &[u8]) {
    let Some((&cut, bytes)) = input.split_first() else {
        return;
    };
    let mut session = ClientSession::new();
    let mut out = Vec::new();
    let parameters = LoginParameters {
        device: "d",
        app: "a",
        ping_jitter: 0.5,
        ..LoginParameters::default()
    };
    session
        .start(0, &parameters, &mut out)
        .expect("within the limits");
    let mut now = 0;
    for (index, piece) in bytes.chunks(usize::from(cut) + 1).enumerate() {
        now += 1 + u64::from(cut) * 97;
        let (mut highest, mut events) = (0, 0);
        let result = session.handle_bytes(now, piece, &mut out, &mut |event| {
            events += 1;
            if let imaccess_wire::ClientEvent::Push(push) = event {
                highest = highest.max(push.sequence);
            }
        });
        if result.is_err() {
            assert!(!session.is_connected());
        }
        // A partial frame holds no more than twice what was read so far, nor more than one frame.
        let read = (index + 1) * (usize::from(cut) + 1);
        assert!(session.partial_capacity() <= (2 * read).min(HEADER_LEN + 65_536));
        session.push_ack(highest, &mut out);
        session.handle_timeout(now, &mut out, &mut |_| ());
        assert_eq!(session.next_deadline().is_some(), session.is_connected());
        if session.is_online() && events > 0 {
            let request = Request {
                business: 1,
                payload: piece,
                ..Request::default()
            };
            let _ = session.request(request, &mut out);
            // A few groups: hundreds of them would only make it slow.
            let _ = session.join((index % 8) as u32, b"group", &mut out);
        }
        if !session.is_connected() {
            assert_eq!(session.partial_capacity(), 0);
            let again = session.start(now, &parameters, &mut out);
            assert_eq!((again, session.state()), (Ok(()), State::Authenticating));
        }
        written_by_a_client(&out);
        out.clear();
    }
    session.close(Code::ClientLeft, &mut out);
    written_by_a_client(&out);
}

/// Written frames read the same, and are written the same again.
fn stable(frame: &Frame<'_>) {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    // At most one byte longer than what was read, and only where there is no payload: within the limit.
    let split = header::split(&bytes, Limits::default())
        .expect("a header of ours")
        .expect("whole");
    let again = Frame::decode(&split)
        .expect("a body of ours")
        .expect("a type of ours");
    assert_eq!(*frame, again);
    let mut twice = Vec::new();
    again.encode(&mut twice);
    assert_eq!(bytes, twice);
}

/// However the bytes are cut, the same frames come out, and the same error.
fn whole_and_in_pieces_agree(input: &[u8]) {
    let whole = frames(input, input.len().max(1));
    for size in [1, 7, 1 + input.len() / 2] {
        assert_eq!(frames(input, size), whole);
    }
}

fn frames(input: &[u8], size: usize) -> (Vec<Vec<u8>>, Result<(), ProtocolError>) {
    let mut frames = Vec::new();
    let mut buffer = FrameBuffer::new();
    for piece in input.chunks(size) {
        let result = buffer.feed(piece, Limits::default(), |split| {
            frames.push(split.frame.to_vec());
            Ok::<(), ProtocolError>(())
        });
        assert!(buffer.capacity() <= (2 * input.len()).min(HEADER_LEN + 65_536));
        if result.is_err() {
            return (frames, result);
        }
    }
    (frames, Ok(()))
}

/// What a client writes is whole frames of valid types.
fn written_by_a_client(mut out: &[u8]) {
    while !out.is_empty() {
        let split = header::split(out, Limits::default())
            .expect("a header of ours")
            .expect("whole");
        Frame::decode(&split)
            .expect("a body of ours")
            .expect("a type of ours");
        out = split.rest;
    }
}
