//! What the load loop does when the other side misbehaves.

use std::io::{Read, Write};
use std::net::TcpListener;

use super::*;
use crate::job::{Connect, Exchange, Group, Join, LoginAs, Message, Pace, Proof};

#[test]
fn sources_are_loopback_addresses_that_change() {
    let mut sources = Sources::random();
    let target = "127.0.0.1:1".parse().unwrap();
    let mut addresses: Vec<_> = (0..20_000).map(|_| sources.next(target).unwrap().ip()).collect();
    assert!(addresses.iter().all(std::net::IpAddr::is_loopback));
    addresses.dedup();
    assert!((5..=6).contains(&addresses.len()), "{addresses:?}");
    assert_eq!(sources.next("192.0.2.1:1".parse().unwrap()), None);
    assert_eq!(sources.next("[::1]:1".parse().unwrap()), None);
}

#[test]
fn what_is_never_answered_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        let mut bytes = [0; 1];
        // The first byte came: close with what was asked still open.
        first.read_exact(&mut bytes).unwrap();
    });
    let mut worker = Worker::new().unwrap();
    let job = Connect {
        targets: vec![address],
        count: 1,
        in_flight: 1,
        login: None,
        seconds: None,
    };
    assert!(matches!(worker.work(Job::Connect(job)), Answer::Connected(done) if done.count == 1));
    let message = Message::Request {
        business: 1,
        bytes: 10,
    };
    let job = Exchange {
        message,
        pace: Pace::Saturated,
        seconds: 30.0,
    };
    // It ends at once, not after the 30 seconds: with no connection there is nothing to wait for.
    let started = Instant::now();
    let Answer::Exchanged(done) = worker.work(Job::Exchange(job)) else {
        panic!("not exchanged")
    };
    server.join().unwrap();
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!((done.sent, done.answered), (1, 0));
    assert_eq!(done.failures["answer_lost"], 1);
}

#[test]
fn refused_logins_are_counted_by_their_code() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        for _ in 0..3 {
            let (mut client, _) = listener.accept().unwrap();
            let mut frame = [0; 4_096];
            assert!(client.read(&mut frame).unwrap() > 0);
            let mut out = Vec::new();
            let code = imaccess_wire::Code::Overloaded as u16;
            imaccess_wire::frame::LoginRefused {
                code,
                ..Default::default()
            }
            .encode(&mut out);
            client.write_all(&out).unwrap();
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key.pem");
    std::fs::write(
        &key,
        imaccess_common::token::DevelopmentIssuer::generate().to_pem(),
    )
    .unwrap();
    let login = LoginAs {
        app: "bench".to_owned(),
        device_prefix: "t-".to_owned(),
        proof: Proof::Issue {
            key,
            key_id: None,
            cluster: "c".to_owned(),
        },
        group: None,
    };
    let mut worker = Worker::new().unwrap();
    let job = Connect {
        targets: vec![address],
        count: 3,
        in_flight: 2,
        login: Some(login),
        seconds: None,
    };
    let Answer::Connected(done) = worker.work(Job::Connect(job)) else {
        panic!("not connected")
    };
    server.join().unwrap();
    assert_eq!((done.count, done.failures["overloaded"]), (0, 3));
    assert!(matches!(worker.work(Job::Close), Answer::Closed));
    assert!(matches!(
        worker.work(Job::Exchange(Exchange {
            message: Message::Ping,
            pace: Pace::Saturated,
            seconds: 1.0
        })),
        Answer::Failed(_)
    ));
}

#[test]
fn joins_are_answered_one_by_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let clients: Vec<_> = (0..3).map(|_| listener.accept().unwrap().0).collect();
        // The first is left out of the job; the others join, the last without success.
        for (mut client, code) in clients
            .into_iter()
            .skip(1)
            .zip([0, imaccess_wire::Code::Busy as u16])
        {
            let mut bytes = [0; 4_096];
            let len = client.read(&mut bytes).unwrap();
            let split = imaccess_wire::header::split(&bytes[..len], imaccess_wire::Limits::default());
            let join = imaccess_wire::frame::Join::decode(split.unwrap().unwrap().body()).unwrap();
            assert_eq!((join.business, join.group), (7, &b"room"[..]));
            let mut out = Vec::new();
            imaccess_wire::frame::Accepted {
                message_id: join.message_id,
                code,
                ..Default::default()
            }
            .encode(&mut out);
            client.write_all(&out).unwrap();
        }
    });
    let mut worker = Worker::new().unwrap();
    let job = Connect {
        targets: vec![address],
        count: 3,
        in_flight: 1,
        login: None,
        seconds: None,
    };
    assert!(matches!(worker.work(Job::Connect(job)), Answer::Connected(done) if done.count == 3));
    let group = Group {
        business: 7,
        id: "room".to_owned(),
    };
    let Answer::Exchanged(done) = worker.work(Job::Join(Join {
        group,
        first: 1,
        count: 100,
    })) else {
        panic!("not joined")
    };
    server.join().unwrap();
    assert_eq!((done.sent, done.answered), (2, 1));
    assert_eq!(done.failures["busy"], 1);
}
