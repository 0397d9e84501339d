//! A custodian on its own thread, and gateways played over its real socket.

mod gateway;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use imaccess_proto::v1::from_custodian::Message as Answer;
use imaccess_proto::v1::to_custodian::Message;
use imaccess_proto::v1::{Complete, Deposit, HeldKind, ReturnAck};

use self::gateway::{Gateway, Running, connections, long, socket, start, wait_until};
use super::*;

/// Ends of what is over: a read says so at once, or after what was sent.
fn is_closed(mut client: &TcpStream) -> bool {
    client.set_read_timeout(Some(gateway::PATIENCE)).unwrap();
    matches!(client.read(&mut [0; 8]), Ok(0) | Err(_))
}

fn is_open(client: &TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    let found = client.peek(&mut [0; 1]);
    client.set_nonblocking(false).unwrap();
    found.is_err_and(|fault| fault.kind() == io::ErrorKind::WouldBlock)
}

#[test]
fn what_is_given_back_are_the_same_sockets_and_stays_held() {
    let running = start(long());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (mut clients, sockets) = connections(&listener, 3);
    let mut shard = Gateway::shard(&running, 1, 0, 1);
    shard.deposit(&[(1, &sockets[0]), (2, &sockets[1])]);
    shard.deposit(&[(3, &sockets[2])]);
    shard.deposit_listener(4, &listener);
    shard.acknowledged(3);
    shard.send(Message::Complete(Complete {}));
    shard.release(&[2, 99]);
    shard.release(&[2]);
    shard.acknowledged(5);
    assert_eq!(
        running.held(),
        (2, 1, "released 1".to_owned()),
        "the second release of 2 is nothing"
    );
    // The gateway is killed: its descriptors close, and no connection does.
    drop((shard, sockets, listener));

    for incarnation in [2, 3] {
        let mut taken = Gateway::take_back(&running, incarnation);
        assert_eq!(
            taken.iter().map(|(held, _)| held.id).collect::<Vec<_>>()[0],
            4,
            "listeners first"
        );
        taken.sort_by_key(|(held, _)| held.id);
        let ids: Vec<_> = taken.iter().map(|(held, _)| held.id).collect();
        assert_eq!(ids, [1, 3, 4]);
        assert_eq!(taken[2].0.kind(), HeldKind::Listener);
        assert_eq!(taken[2].0.address, "0.0.0.0:1");
        for (index, client) in [(0, 0), (1, 2)] {
            let mut socket = TcpStream::from(taken[index].1.try_clone().unwrap());
            socket.write_all(&[incarnation as u8]).unwrap();
            let mut byte = [0];
            clients[client].read_exact(&mut byte).unwrap();
            assert_eq!(byte, [incarnation as u8]);
        }
        let again = TcpListener::from(taken.remove(2).1);
        let (new, _) = connections(&again, 1);
        drop(new);
    }
    assert!(is_closed(&clients[1]), "released: nobody has it");
}

#[test]
fn a_duplicate_takes_the_place_of_the_first() {
    let running = start(long());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (clients, sockets) = connections(&listener, 1);
    let mut shard = Gateway::shard(&running, 1, 0, 1);
    for _ in 0..3 {
        shard.deposit(&[(1, &sockets[0])]);
    }
    shard.acknowledged(3);
    assert_eq!(running.held(), (1, 0, String::new()));
    assert!(is_open(&clients[0]));
    // It holds one descriptor, not three: with the gateway's own gone as well, a release ends the connection.
    drop(sockets);
    shard.release(&[1]);
    assert!(is_closed(&clients[0]));
}

#[test]
fn what_no_shard_deposits_is_closed_once_all_are_complete() {
    let running = start(long());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (clients, sockets) = connections(&listener, 3);
    let mut shard = Gateway::shard(&running, 1, 0, 1);
    shard.deposit(&[(1, &sockets[0]), (2, &sockets[1]), (3, &sockets[2])]);
    shard.acknowledged(1);
    drop(shard);
    let mut zero = Gateway::shard(&running, 2, 0, 2);
    let mut one = Gateway::shard(&running, 2, 1, 2);
    zero.deposit(&[(1, &sockets[0])]);
    zero.send(Message::Complete(Complete {}));
    one.deposit(&[(3, &sockets[2])]);
    zero.acknowledged(1);
    one.acknowledged(1);
    assert_eq!(running.held(), (3, 0, String::new()));
    one.send(Message::Complete(Complete {}));
    // Shut, not only dropped: this test still has a descriptor.
    assert!(is_closed(&clients[1]));
    wait_until("the orphan is counted", || {
        running.held() == (2, 0, "orphan 1".to_owned())
    });
    assert!(is_open(&clients[0]) && is_open(&clients[2]));
}

#[test]
fn an_earlier_incarnation_is_refused_and_its_connections_end() {
    let running = start(long());
    let mut old = Gateway::shard(&running, 4, 0, 1);
    let _new = Gateway::shard(&running, 5, 0, 1);
    assert!(old.is_ended(), "the custodian ends it");
    let mut late = Gateway::connect(&running);
    late.hello(4, 0, 1, (1, 1), "pod-1");
    let Answer::Refused(refused) = late.receive().unwrap() else {
        panic!("no refusal");
    };
    assert!(
        refused.reason.contains("incarnation 5") && refused.reason.contains("must end"),
        "{}",
        refused.reason
    );
    assert!(late.is_ended());
    let mut late = Gateway::connect(&running);
    late.ask_back(4, "pod-1");
    assert!(matches!(late.receive(), Some(Answer::Refused(_))));
    assert_eq!(running.refused("fenced"), 2);
}

#[test]
fn an_unknown_generation_is_refused_and_everything_goes_on() {
    let running = start(long());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (clients, sockets) = connections(&listener, 1);
    let mut shard = Gateway::shard(&running, 1, 0, 1);
    shard.deposit(&[(1, &sockets[0])]);
    shard.acknowledged(1);
    let mut strange = Gateway::connect(&running);
    strange.hello(2, 0, 1, (9, 9), "pod-1");
    // It doesn't wait for the answer, and gets it all the same.
    strange.deposit_nothing();
    let Answer::Refused(refused) = strange.receive().unwrap() else {
        panic!("no refusal");
    };
    assert!(refused.reason.contains("generation 9"), "{}", refused.reason);
    assert_eq!(running.refused("generation"), 1);
    shard.release(&[5]);
    shard.acknowledged(2);
    assert_eq!(running.held().0, 1);
    assert!(is_open(&clients[0]));
}

#[test]
fn without_a_gateway_listeners_and_then_sockets_end() {
    let times = CustodyTimes {
        listeners: Duration::from_millis(100),
        sockets: Duration::from_millis(300),
        ..long()
    };
    let mut running = start(times);
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (clients, sockets) = connections(&listener, 2);
    let mut shard = Gateway::shard(&running, 1, 0, 1);
    shard.deposit(&[(1, &sockets[0]), (2, &sockets[1])]);
    shard.deposit_listener(3, &listener);
    shard.acknowledged(2);
    drop(shard);
    // This test still has descriptors of everything, as a gateway that hangs would.
    assert!(is_closed(&clients[0]) && is_closed(&clients[1]));
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(running.event(), CustodyEvent::AllGone);
    let counted = "dead_man_listeners 1 dead_man_sockets 2".to_owned();
    wait_until("both are counted", || running.held() == (0, 0, counted.clone()));
}

#[test]
fn a_peer_that_went_while_no_gateway_was_there_is_swept() {
    let times = CustodyTimes {
        listeners: Duration::from_millis(50),
        sweep: Duration::from_millis(20),
        ..long()
    };
    let mut running = start(times);
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (mut clients, sockets) = connections(&listener, 4);
    let mut shard = Gateway::shard(&running, 1, 0, 1);
    for (index, socket) in sockets.iter().enumerate() {
        shard.deposit(&[(index as u64 + 1, socket)]);
    }
    shard.acknowledged(4);

    // With a gateway: a connection that failed is dropped, and one that the peer has only half closed is the gateway's.
    let failed = clients.remove(3);
    socket2_reset(&failed);
    drop(failed);
    clients[2].shutdown(Shutdown::Write).unwrap();
    wait_until("the failed one is swept", || {
        running.held() == (3, 0, "swept 1".to_owned())
    });

    drop(shard);
    assert_eq!(running.event(), CustodyEvent::Gone([3].as_slice().into()));
    assert!(is_closed(&clients[2]));
    clients[0].shutdown(Shutdown::Write).unwrap();
    assert_eq!(running.event(), CustodyEvent::Gone([1].as_slice().into()));
    assert!(is_open(&clients[1]));
    assert_eq!(running.held(), (1, 0, "swept 3".to_owned()));
}

/// Makes the close a reset.
fn socket2_reset(socket: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_gateway_that_dies_while_it_takes_back_loses_nothing() {
    let running = start(long());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (clients, sockets) = connections(&listener, 1);
    let mut shard = Gateway::shard(&running, 1, 0, 1);
    shard.deposit_many(600, &sockets[0]);
    drop((shard, sockets));
    for incarnation in 2..6 {
        let mut dying = Gateway::connect(&running);
        dying.ask_back(incarnation, "pod-1");
        let Some(Answer::Return(back)) = dying.receive() else {
            panic!("nothing is returned");
        };
        assert_eq!((back.held.len(), dying.descriptors.len()), (253, 253));
        if incarnation % 2 == 0 {
            dying.send(Message::ReturnAck(ReturnAck {}));
        }
    }
    let taken = Gateway::take_back(&running, 6);
    let ids: std::collections::BTreeSet<u64> = taken.iter().map(|(held, _)| held.id).collect();
    assert_eq!((taken.len(), ids.len()), (600, 600));
    assert!(is_open(&clients[0]));
}

#[test]
fn many_are_taken_back_in_batches() {
    let running = start(long());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (_clients, sockets) = connections(&listener, 1);
    let mut shard = Gateway::shard(&running, 1, 0, 1);
    let began = Instant::now();
    shard.deposit_many(2_000, &sockets[0]);
    let deposited = began.elapsed();
    drop(shard);
    let began = Instant::now();
    let taken = Gateway::take_back(&running, 2);
    println!(
        "2,000 sockets deposited in {deposited:?}, taken back in {:?}",
        began.elapsed()
    );
    assert_eq!(taken.len(), 2_000);
    assert_eq!(running.held().0, 2_000);
}

/// What a gateway sent in the moment before it was killed is in the custodian's queue, or being read, when its successor comes.
#[test]
fn a_deposit_just_before_the_end_is_not_lost() {
    let running = start(long());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (_clients, sockets) = connections(&listener, 1);
    for incarnation in 1..=50 {
        let mut shard = Gateway::shard(&running, 2 * incarnation, 0, 1);
        for id in 1..=20 {
            shard.send_deposit(
                &[socket(100 * u64::from(incarnation) + id)],
                &[sockets[0].as_fd()],
            );
        }
        drop(shard);
        let mut taker = Gateway::connect(&running);
        taker.ask_back(2 * incarnation + 1, "pod-1");
        let taken = taker.take_all().len();
        assert_eq!(taken, 20 * incarnation as usize);
    }
}

#[test]
fn another_instance_closes_what_is_held_and_starts_anew() {
    let running = start(long());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (clients, sockets) = connections(&listener, 1);
    let mut shard = Gateway::shard(&running, 8, 0, 1);
    shard.deposit(&[(1, &sockets[0])]);
    shard.acknowledged(1);
    let mut other = Gateway::connect(&running);
    other.ask_back(1, "pod-2");
    assert_eq!(other.take_all().len(), 0);
    assert!(is_closed(&clients[0]));
    assert!(shard.is_ended());
    assert_eq!(running.held(), (0, 0, "orphan 1".to_owned()));
}

#[test]
fn who_breaks_the_rules_is_cut_off_alone() {
    let running = start(long());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (_clients, sockets) = connections(&listener, 1);
    let mut good = Gateway::shard(&running, 1, 0, 2);
    let rules: [&dyn Fn(&mut Gateway); 5] = [
        &|bad| bad.deposit_nothing(),
        &|bad| bad.send_deposit(&[socket(1), socket(2)], &[sockets[0].as_fd()]),
        &|bad| bad.send_deposit(&[socket(0)], &[sockets[0].as_fd()]),
        &|bad| bad.send_bytes(b"\xff\xff\xff"),
        &|bad| bad.send(Message::ReturnAck(ReturnAck {})),
    ];
    for (index, rule) in rules.iter().enumerate() {
        let mut bad = Gateway::shard(&running, 1, 1, 2);
        rule(&mut bad);
        assert!(bad.is_ended(), "rule {index}");
    }
    let mut silent = Gateway::connect(&running);
    silent.send(Message::Deposit(Deposit::default()));
    assert!(silent.is_ended());
    assert_eq!(running.refused("protocol"), 6);
    good.deposit(&[(1, &sockets[0])]);
    good.acknowledged(1);
    assert_eq!(running.held().0, 1);
}

/// Set for the child of `what_cannot_be_received_is_said_and_the_rest_stays_held`.
const FEW: &str = "IMACCESS_TEST_FEW_DESCRIPTORS";

#[test]
fn what_cannot_be_received_is_said_and_the_rest_stays_held() {
    // In a process of its own: the limit is the whole process's.
    if std::env::var_os(FEW).is_some() {
        return with_few_descriptors();
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "custody::tests::what_cannot_be_received_is_said_and_the_rest_stays_held",
            "--nocapture",
        ])
        .env(FEW, "1")
        .output()
        .unwrap();
    assert!(
        child.status.success(),
        "{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

fn with_few_descriptors() {
    let running = start(long());
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let few = rustix::process::Rlimit {
        current: Some(400),
        ..limit
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (clients, sockets) = connections(&listener, 1);
    let mut shard = Gateway::shard(&running, 1, 0, 1);
    shard.deposit_many(253, &sockets[0]);
    let ids: Vec<_> = (300..553).map(|id| (id, &sockets[0])).collect();
    shard.deposit(&ids);
    assert!(shard.is_ended());
    assert_eq!(running.refused("descriptors"), 1);
    assert_eq!(running.held().0, 253);
    // It dials again, and has fewer now.
    let mut shard = Gateway::shard(&running, 1, 0, 1);
    shard.deposit(&ids[..9]);
    shard.acknowledged(1);
    assert_eq!(running.held().0, 262);
    assert!(is_open(&clients[0]));
}

#[test]
fn the_socket_is_private_and_comes_back_when_the_volume_was_emptied() {
    let running = start(long());
    let directory = running.directory();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&Custody::path(&directory)), 0o600);
    std::fs::remove_dir_all(&directory).unwrap();
    wait_until("it is bound again", || Custody::path(&directory).exists());
    wait_until("it is served", || {
        imaccess_net::descriptors::DescriptorSocket::connect(&Custody::path(&directory)).is_ok()
    });
    Gateway::shard(&running, 1, 0, 1);
    assert_eq!(mode(&directory), 0o700);
    Custody::remove(&directory).unwrap();
    Custody::remove(&directory).unwrap();
}

/// Its planned end closes nothing: the gateway has everything too.
#[test]
fn a_custodian_that_stops_closes_nothing() {
    let running = start(long());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (clients, sockets) = connections(&listener, 1);
    let mut shard = Gateway::shard(&running, 1, 0, 1);
    shard.deposit(&[(1, &sockets[0])]);
    shard.acknowledged(1);
    let sockets: Vec<OwnedFd> = sockets;
    let directory = running.stop();
    assert!(shard.is_ended());
    assert!(is_open(&clients[0]));
    // The next one gets it all again.
    let running = Running::start(directory, long());
    let mut shard = Gateway::shard(&running, 1, 0, 1);
    shard.deposit(&[(1, &sockets[0])]);
    shard.acknowledged(1);
    assert_eq!(running.held().0, 1);
}
