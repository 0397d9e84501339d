//! What goes to many instances at once and is answered by each: broadcasts, and questions about groups.

use std::sync::Arc;

use imaccess_proto::v1::{
    BroadcastPush, BroadcastRequest, BroadcastResponse, GroupAction, GroupCommand, ListMembersResponse,
};
use tonic::Status;

use super::{expires_ms, peer};
use crate::routing::gathers::Gathered;
use crate::routing::hub::{Hub, Peer};
use crate::routing::outbox::{NotTaken, Outbox};
use crate::routing::store::RouteStore;

/// Sends a push to every instance, for all whom its filter lets through.
pub(super) async fn broadcast<S: RouteStore>(
    hub: &Hub<S>,
    request: BroadcastRequest,
) -> Result<BroadcastResponse, Status> {
    let peers: Vec<Arc<Peer>> = hub.peers().iter().flatten().cloned().collect();
    let push = BroadcastPush {
        id: 0,
        business: request.business,
        filter: request.filter,
        payload: request.payload,
        priority: request.priority,
        expires_ms: expires_ms(request.ttl_ms),
        message_id: request.message_id,
    };
    let asked = ask(hub, &peers, |outbox, id| {
        outbox.broadcast(BroadcastPush { id, ..push.clone() })
    });
    let (gathered, sent) = asked.await?;
    hub.metrics.broadcast_messages.inc_by(u64::from(sent));
    Ok(BroadcastResponse {
        devices: gathered.answers.iter().map(|answer| answer.count).sum(),
        unknown: gathered.answers.iter().map(|answer| answer.unknown).sum(),
        instances: sent,
        unsynced: gathered.missing,
    })
}

/// Counts a group's members, or ends all memberships, and names some.
pub(super) async fn command_group<S: RouteStore>(
    hub: &Hub<S>,
    action: GroupAction,
    business: u32,
    group: bytes::Bytes,
    limit: u32,
) -> Result<ListMembersResponse, Status> {
    let peers = match action {
        // A membership that is kept for a session without a connection is known to nobody but its instance.
        GroupAction::Destroy => hub.peers().iter().flatten().cloned().collect(),
        GroupAction::List | GroupAction::Unspecified => with_members(hub, business, &group).await?,
    };
    let command = GroupCommand {
        id: 0,
        action: action.into(),
        business,
        group,
        limit,
    };
    let asked = ask(hub, &peers, |outbox, id| {
        outbox.command_group(GroupCommand {
            id,
            ..command.clone()
        })
    });
    let (mut gathered, _) = asked.await?;
    let mut members = Vec::new();
    for answer in &mut gathered.answers {
        members.append(&mut answer.members);
    }
    members.truncate(limit as usize);
    // Those that aren't in sync may have members that nothing is known of here.
    let unasked = match action {
        GroupAction::Destroy => 0,
        GroupAction::List | GroupAction::Unspecified => hub.unsynced(),
    };
    let unasked = u32::try_from(unasked).unwrap_or(u32::MAX);
    Ok(ListMembersResponse {
        count: gathered.answers.iter().map(|answer| answer.count).sum(),
        members,
        unsynced: gathered.missing.saturating_add(unasked),
    })
}

/// The instances in sync that have members of a group.
pub(super) async fn with_members<S: RouteStore>(
    hub: &Hub<S>,
    business: u32,
    group: &[u8],
) -> Result<Vec<Arc<Peer>>, Status> {
    let mut members = Vec::new();
    let looked_up = hub.store.members(business, group, &mut members).await;
    looked_up.map_err(|fault| Status::unavailable(fault.to_string()))?;
    let peers = hub.peers();
    let known = members.iter().filter_map(|&instance| peer(&peers, instance));
    Ok(known.filter(|peer| peer.is_in_sync()).cloned().collect())
}

/// Puts a question into the queues of instances and waits for what they answer. Also to how many it was sent; those that are
/// alive and couldn't be asked are missing.
async fn ask<S: RouteStore>(
    hub: &Hub<S>,
    peers: &[Arc<Peer>],
    put: impl Fn(&Outbox, u64) -> Result<(), NotTaken>,
) -> Result<(Gathered, u32), Status> {
    let live: Vec<&Arc<Peer>> = peers.iter().filter(|peer| !peer.is_dead()).collect();
    let (in_sync, others): (Vec<_>, Vec<_>) = live.into_iter().partition(|peer| peer.is_in_sync());
    let awaited = in_sync.iter().map(|peer| peer.index).collect();
    let Some(mut gathering) = hub.gathers.begin(awaited) else {
        return Err(Status::resource_exhausted(
            "too many broadcasts and questions about groups are under way; try again later",
        ));
    };
    let mut sent = 0;
    for peer in &in_sync {
        match put(&peer.outbox, gathering.id) {
            Ok(()) => sent += 1,
            Err(_) => gathering.missed(peer.index),
        }
    }
    // What hasn't come by then is missing, and `finish` says so.
    let _ = tokio::time::timeout(hub.receipt_timeout, gathering.complete()).await;
    let mut gathered = gathering.finish();
    let unasked = u32::try_from(others.len()).unwrap_or(u32::MAX);
    gathered.missing = gathered.missing.saturating_add(unasked);
    if others.is_empty() && !hub.knows_members() {
        // Nothing says yet which instances live.
        gathered.missing = gathered.missing.saturating_add(1);
    }
    Ok((gathered, sent))
}
