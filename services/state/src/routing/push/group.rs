//! Group pushes: numbered here, sent once to each instance that has members.

use std::sync::PoisonError;

use imaccess_proto::v1::{DeliveryClass, GroupPush, PushGroupRequest, PushGroupResponse};
use tonic::Status;

use super::{expires_ms, peer};
use crate::routing::hub::Hub;
use crate::routing::outbox::NotTaken;
use crate::routing::store::RouteStore;

/// Numbers a group push and hands it to the instances with members.
pub(super) async fn push<S: RouteStore>(
    hub: &Hub<S>,
    request: PushGroupRequest,
) -> Result<PushGroupResponse, Status> {
    let mut members = Vec::new();
    let looked_up = hub
        .store
        .members(request.business, &request.group, &mut members)
        .await;
    looked_up.map_err(|fault| Status::unavailable(fault.to_string()))?;
    let peers = hub.peers();
    let targets = || members.iter().filter_map(|&instance| peer(&peers, instance));
    let key = hub.keyer.group(request.business, &request.group);
    let mut push = GroupPush {
        business: request.business,
        group: request.group,
        group_epoch: hub.replica,
        sequence: 0,
        payload: request.payload,
        class: DeliveryClass::AtMostOnce.into(),
        priority: request.priority,
        expires_ms: expires_ms(request.ttl_ms),
    };

    let mut numbering = hub.numbering.lock().unwrap_or_else(PoisonError::into_inner);
    let room: Vec<_> = targets()
        .map(|peer| peer.outbox.has_room(push.payload.len()))
        .collect();
    if room.contains(&Err(NotTaken::Full)) && !room.contains(&Ok(())) {
        hub.metrics.group_full.inc();
        return Err(Status::resource_exhausted(
            "the queues to the group's gateways are full; push again later",
        ));
    }
    push.sequence = numbering.next(key);
    let (mut sent, mut full) = (0, 0);
    for peer in targets() {
        match peer.outbox.push_group(push.clone()) {
            Ok(()) => sent += 1,
            // One slow instance doesn't hold up the others: its members see a gap, the caller hears of it.
            Err(NotTaken::Full) => full += 1,
            // It is not in sync, and counted as such below.
            Err(NotTaken::Closed) => (),
        }
    }
    drop(numbering);

    hub.metrics.group_sent.inc();
    hub.metrics.group_messages.inc_by(u64::from(sent));
    hub.metrics.group_instance_full.inc_by(full);
    let unsynced = hub.unsynced() as u64 + full;
    Ok(PushGroupResponse {
        group_epoch: hub.replica,
        sequence: push.sequence,
        instances: sent,
        unsynced: u32::try_from(unsynced).unwrap_or(u32::MAX),
    })
}
