//! Tells businesses, through a sidecar that lives, which devices went with an instance that doesn't.
//!
//! Every replica does so for itself, in the hope of saying it all to the same sidecar, which says it on once: the one of the lowest name
//! that is in sync. Where the replicas see things differently, or that sidecar goes as well, businesses hear it twice: events are at
//! least once, and these two have the same session and epoch.

use std::sync::Arc;
use std::time::Duration;

use imaccess_proto::v1::{LostSession, LostSessions};

use super::hub::{Hub, Peer};
use super::store::RouteStore;
use super::table::LostRoute;

/// Sessions per message: about 100 KB.
const PER_MESSAGE: usize = 1_000;
/// Until another attempt, when no sidecar took it.
const PAUSE: Duration = Duration::from_millis(500);

/// Says all of it, as often as it takes: for as long as no sidecar lives there is nobody to say it to.
pub(crate) async fn tell<S: RouteStore>(hub: &Hub<S>, of: &Peer, lost: &[LostRoute]) {
    if lost.is_empty() {
        return;
    }
    tracing::info!(instance = %of.instance, name = of.name, devices = lost.len(), "the devices of a lost instance are offline");
    hub.metrics.lost_devices.inc_by(lost.len() as u64);
    for part in lost.chunks(PER_MESSAGE) {
        while !say(hub, of, part).await {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn say<S: RouteStore>(hub: &Hub<S>, of: &Peer, part: &[LostRoute]) -> bool {
    let Some(peer) = teller(hub) else { return false };
    let Some(mut gathering) = hub.gathers.begin(vec![peer.index]) else {
        return false;
    };
    let sessions = part.iter().map(|route| LostSession {
        app: route.app.clone(),
        device: route.device.clone(),
        session: route.session.as_bytes().to_vec().into(),
        epoch: route.epoch.0,
    });
    let said = peer.outbox.lost(LostSessions {
        id: gathering.id,
        instance: of.instance.0.clone(),
        sessions: sessions.collect(),
    });
    if said.is_err() {
        return false;
    }
    let answered = tokio::time::timeout(hub.receipt_timeout, gathering.complete()).await;
    answered.is_ok() && gathering.finish().missing == 0
}

/// The sidecar of the lowest name that is in sync.
fn teller<S: RouteStore>(hub: &Hub<S>) -> Option<Arc<Peer>> {
    let peers = hub.peers();
    let in_sync = peers.iter().flatten().filter(|peer| peer.is_in_sync());
    in_sync
        .min_by(|one, other| one.instance.0.cmp(&other.instance.0))
        .cloned()
}
