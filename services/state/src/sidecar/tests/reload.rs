//! Businesses and keys that change while connections go on.

use imaccess_common::ticket::TicketKeys;

use super::harness::CLUSTER;
use super::*;

fn listed(address: SocketAddr, more: &str) -> String {
    format!("- {{id: 1, name: echo, endpoint: 'http://{address}', {more}}}\n")
}

#[tokio::test]
async fn a_business_comes_moves_and_goes_and_no_connection_is_closed() {
    let (one, mut of_one) = business().await;
    let (other, mut of_other) = business().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("businesses.yaml");
    std::fs::write(&file, "[]").unwrap();
    let running = start(vec![], |config| config.businesses_file = Some(file.clone())).await;
    let mut shard = gateway(running.directory.path(), 0, 1);
    let mut link = attach(&mut shard).await;
    assert!(link.policy().await.businesses.is_empty());
    logged_in(&link.login(running.attempt(1, "alice", b"", &[])).await);
    link.request(1, 1, 1, b"anyone?").await;
    assert_eq!(link.reply(1).await.1, Code::BusinessUnknown as u16);

    std::fs::write(&file, listed(one, "queue_bytes: 77B")).unwrap();
    assert_eq!(link.policy().await.businesses[0].queue_bytes, 77);
    let mut stream = soon(of_one.recv()).await.unwrap();
    let echo = tokio::spawn(async move { stream.echo_one().await.map(|()| stream) });
    assert_eq!(call(&mut link, 1, 2, b"one").await.2, b"one");
    let mut stream = soon(echo).await.unwrap().unwrap();

    // A file that can't be used changes nothing.
    std::fs::write(&file, "- {id: 1}").unwrap();
    let failed = "imaccess_configuration_last_reload_successful{what=\"businesses\"} 0";
    soon(async {
        while !running.metrics().await.contains(failed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    link.request(1, 1, 3, b"still").await;
    stream.echo_one().await.unwrap();
    assert_eq!(link.reply(1).await.2, b"still");

    std::fs::write(&file, listed(other, "queue_bytes: 78B")).unwrap();
    let mut moved = soon(of_other.recv()).await.unwrap();
    assert_eq!(link.policy().await.businesses[0].queue_bytes, 78);
    link.request(1, 1, 4, b"other").await;
    // Which of the two is asked depends on whether the sidecar has seen the new stream; nobody is told to ask again.
    let echoed = tokio::select! {
        echoed = moved.echo_one() => echoed,
        echoed = stream.echo_one() => echoed,
    };
    if echoed.is_none() {
        // It had nothing more to do and has ended: the new one is asked.
        moved.echo_one().await.unwrap();
    }
    assert_eq!(link.reply(1).await.2, b"other");
    // Its old stream ends.
    soon(async { while stream.echo_one().await.is_some() {} }).await;

    std::fs::write(&file, "[]").unwrap();
    assert!(link.policy().await.businesses.is_empty());
    link.request(1, 1, 5, b"gone").await;
    assert_eq!(link.reply(1).await.1, Code::BusinessUnknown as u16);
}

#[tokio::test]
async fn tickets_are_sealed_with_a_new_key_and_those_of_the_old_one_are_good() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tickets");
    let key = |id: u8| format!("{id} {}\n", "0a".repeat(31) + &format!("{id:02x}"));
    std::fs::write(&file, key(2)).unwrap();
    let running = start(vec![], |config| {
        config.ticket_keys.clear();
        config.ticket_keys_file = Some(file.clone());
    })
    .await;
    let mut shard = gateway(running.directory.path(), 0, 1);
    let mut link = attach(&mut shard).await;
    let (_, ticket) = logged_in(&link.login(running.attempt(1, "alice", b"", &[])).await);
    let with_the_new = TicketKeys::new(CLUSTER, vec![(3, parse(&key(3)))]);
    assert!(with_the_new.open(&ticket, 0).is_err());
    let generation = "imaccess_configuration_generation{what=\"ticket_keys\"} ";
    let shown = |page: &str| {
        page.lines()
            .find_map(|line| line.strip_prefix(generation))
            .map(str::to_owned)
    };
    let before = shown(&running.metrics().await);
    std::fs::write(&file, key(3) + &key(2)).unwrap();
    soon(async {
        while shown(&running.metrics().await) == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // The page is a moment ahead of the worker.
    let mut handle = 1;
    loop {
        link.closed(handle, Code::ConnectionLost).await;
        handle += 1;
        let login = link.login(running.attempt(handle, "alice", &ticket, &[])).await;
        let (ok, resealed) = logged_in(&login);
        assert!(ok.resumed);
        if with_the_new.open(&resealed, 0).is_ok() {
            break;
        }
    }
}

fn parse(line: &str) -> [u8; 32] {
    let (_, digits) = line.trim().split_once(' ').unwrap();
    hex::decode(digits).unwrap().try_into().unwrap()
}
