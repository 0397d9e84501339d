//! Which of two logins of a device is the later one, where replicas have heard differently.

use imaccess_proto::v1::FromSidecar;

use super::harness::Running;
use super::*;

async fn in_sync(running: &Running) -> Replica {
    let mut replica = Replica::follow(running.routes).await;
    let heard = replica.read_until(|message| message.snapshot_done).await;
    replica.acknowledge(heard.last().unwrap().sequence).await;
    replica
}

async fn announced(replica: &mut Replica) -> FromSidecar {
    let heard = replica
        .read_until(|message| !message.announcements.is_empty())
        .await;
    heard.last().unwrap().clone()
}

#[tokio::test]
async fn it_is_judged_by_what_the_replica_that_compares_them_has_heard() {
    let running = start(Vec::new(), |config| config.routing = RoutingMode::Required).await;
    let mut shard = gateway(running.directory.path(), 0, 1);
    let mut link = attach(&mut shard).await;
    let (mut one, mut other) = (in_sync(&running).await, in_sync(&running).await);
    let result = link.login(running.attempt(1, "device", b"", &[])).await;
    let (ok, _) = logged_in(&result);
    let first = announced(&mut one).await;
    let heard = announced(&mut other).await;
    // The other has taken it, and has been listened to: only then is what it asks answered.
    let stale = UnicastPush {
        id: 1,
        locator: heard.announcements[0].locator,
        epoch: ok.epoch - 1,
        ..UnicastPush::default()
    };
    let taken = FromRouting {
        acknowledged: heard.sequence,
        unicasts: vec![stale],
        ..FromRouting::default()
    };
    other.send(taken).await;
    other.read_until(|message| message.receipts.is_some()).await;

    // The one that compares them had heard of the elsewhere before: this one is the later login, whatever the other has taken.
    let outranked = |message: &FromSidecar, winner_epoch| Outranked {
        app: "app".to_owned(),
        device: "device".to_owned(),
        session: message.announcements[0].session.clone(),
        epoch: message.announcements[0].epoch,
        locator: message.announcements[0].locator,
        winner_epoch,
        winner_session: Bytes::from_static(&[9; 16]),
    };
    let higher = ok.epoch + (1 << 40);
    let compared = FromRouting {
        outranked: vec![outranked(&first, higher)],
        acknowledged: first.sequence,
        ..FromRouting::default()
    };
    one.send(compared).await;
    let again = announced(&mut one).await;
    assert!(again.announcements[0].epoch > higher, "the later login wins");
    one.acknowledge(again.sequence).await;

    // Now it knows of it, and what outranks it came later; also while the other says nothing.
    let compared = FromRouting {
        outranked: vec![outranked(&again, again.announcements[0].epoch + 1)],
        ..FromRouting::default()
    };
    one.send(compared).await;
    assert_eq!(link.close_of(1).await, Code::Superseded as u32);
}
