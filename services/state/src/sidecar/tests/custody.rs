//! The sidecar as custodian: what it is told, the sessions hear.

use std::time::Duration;

use imaccess_net::descriptors::DescriptorSocket;
use imaccess_proto::v1::{CustodyHello, Deposit, Held, HeldKind, ToCustodian, to_custodian};
use prost::Message as _;
use tokio::io::AsyncReadExt;

use super::*;

fn packet(message: to_custodian::Message) -> Vec<u8> {
    ToCustodian {
        message: Some(message),
    }
    .encode_to_vec()
}

#[tokio::test]
async fn sessions_are_suspended_when_no_gateway_comes_for_their_sockets() {
    let running = start(Vec::new(), |config| {
        config.custody_listeners = Duration::from_millis(20);
        config.custody_sockets = Duration::from_millis(50);
    })
    .await;
    let mut shard = gateway(running.directory.path(), 0, 1);
    let mut link = attach(&mut shard).await;
    for handle in [1, 2] {
        let name = format!("device-{handle}");
        let result = link.login(running.attempt(handle, &name, b"", &[])).await;
        logged_in(&result);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let custodian = DescriptorSocket::connect(&Custody::path(running.directory.path())).unwrap();
    let hello = CustodyHello {
        oldest_generation: 1,
        newest_generation: 1,
        instance: "pod-1".to_owned(),
        incarnation: 1,
        shard: 0,
        shards: 1,
    };
    custodian
        .send(&packet(to_custodian::Message::Hello(hello)), &[])
        .unwrap();
    let held = Held {
        id: 1_001,
        kind: HeldKind::Socket.into(),
        ..Held::default()
    };
    let deposit = to_custodian::Message::Deposit(Deposit { held: vec![held] });
    custodian
        .send(&packet(deposit), &[std::os::fd::AsFd::as_fd(&socket)])
        .unwrap();

    // The gateway dies: no link comes back, and nobody is with the custodian.
    std::fs::remove_file(running.directory.path().join("shard-0.sock")).unwrap();
    drop((link, shard, custodian));
    assert_eq!(soon(client.read(&mut [0])).await.unwrap(), 0);
    let wanted = "imaccess_state_session_ends_total{reason=\"connection_lost\",what=\"suspended\"} 2";
    soon(async {
        while !running.metrics().await.contains(wanted) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let page = running.metrics().await;
    assert!(page.contains("imaccess_state_custody_closed_total{reason=\"dead_man_sockets\"} 1"));
    assert!(page.contains("imaccess_state_custody_held{kind=\"sockets\"} 0"));
}

#[tokio::test]
async fn without_custody_there_is_no_socket_and_a_stale_one_goes() {
    let running = start(Vec::new(), |_| ()).await;
    let path = Custody::path(running.directory.path());
    assert!(path.exists());
    let config = SidecarConfig {
        custody: false,
        ..running.config.clone()
    };
    let sidecar = Sidecar::bind(config).await.unwrap();
    assert!(!path.exists());
    drop(sidecar);

    let blocked = tempfile::tempdir().unwrap();
    std::fs::create_dir(Custody::path(blocked.path())).unwrap();
    let config = SidecarConfig {
        socket_dir: blocked.path().to_owned(),
        ..running.config.clone()
    };
    let Err(fault) = Sidecar::bind(config).await else {
        panic!("a directory is no socket");
    };
    let text = fault.to_string();
    assert!(
        text.contains("custody.sock") && text.contains("for custody"),
        "{text}"
    );
}
