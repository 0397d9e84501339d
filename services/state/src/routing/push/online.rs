//! Whether devices have a session: read from the route table, without asking anybody.

use imaccess_proto::v1::{Presence, PresenceStatus, QueryOnlineRequest};

use super::peer;
use crate::routing::hub::Hub;
use crate::routing::store::RouteStore;

/// What is known of each device, in the request's order.
pub(super) async fn query<S: RouteStore>(hub: &Hub<S>, request: &QueryOnlineRequest) -> Vec<Presence> {
    let said = |status: PresenceStatus, gateway: &str| Presence {
        status: status.into(),
        gateway: gateway.to_owned(),
    };
    let known_before = hub.offline_known();
    let mut routes = Vec::with_capacity(request.devices.len());
    let found = hub
        .store
        .routes(&request.app, &request.devices, &mut routes)
        .await;
    if let Err(fault) = found {
        tracing::warn!(%fault, "questions who is online answer retry");
        return vec![said(PresenceStatus::Retry, ""); request.devices.len()];
    }
    let without_route = if known_before && hub.offline_known() {
        PresenceStatus::Offline
    } else {
        PresenceStatus::Retry
    };
    let awake = hub.is_awake();
    let peers = hub.peers();
    let decide = |route: &Option<crate::routing::table::Route>| match route {
        None => said(without_route, ""),
        // Of an instance that isn't in sync it isn't known what has happened there since.
        Some(route) => match peer(&peers, route.instance) {
            Some(peer) if awake && peer.is_in_sync() => said(PresenceStatus::Online, &peer.name),
            _ => said(PresenceStatus::Retry, ""),
        },
    };
    routes.iter().map(decide).collect()
}
