//! What is said of devices without a route when instances come and go while the routes are being looked up.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use imaccess_proto::v1::{Outcome, PresenceStatus, PushDevicesRequest, QueryOnlineRequest};
use prometheus::Registry;

use super::devices::{self, Pushed};
use super::online;
use crate::routing::RoutingConfig;
use crate::routing::hub::{Hub, Peer};
use crate::routing::metrics::RoutingMetrics;
use crate::routing::store::MemoryStore;

/// More than the store looks up before others get their turn.
const MANY: usize = 2_000;

/// A hub that knows of one instance, which it has still to hear.
fn hub() -> (Hub<MemoryStore>, Arc<Peer>) {
    let config = RoutingConfig::default();
    let hub = Hub::new(
        MemoryStore::default(),
        &config,
        RoutingMetrics::register(&Registry::new()),
    );
    let peer = hub.join(&"a".into(), "a");
    hub.membership_heard();
    hub.connected(&peer);
    (hub, peer)
}

/// Does something when the look-up is half done.
async fn half_way<T>(call: impl Future<Output = T>, change: impl FnOnce()) -> T {
    let mut call = pin!(call);
    tokio::select! {
        biased;
        _ = &mut call => panic!("{MANY} devices were looked up in one go"),
        () = std::future::ready(()) => change(),
    }
    call.await
}

/// What is said of devices that nobody has heard of, by both calls, when `change` happens half-way.
async fn said(
    hub: &Hub<MemoryStore>,
    before: impl Fn(),
    change: impl Fn(),
) -> (Vec<Outcome>, Vec<PresenceStatus>) {
    let names: Vec<String> = (0..MANY).map(|number| format!("d-{number}")).collect();
    let push = PushDevicesRequest::default();
    let pushed = Pushed::new(&push);
    before();
    let mut outcomes = half_way(devices::reach(hub, "shop", &names, &pushed), &change).await;
    let query = QueryOnlineRequest {
        app: "shop".to_owned(),
        devices: names,
        ..QueryOnlineRequest::default()
    };
    before();
    let presences = half_way(online::query(hub, &query), &change).await;
    let mut statuses: Vec<PresenceStatus> = presences.iter().map(|presence| presence.status()).collect();
    outcomes.dedup();
    statuses.dedup();
    (outcomes, statuses)
}

#[tokio::test]
async fn who_is_not_found_is_offline_only_if_all_was_known_throughout() {
    let (hub, peer) = hub();
    let heard = || {
        hub.connected(&peer);
        hub.synced(&peer);
    };
    let broken = || hub.broken(&peer);
    let not_known = (vec![Outcome::Retry], vec![PresenceStatus::Retry]);
    // What was looked up already may be in what was heard only then.
    assert_eq!(said(&hub, broken, heard).await, not_known);
    assert_eq!(said(&hub, heard, broken).await, not_known);
    assert_eq!(said(&hub, broken, || ()).await, not_known);
    let offline = (vec![Outcome::Offline], vec![PresenceStatus::Offline]);
    assert_eq!(said(&hub, heard, || ()).await, offline);
}
