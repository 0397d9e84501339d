//! The bare servers and the load loop against each other, at a small size and with exact counts.

use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use serde::de::DeserializeOwned;

use super::*;
use crate::job::{Answer, Connect, Exchange, Fanout, Job, Message, Pace, Publisher};
use crate::worker::Worker;

/// A bare server on a thread, and the end of the line to it.
struct Server {
    started: Started,
    line: BufReader<UnixStream>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    fn start(
        run: impl FnOnce(Asker<UnixStream, UnixStream>) -> anyhow::Result<()> + Send + 'static,
    ) -> Server {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let output = theirs.try_clone().unwrap();
        let asker = Asker {
            input: BufReader::new(theirs),
            output,
        };
        let thread = std::thread::spawn(move || run(asker));
        let mut line = BufReader::new(ours);
        let started = read(&mut line);
        Server {
            started,
            line,
            thread,
        }
    }

    fn counts(&mut self) -> Counts {
        self.line.get_mut().write_all(b"counts\n").unwrap();
        read(&mut self.line)
    }

    fn end(self) {
        drop(self.line);
        self.thread.join().unwrap().unwrap();
    }
}

fn read<T: DeserializeOwned>(line: &mut BufReader<UnixStream>) -> T {
    let mut text = String::new();
    line.read_line(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn connect(worker: &mut Worker, address: SocketAddr, count: u64) {
    let job = Connect {
        targets: vec![address],
        count,
        in_flight: 16,
        login: None,
        seconds: None,
    };
    let Answer::Connected(connected) = worker.work(Job::Connect(job)) else {
        panic!("not connected")
    };
    assert_eq!((connected.count, connected.failures.len()), (count, 0));
}

#[test]
fn one_read_and_one_write_per_echo() {
    let mut server = Server::start(echo::run);
    let mut worker = Worker::new().unwrap();
    connect(&mut worker, server.started.address, 50);
    let messages = [
        Message::Request {
            business: 1,
            bytes: 128,
        },
        Message::Request {
            business: 1,
            bytes: 0,
        },
        Message::Ping,
    ];
    for message in messages {
        for pace in [Pace::Saturated, Pace::PerSecond(2_000.0)] {
            let before = server.counts();
            let job = Exchange {
                message,
                pace,
                seconds: 0.25,
            };
            let Answer::Exchanged(done) = worker.work(Job::Exchange(job)) else {
                panic!("not exchanged")
            };
            let counts = server.counts().since(before);
            assert_eq!((done.answered, done.failures.len()), (done.sent, 0), "{done:?}");
            assert_eq!(done.request_bytes, done.answer_bytes);
            if let Pace::PerSecond(_) = pace {
                assert_eq!(done.sent, 500);
                // A late sender may bring two messages of a connection into one read.
                assert!(counts.reads <= done.sent);
            } else {
                assert!(done.sent > 50);
                assert_eq!(counts.reads, done.sent);
            }
            assert_eq!(counts.writes, counts.reads);
            assert_eq!(counts.read_bytes, done.sent * done.request_bytes as u64);
            assert_eq!((counts.accepted, counts.short_writes), (0, 0));
            assert!(counts.waits <= counts.reads + 2, "{counts:?}");
        }
    }
    assert!(matches!(worker.work(Job::Close), Answer::Closed));
    server.end();
}

#[test]
fn every_member_gets_every_message() {
    for mode in [fanout::Mode::Send, fanout::Mode::Gather] {
        let mut server = Server::start(move |asker| fanout::run(mode, asker));
        let mut worker = Worker::new().unwrap();
        connect(&mut worker, server.started.address, 40);
        for outstanding in [1, 8] {
            let before = server.counts();
            let address = server.started.control.unwrap();
            let publisher = Publisher::Bare {
                address,
                frame_bytes: 130,
            };
            let job = Fanout {
                publisher,
                outstanding,
                bytes: 100,
                seconds: 0.2,
            };
            let Answer::FannedOut(done) = worker.work(Job::Fanout(job)) else {
                panic!("not fanned out")
            };
            let counts = server.counts().since(before);
            assert_eq!(
                (done.received, done.failures.len()),
                (done.expected, 0),
                "{done:?}"
            );
            assert_eq!(done.expected, done.messages * 40);
            assert_eq!(done.frame_bytes, 130);
            assert_eq!(counts.short_writes, 0);
            if mode == fanout::Mode::Send || outstanding == 1 {
                assert_eq!(counts.writes, done.expected);
            } else {
                assert!(
                    counts.writes < done.expected / 2,
                    "{counts:?} for {}",
                    done.expected
                );
            }
        }
        worker.work(Job::Close);
        server.end();
    }
}
