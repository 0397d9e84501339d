//! The whole load against a server that speaks the protocol, and misbehaves as it is told.

use imaccess_common::token::DevelopmentIssuer;
use imaccess_wire::frame::{Close, LoginOk, Pong, Reply};
use imaccess_wire::{Code, Frame, FrameBuffer, Limits, ProtocolError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Endpoint;

use super::*;

/// What the server does to the replies of plain clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mischief {
    None,
    /// Some replies twice.
    Double,
    /// A byte of some payloads is another.
    Flip,
    /// Some replies go to the next who asks.
    Swap,
    /// Some replies say `retry` first.
    Retry,
    /// Some connections end with a code instead of a reply, some without.
    Close,
    /// A stray byte between frames.
    Stray,
}

/// Echoes; every fifth reply of a connection is treated by the mischief.
async fn serve(mut stream: TcpStream, mischief: Mischief) -> std::io::Result<()> {
    let (mut input, mut bytes, mut out) = (FrameBuffer::new(), vec![0; 8192], Vec::new());
    let (mut count, mut stored, mut retried) = (0, None::<Vec<u8>>, Vec::new());
    loop {
        let read = stream.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        let mut end = false;
        let fed = input.feed::<ProtocolError>(&bytes[..read], Limits::default(), |split| {
            match Frame::decode(&split)? {
                Some(Frame::Login(_)) => LoginOk {
                    ticket: b"t",
                    ..LoginOk::default()
                }
                .encode(&mut out),
                Some(Frame::Ping(_)) => Pong::default().encode(&mut out),
                Some(Frame::Request(request)) => {
                    count += 1;
                    let mut reply = Reply {
                        message_id: request.message_id,
                        payload: request.payload,
                        ..Reply::default()
                    };
                    let mut bent = request.payload.to_vec();
                    let previous = stored.replace(request.payload.to_vec());
                    let turn = count % 5 == 2;
                    match mischief {
                        Mischief::Double if turn => reply.encode(&mut out),
                        Mischief::Flip if turn && !bent.is_empty() => {
                            bent[0] ^= 1;
                            reply.payload = &bent;
                        }
                        Mischief::Swap if turn => {
                            bent = previous.unwrap_or_default();
                            reply.payload = &bent;
                        }
                        Mischief::Retry if turn && !retried.contains(&request.message_id) => {
                            retried.push(request.message_id);
                            reply.code = Code::Retry as u16;
                            reply.payload = b"";
                        }
                        Mischief::Close if turn => {
                            end = true;
                            if request.message_id % 2 == 0 {
                                Close::with_code(Code::Draining).encode(&mut out);
                            }
                            return Ok(());
                        }
                        Mischief::Stray if turn => out.push(0),
                        _ => {}
                    }
                    reply.encode(&mut out);
                }
                Some(Frame::Close(_)) => end = true,
                _ => {}
            }
            Ok(())
        });
        assert!(fed.is_ok(), "what clients send is always frames: {fed:?}");
        // In small writes, so that the other side reads frames in pieces.
        for piece in out.chunks(700) {
            stream.write_all(piece).await?;
            tokio::task::yield_now().await;
        }
        out.clear();
        if end {
            return stream.shutdown().await;
        }
    }
}

/// Runs a load until so many requests were sent, and returns what was seen.
fn witness(mischief: Mischief, reconnect: bool) -> Testimony {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, mischief));
            }
        });
        let place = Place {
            business: 1,
            cluster: "local".to_owned(),
            gateways: vec![gateway],
            push: Endpoint::from_static("http://127.0.0.1:1").connect_lazy(),
            ipconfig: "http://127.0.0.1:1".to_owned(),
            issuer: DevelopmentIssuer::generate(),
        };
        let load = Load {
            sdk: 0,
            sdk_share: 0.0,
            group_push: None,
            device_push: None,
            visits: if mischief == Mischief::None { 50.0 } else { 0.0 },
            ping: Duration::from_millis(200),
            reconnect,
            ..Load::new(7, 25, 400.0)
        };
        let witness = Witness::begin(place, load).await.unwrap();
        wait_until("enough requests were sent", Duration::from_secs(60), async || {
            let sent = witness.so_far().plain.sent;
            Ok(if sent >= 300 {
                Seen::Yes(())
            } else {
                Seen::NotYet(sent)
            })
        })
        .await
        .unwrap();
        witness.stop().await.unwrap()
    })
}

#[test]
fn a_good_server_is_found_good() {
    let Testimony { plain, visits, .. } = witness(Mischief::None, false);
    assert_eq!(plain.answers["ok"], plain.sent, "{plain:?}");
    assert_eq!((plain.closed(), plain.lost, plain.doubled), (0, 0, 0));
    assert_eq!((plain.foreign, plain.torn, plain.forged), (0, 0, 0));
    assert_eq!(plain.pings, plain.pongs);
    assert!(visits.begun > 0 && visits.well == visits.begun, "{visits:?}");
}

#[test]
fn doubled_bent_and_foreign_replies_are_found() {
    let doubled = witness(Mischief::Double, false).plain;
    assert!(doubled.doubled > 0 && doubled.torn + doubled.foreign == 0);
    let bent = witness(Mischief::Flip, false).plain;
    assert!(bent.torn > 0 && bent.doubled == 0);
    let swapped = witness(Mischief::Swap, false).plain;
    assert!(swapped.foreign > 0 && swapped.doubled == 0);
    let stray = witness(Mischief::Stray, true).plain;
    assert!(stray.forged > 0, "{stray:?}");
}

#[test]
fn what_is_answered_by_retry_is_repeated_until_it_is_answered() {
    let plain = witness(Mischief::Retry, false).plain;
    assert_eq!((plain.answers["ok"], plain.doubled), (plain.sent, 0), "{plain:?}");
    assert!(plain.retries > 0 && plain.lost == 0);
}

#[test]
fn ends_are_told_apart_and_unanswered_requests_go_out_again() {
    let plain = witness(Mischief::Close, true).plain;
    assert!(plain.ended["close draining"] > 0 && plain.ended["silent"] > 0);
    assert_eq!(
        (plain.wordless(), plain.resumed),
        (plain.ended["silent"], 0),
        "{plain:?}"
    );
    assert!(plain.not_resumed > 0 && plain.retries > 0);
    assert_eq!((plain.answers["ok"], plain.lost), (plain.sent, 0), "{plain:?}");
}
