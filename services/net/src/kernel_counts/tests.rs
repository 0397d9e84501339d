use super::*;
use std::os::unix::net::UnixStream;

#[test]
fn this_kernel_counts_as_expected() {
    let began = Instant::now();
    let found = self_test().unwrap();
    println!("{found:?} in {:?}", began.elapsed());
    assert!(found.is_some());
    assert!(counts_can_be_trusted());
}

#[test]
fn each_trial_holds_by_itself_and_fails_with_another_constant() {
    let constants = constants().unwrap();
    let trials: [(&str, Trial); 4] = [
        ("reading", reading_counts),
        ("finishing", finishing_counts),
        ("writing", writing_counts),
        ("full", a_full_buffer_counts),
    ];
    // A constant of a kernel that counts one byte more.
    let (read, written) = (constants.read + 1, constants.written + 1);
    for (name, trial) in trials {
        assert!(trial(constants).unwrap(), "{name}");
        assert!(!trial(Constants { read, written }).unwrap(), "{name}");
    }
}

#[test]
fn both_ways_at_once_and_by_another_holder() {
    let mut pair = Pair::new().unwrap();
    pair.peer.write_all(&[1; 40]).unwrap();
    pair.arrived(40).unwrap();
    let mut duplicate = pair.accepted.try_clone().unwrap();
    duplicate.read_exact(&mut [0; 15]).unwrap();
    duplicate.write_all(&[2; 7]).unwrap();
    let found = kernel_counts(&pair.accepted).unwrap().unwrap();
    assert_eq!((found.read, found.written, found.peer_finished), (15, 7, false));
}

#[test]
fn what_is_no_open_tcp_connection_is_an_error() {
    let (one, _other) = UnixStream::pair().unwrap();
    assert!(kernel_counts(&one).is_err());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let fault = kernel_counts(&listener).unwrap_err();
    assert_eq!(fault.kind(), io::ErrorKind::NotConnected);

    let pair = Pair::new().unwrap();
    rustix::net::sockopt::set_socket_linger(&pair.peer, Some(Duration::ZERO)).unwrap();
    drop(pair.peer);
    let reset = loop {
        match kernel_counts(&pair.accepted) {
            Ok(_) => std::thread::yield_now(),
            Err(error) => break error,
        }
    };
    assert_eq!(reset.kind(), io::ErrorKind::NotConnected);
}

#[test]
fn our_own_end_is_no_byte() {
    let mut pair = Pair::new().unwrap();
    pair.accepted.write_all(&[1; 9]).unwrap();
    pair.accepted.shutdown(Shutdown::Write).unwrap();
    let found = kernel_counts(&pair.accepted).unwrap().unwrap();
    assert_eq!((found.read, found.written), (0, 9));
    let mut received = Vec::new();
    pair.peer.read_to_end(&mut received).unwrap();
    let found = kernel_counts(&pair.accepted).unwrap().unwrap();
    assert_eq!((received.len(), found.written), (9, 9));
}
