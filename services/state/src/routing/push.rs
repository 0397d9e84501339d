//! The push API: what business servers call to reach devices and groups.
//!
//! A call of ten thousand devices is one look-up batch, one record for the receipts and one batch per instance: no
//! task, timer or channel per device. What can't be known now is answered `retry`, never `offline`.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use imaccess_common::clock::unix_ms;
use imaccess_proto::v1::push_server::Push;
use imaccess_proto::v1::{
    BroadcastRequest, BroadcastResponse, ChangeMembersRequest, ChangeMembersResponse, DeliveryClass,
    DestroyGroupRequest, DestroyGroupResponse, GroupPush, KickRequest, KickResponse, ListMembersRequest,
    ListMembersResponse, Outcome, PushDevicesRequest, PushDevicesResponse, PushGroupRequest,
    PushGroupResponse, QueryOnlineRequest, QueryOnlineResponse, UnicastPush,
};
use tonic::{Request, Response, Status};

use super::access::Gate;
use super::calls::{Answer, Waiting};
use super::hub::{Hub, Peer};
use super::outbox::NotTaken;
use super::store::RouteStore;
use super::table::{InstanceIndex, Route};

mod validate;

pub(crate) use self::validate::MESSAGE_LIMIT;

/// The service; clones share everything.
pub(crate) struct PushApi<S> {
    hub: Arc<Hub<S>>,
    gate: Arc<Gate>,
}

impl<S: RouteStore> PushApi<S> {
    pub(crate) fn new(hub: Arc<Hub<S>>, gate: Arc<Gate>) -> PushApi<S> {
        PushApi { hub, gate }
    }

    /// Whether the caller may push for the business: asked before the call is looked at in any other way.
    async fn admitted<T>(&self, request: &Request<T>, business: u32) -> Result<(), Status>
    where
        T: Sync,
    {
        self.gate
            .admit(request.extensions(), request.metadata(), business)
            .await
    }

    /// Calls that ask for what can't be are counted here.
    fn checked(&self, verdict: Result<(), Status>) -> Result<(), Status> {
        verdict.inspect_err(|_| self.hub.metrics.rejected.inc())
    }
}

#[tonic::async_trait]
impl<S: RouteStore> Push for PushApi<S> {
    async fn push_devices(
        &self,
        request: Request<PushDevicesRequest>,
    ) -> Result<Response<PushDevicesResponse>, Status> {
        let start = Instant::now();
        self.admitted(&request, request.get_ref().business).await?;
        let request = request.into_inner();
        self.checked(validate::devices(&request))?;
        let outcomes = devices(&self.hub, &request).await;
        let outcomes: Vec<i32> = outcomes.into_iter().map(i32::from).collect();
        self.hub.metrics.count_outcomes(&outcomes);
        self.hub
            .metrics
            .device_seconds
            .observe(start.elapsed().as_secs_f64());
        Ok(Response::new(PushDevicesResponse { outcomes }))
    }

    async fn push_group(
        &self,
        request: Request<PushGroupRequest>,
    ) -> Result<Response<PushGroupResponse>, Status> {
        let start = Instant::now();
        self.admitted(&request, request.get_ref().business).await?;
        let request = request.into_inner();
        self.checked(validate::group(&request))?;
        let response = group(&self.hub, request).await?;
        self.hub
            .metrics
            .group_seconds
            .observe(start.elapsed().as_secs_f64());
        Ok(Response::new(response))
    }

    async fn broadcast(&self, _request: Request<BroadcastRequest>) -> Result<Response<BroadcastResponse>, Status> {
        Err(Status::unimplemented("broadcast comes next"))
    }

    async fn query_online(&self, _request: Request<QueryOnlineRequest>) -> Result<Response<QueryOnlineResponse>, Status> {
        Err(Status::unimplemented("query_online comes next"))
    }

    async fn kick(&self, _request: Request<KickRequest>) -> Result<Response<KickResponse>, Status> {
        Err(Status::unimplemented("kick comes next"))
    }

    async fn create_group(&self, _request: Request<ChangeMembersRequest>) -> Result<Response<ChangeMembersResponse>, Status> {
        Err(Status::unimplemented("create_group comes next"))
    }

    async fn join_group(&self, _request: Request<ChangeMembersRequest>) -> Result<Response<ChangeMembersResponse>, Status> {
        Err(Status::unimplemented("join_group comes next"))
    }

    async fn leave_group(&self, _request: Request<ChangeMembersRequest>) -> Result<Response<ChangeMembersResponse>, Status> {
        Err(Status::unimplemented("leave_group comes next"))
    }

    async fn list_members(&self, _request: Request<ListMembersRequest>) -> Result<Response<ListMembersResponse>, Status> {
        Err(Status::unimplemented("list_members comes next"))
    }

    async fn destroy_group(&self, _request: Request<DestroyGroupRequest>) -> Result<Response<DestroyGroupResponse>, Status> {
        Err(Status::unimplemented("destroy_group comes next"))
    }
}

/// Pushes to devices and waits for the receipts.
async fn devices<S: RouteStore>(hub: &Hub<S>, request: &PushDevicesRequest) -> Vec<Outcome> {
    let mut routes = Vec::with_capacity(request.devices.len());
    if let Err(fault) = hub
        .store
        .routes(&request.app, &request.devices, &mut routes)
        .await
    {
        tracing::warn!(%fault, "pushes answer retry");
        return vec![Outcome::Retry; request.devices.len()];
    }
    let answers = sort(hub, &routes);
    let targets: Vec<usize> = (0..answers.len())
        .filter(|&device| matches!(answers[device], Answer::Awaited(_)))
        .collect();
    let refused = || answers.iter().map(|answer| given(*answer)).collect();
    if targets.is_empty() {
        return refused();
    }
    let Some(mut waiting) = hub.calls.begin(answers.clone()) else {
        return refused();
    };
    send(hub, request, &routes, &targets, &waiting);
    // What hasn't come by then is unknown, and `finish` says so.
    let _ = tokio::time::timeout(hub.receipt_timeout, waiting.complete()).await;
    let mut outcomes = waiting.finish();
    doubt_offline(hub, request, &targets, &mut outcomes).await;
    outcomes
}

/// What is known of each device before anything is sent.
fn sort<S: RouteStore>(hub: &Hub<S>, routes: &[Option<Route>]) -> Vec<Answer> {
    let without_route = if hub.offline_known() {
        Outcome::Offline
    } else {
        Outcome::Retry
    };
    let peers = hub.peers();
    let decide = |route: &Option<Route>| match route {
        None => Answer::Given(without_route),
        Some(route) => match peer(&peers, route.instance) {
            Some(peer) if peer.is_in_sync() => Answer::Awaited(route.instance),
            _ => Answer::Given(Outcome::Retry),
        },
    };
    routes.iter().map(decide).collect()
}

/// Hands each instance its devices' pushes in one batch.
fn send<S: RouteStore>(
    hub: &Hub<S>,
    request: &PushDevicesRequest,
    routes: &[Option<Route>],
    targets: &[usize],
    waiting: &Waiting<'_>,
) {
    let expires_ms = expires_ms(request.ttl_ms);
    let peers = hub.peers();
    let mut batches: Vec<VecDeque<UnicastPush>> = vec![VecDeque::new(); peers.len()];
    for &device in targets {
        let Some(route) = routes[device] else { continue };
        // An index beyond the list is of an instance that joined and got the route since: its answer is awaited in
        // vain, as if it had just broken.
        let Some(batch) = batches.get_mut(route.instance.0 as usize) else {
            continue;
        };
        batch.push_back(UnicastPush {
            id: waiting.id(device),
            locator: route.locator,
            serial: route.serial,
            epoch: route.epoch.0,
            business: request.business,
            payload: request.payload.clone(),
            class: request.class,
            priority: request.priority,
            expires_ms,
            message_id: request.message_id.clone(),
        });
    }
    for (peer, batch) in peers
        .iter()
        .zip(&mut batches)
        .filter(|(_, batch)| !batch.is_empty())
    {
        let taken = peer
            .as_ref()
            .map_or(Err(NotTaken::Closed), |peer| peer.outbox.push_devices(batch));
        if taken.is_err() {
            waiting.give(batch.iter().map(|push| push.id), Outcome::Retry);
        }
    }
}

/// An instance that knows the session no more says "offline" of itself only; the device may be logging in elsewhere.
/// It is offline if its route has gone as well and no other instance could have it.
async fn doubt_offline<S: RouteStore>(
    hub: &Hub<S>,
    request: &PushDevicesRequest,
    targets: &[usize],
    outcomes: &mut [Outcome],
) {
    let doubtful: Vec<usize> = targets
        .iter()
        .copied()
        .filter(|&device| outcomes[device] == Outcome::Offline)
        .collect();
    if doubtful.is_empty() {
        return;
    }
    let names: Vec<String> = doubtful
        .iter()
        .map(|&device| request.devices[device].clone())
        .collect();
    let mut routes = Vec::with_capacity(names.len());
    let found = hub.store.routes(&request.app, &names, &mut routes).await.is_ok();
    let known = found && hub.offline_known();
    for (position, &device) in doubtful.iter().enumerate() {
        if !known || routes[position].is_some() {
            outcomes[device] = Outcome::Retry;
        }
    }
}

/// Numbers a group push and hands it to the instances with members.
async fn group<S: RouteStore>(hub: &Hub<S>, request: PushGroupRequest) -> Result<PushGroupResponse, Status> {
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
    hub.metrics.group_instance_full.inc_by(full);
    let unsynced = hub.unsynced() as u64 + full;
    Ok(PushGroupResponse {
        group_epoch: hub.replica,
        sequence: push.sequence,
        instances: sent,
        unsynced: u32::try_from(unsynced).unwrap_or(u32::MAX),
    })
}

fn peer(peers: &[Option<Arc<Peer>>], instance: InstanceIndex) -> Option<&Arc<Peer>> {
    peers.get(instance.0 as usize).and_then(Option::as_ref)
}

/// What is said of a device that isn't waited for.
fn given(answer: Answer) -> Outcome {
    match answer {
        Answer::Given(outcome) => outcome,
        Answer::Awaited(_) => Outcome::Retry,
    }
}

fn expires_ms(ttl_ms: u32) -> u64 {
    match ttl_ms {
        0 => 0,
        ttl => unix_ms() + u64::from(ttl),
    }
}
