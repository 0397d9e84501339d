//! Gateways and sidecars that are replaced while the other goes on, over real sockets.

use imaccess_proto::v1::{GatewayHello, Quiesce, SnapshotChunk, Takeover};

use super::harness::{Running, ServeStream, gateway_saying, hello};
use super::*;

fn next_hello(shards: u32, takeover: Takeover) -> GatewayHello {
    GatewayHello {
        incarnation: 2,
        takeover: takeover as i32,
        ..hello(0, shards)
    }
}

/// Sends a request and waits until the business has it.
async fn in_flight(
    link: &mut LinkStream,
    stream: &mut ServeStream,
    handle: u64,
    message_id: u64,
) -> imaccess_proto::v1::BusinessRequest {
    loop {
        link.request(handle, 1, message_id, b"wait").await;
        tokio::select! {
            message = stream.next() => {
                if let Some(request) = message.requests.into_iter().next() {
                    return request;
                }
            }
            // The worker hasn't heard yet that the business is there.
            reply = link.reply(handle) => assert_eq!(reply.1, Code::BusinessUnavailable as u16),
        }
    }
}

async fn one_device(shards: u32, on: u32) -> (Running, LinkStream, ServeStream, mpsc::Receiver<ServeStream>) {
    let (address, mut streams) = business().await;
    let running = start(vec![echo_business(address)], |config| {
        config.drain_grace = Duration::from_millis(100);
    })
    .await;
    let mut there = Vec::new();
    for shard in 0..shards {
        let mut served = gateway(running.directory.path(), shard, shards);
        there.push(attach(&mut served).await);
    }
    let mut link = there.remove(on as usize);
    let handle = u64::from(on) << 56 | 1;
    let login = running.attempt(handle, "device", b"", &[(1, b"room")]);
    assert!(link.login(login).await.accepted);
    let mut stream = soon(streams.recv()).await.unwrap();
    while !stream.instance.ends_with(&format!("/{on}.0")) {
        stream.echo();
        stream = soon(streams.recv()).await.unwrap();
    }
    stream.events(1).await;
    stream.acknowledge(1).await;
    // Those of the other shards end.
    drop(there);
    (running, link, stream, streams)
}

async fn answer(stream: &ServeStream, id: u64) {
    let reply = imaccess_proto::v1::BusinessReply {
        id,
        payload: Bytes::from_static(b"late"),
        ..Default::default()
    };
    let message = imaccess_proto::v1::FromBusiness {
        replies: vec![reply],
        event_ack: 0,
        ..Default::default()
    };
    stream.to_access.send(Ok(message)).await.unwrap();
}

#[tokio::test]
async fn a_gateway_that_is_replaced_loses_neither_reply_nor_group_nor_push() {
    let (running, mut link, mut stream, _streams) = one_device(1, 0).await;
    let mut replica = Replica::follow(running.routes).await;
    replica.read_until(|message| message.snapshot_done).await;
    let request = in_flight(&mut link, &mut stream, 1, 5).await;
    link.quiesce(Quiesce::Begin).await;
    link.until_quiesce(Quiesce::Done).await;
    answer(&stream, request.id).await;
    let push = GroupPush {
        business: 1,
        group: Bytes::from_static(b"room"),
        sequence: 4,
        payload: Bytes::from_static(b"all"),
        ..GroupPush::default()
    };
    let groups = vec![push];
    replica
        .send(FromRouting {
            groups,
            ..FromRouting::default()
        })
        .await;
    // Whatever was sent before this is with the worker now.
    let heard = replica.send(FromRouting {
        unicasts: vec![UnicastPush {
            id: 79,
            ..UnicastPush::default()
        }],
        ..FromRouting::default()
    });
    heard.await;
    replica.read_until(|message| message.receipts.is_some()).await;
    link.quiesce(Quiesce::Done).await;
    let mut next = gateway_saying(running.directory.path(), next_hello(1, Takeover::Planned));
    drop(link);

    let mut link = soon(next.recv()).await.unwrap();
    link.snapshot(&[(11, 1_001, Bytes::new())]).await;
    let row = link.find(|batch| batch.sessions.pop()).await;
    assert!(row.handle == 11 && !row.ticket.is_empty() && row.ping_interval_s == 60);
    let membership = link.find(|batch| batch.memberships.pop()).await;
    assert_eq!(
        (membership.handle, &membership.group[..], membership.member),
        (11, &b"room"[..], true)
    );
    assert_eq!(link.reply(11).await, (5, 0, b"late".to_vec()));
    let group = link.find(|batch| batch.groups.pop()).await;
    assert_eq!(group.sequence, 4);
    stream.echo();
    assert_eq!(call(&mut link, 11, 6, b"on").await, (6, 0, b"on".to_vec()));
    let page = running.metrics().await;
    assert!(page.contains("imaccess_state_link_breaks_total 0"), "{page}");
    assert!(page.contains("imaccess_state_frames_lost_total 0"), "{page}");
}

#[tokio::test]
async fn a_sidecar_that_is_replaced_answers_everything_before_it_ends() {
    let (running, mut link, mut stream, _streams) = one_device(1, 0).await;
    let quick = in_flight(&mut link, &mut stream, 1, 5).await;
    let slow = in_flight(&mut link, &mut stream, 1, 6).await;
    let begun = std::time::Instant::now();
    running.drain.begin();
    link.until_quiesce(Quiesce::Begin).await;
    // What the gateway had read still comes, and is answered.
    let last = in_flight(&mut link, &mut stream, 1, 7).await;
    link.quiesce(Quiesce::Done).await;
    answer(&stream, quick.id).await;
    answer(&stream, last.id).await;
    assert_eq!(link.reply(1).await, (5, 0, b"late".to_vec()));
    assert_eq!(link.reply(1).await, (7, 0, b"late".to_vec()));
    assert_eq!(
        link.reply(1).await,
        (6, Code::Retry as u16, Vec::new()),
        "{slow:?} waits for nothing"
    );
    link.until_quiesce(Quiesce::Done).await;
    assert!(link.rest().await.is_empty(), "nothing after done");
    drop(link);
    soon(running.ended).await.unwrap();
    println!("gone after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_gateway_that_never_answers_is_not_waited_for() {
    let (running, mut link, stream, _streams) = one_device(1, 0).await;
    stream.echo();
    running.drain.begin();
    link.until_quiesce(Quiesce::Begin).await;
    soon(running.ended).await.unwrap();
}

#[tokio::test]
async fn a_gateway_of_the_first_generation_hears_nothing_new() {
    let running = start(Vec::new(), |_| ()).await;
    let old = GatewayHello {
        newest_generation: 0,
        ..hello(0, 1)
    };
    let mut shard = gateway_saying(running.directory.path(), old);
    let mut link = attach(&mut shard).await;
    let result = link.login(running.attempt(1, "device", b"", &[])).await;
    let (_, ticket) = logged_in(&result);
    // Its next start lists the connection of nobody: that is closed, and nothing is settled.
    link.closed(1, Code::ClientLeft).await;
    link.login(running.attempt(2, "device", &ticket, &[])).await;
    running.drain.begin();
    for batch in link.rest().await {
        assert!(
            batch.quiesce == 0 && batch.settled.is_empty() && batch.sessions.is_empty(),
            "{batch:?}"
        );
    }
    soon(running.ended).await.unwrap();
}

#[tokio::test]
async fn a_gateway_that_shares_no_generation_is_refused() {
    let running = start(Vec::new(), |_| ()).await;
    let strange = GatewayHello {
        link_generation: 7,
        newest_generation: 9,
        ..hello(0, 1)
    };
    let mut shard = gateway_saying(running.directory.path(), strange);
    let mut link = soon(shard.recv()).await.unwrap();
    let said = link.rest().await;
    let hello = said[0].hello.as_ref().unwrap();
    assert_eq!((hello.link_generation, hello.newest_generation), (1, 3));
    assert_eq!(said.len(), 1);
    let mut ours = gateway(running.directory.path(), 0, 1);
    let mut link = attach(&mut ours).await;
    assert!(link.login(running.attempt(1, "device", b"", &[])).await.accepted);
}

#[tokio::test]
async fn with_fewer_shards_the_sessions_go_on_with_another_worker() {
    let (running, mut link, mut stream, mut streams) = one_device(2, 1).await;
    let handle = 1 << 56 | 1;
    let first = in_flight(&mut link, &mut stream, handle, 5).await;
    std::fs::remove_file(running.directory.path().join("shard-1.sock")).unwrap();
    let mut next = gateway_saying(running.directory.path(), next_hello(1, Takeover::Crashed));
    drop(link);
    let mut link = soon(next.recv()).await.unwrap();
    let chunk = SnapshotChunk {
        handle: vec![21, 22],
        serial: vec![handle + 1_000, 5],
        ticket_length: vec![0, 0],
        forwarded: vec![9, 0],
        done: true,
        ..SnapshotChunk::default()
    };
    link.send(GatewayBatch {
        snapshot: Some(chunk),
        ..GatewayBatch::default()
    })
    .await;
    let row = link.find(|batch| batch.sessions.pop()).await;
    assert_eq!(row.handle, 21);
    assert_eq!(link.close_of(22).await, Code::SessionLost as u32);
    let membership = link.find(|batch| batch.memberships.pop()).await;
    assert_eq!(membership.handle, 21);
    assert_eq!(link.reply(21).await.0, 5, "{first:?} is answered retry");
    // The stream of worker 0 came before, and echoes; if it comes now it does as well.
    if let Ok(stream) = streams.try_recv() {
        stream.echo();
    }
    assert_eq!(call(&mut link, 21, 5, b"again").await, (5, 0, b"again".to_vec()));
}
