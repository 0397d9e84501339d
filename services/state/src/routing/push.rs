//! The push API: what business servers call to reach devices and groups.
//!
//! A call of ten thousand devices is one look-up batch, one record for the receipts and one batch per instance: no
//! task, timer or channel per device. What can't be known now is answered `retry`, never `offline`.

use std::sync::Arc;
use std::time::Instant;

use imaccess_common::clock::unix_ms;
use imaccess_proto::v1::push_server::Push;
use imaccess_proto::v1::{
    BroadcastRequest, BroadcastResponse, ChangeMembersRequest, ChangeMembersResponse, DestroyGroupRequest,
    DestroyGroupResponse, GroupAction, KickRequest, KickResponse, ListMembersRequest, ListMembersResponse,
    Outcome, PushDevicesRequest, PushDevicesResponse, PushGroupRequest, PushGroupResponse,
    QueryOnlineRequest, QueryOnlineResponse, SessionAction, SessionCommand,
};
use tonic::{Request, Response, Status};

use super::access::Gate;
use super::hub::{Hub, Peer};
use super::store::RouteStore;
use super::table::InstanceIndex;

mod devices;
mod group;
mod many;
mod online;
mod validate;

use self::devices::Pushed;
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

    async fn change_members(
        &self,
        action: SessionAction,
        request: ChangeMembersRequest,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        let command = SessionCommand {
            action: action.into(),
            business: request.business,
            group: request.group,
            ..SessionCommand::default()
        };
        let outcomes = devices::reach(&self.hub, &request.app, &request.devices, &command).await;
        let name = if action == SessionAction::Join {
            "join"
        } else {
            "leave"
        };
        self.hub.metrics.count_command(name, &outcomes);
        let outcomes = numbers(outcomes);
        Ok(Response::new(ChangeMembersResponse { outcomes }))
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
        let pushed = Pushed::new(&request);
        let outcomes = devices::reach(&self.hub, &request.app, &request.devices, &pushed).await;
        let outcomes = numbers(outcomes);
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
        let response = group::push(&self.hub, request).await?;
        self.hub
            .metrics
            .group_seconds
            .observe(start.elapsed().as_secs_f64());
        Ok(Response::new(response))
    }

    async fn broadcast(
        &self,
        request: Request<BroadcastRequest>,
    ) -> Result<Response<BroadcastResponse>, Status> {
        let start = Instant::now();
        self.admitted(&request, request.get_ref().business).await?;
        let request = request.into_inner();
        self.checked(validate::broadcast(&request))?;
        let response = many::broadcast(&self.hub, request).await?;
        self.hub
            .metrics
            .broadcast_seconds
            .observe(start.elapsed().as_secs_f64());
        Ok(Response::new(response))
    }

    async fn query_online(
        &self,
        request: Request<QueryOnlineRequest>,
    ) -> Result<Response<QueryOnlineResponse>, Status> {
        self.admitted(&request, request.get_ref().business).await?;
        let request = request.into_inner();
        self.checked(validate::named(request.business, &request.app, &request.devices))?;
        let presences = online::query(&self.hub, &request).await;
        Ok(Response::new(QueryOnlineResponse { presences }))
    }

    async fn kick(&self, request: Request<KickRequest>) -> Result<Response<KickResponse>, Status> {
        self.admitted(&request, request.get_ref().business).await?;
        let request = request.into_inner();
        self.checked(validate::kick(&request))?;
        let command = SessionCommand {
            action: SessionAction::Kick.into(),
            business: request.business,
            reason: request.reason,
            ..SessionCommand::default()
        };
        let outcomes = devices::reach(&self.hub, &request.app, &request.devices, &command).await;
        self.hub.metrics.count_command("kick", &outcomes);
        let outcomes = numbers(outcomes);
        Ok(Response::new(KickResponse { outcomes }))
    }

    async fn create_group(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        self.admitted(&request, request.get_ref().business).await?;
        let request = request.into_inner();
        self.checked(validate::members(&request))?;
        let there = many::with_members(&self.hub, request.business, &request.group).await?;
        if !there.is_empty() {
            return Err(Status::already_exists(
                "group: has members already; join it, or destroy it first",
            ));
        }
        self.change_members(SessionAction::Join, request).await
    }

    async fn join_group(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        self.admitted(&request, request.get_ref().business).await?;
        let request = request.into_inner();
        self.checked(validate::members(&request))?;
        self.change_members(SessionAction::Join, request).await
    }

    async fn leave_group(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        self.admitted(&request, request.get_ref().business).await?;
        let request = request.into_inner();
        self.checked(validate::members(&request))?;
        self.change_members(SessionAction::Leave, request).await
    }

    async fn list_members(
        &self,
        request: Request<ListMembersRequest>,
    ) -> Result<Response<ListMembersResponse>, Status> {
        self.admitted(&request, request.get_ref().business).await?;
        let request = request.into_inner();
        self.checked(validate::list(&request))?;
        let ListMembersRequest {
            business,
            group,
            limit,
        } = request;
        let listed = many::command_group(&self.hub, GroupAction::List, business, group, limit).await?;
        Ok(Response::new(listed))
    }

    async fn destroy_group(
        &self,
        request: Request<DestroyGroupRequest>,
    ) -> Result<Response<DestroyGroupResponse>, Status> {
        self.admitted(&request, request.get_ref().business).await?;
        let request = request.into_inner();
        self.checked(validate::destroy(&request))?;
        let DestroyGroupRequest { business, group } = request;
        let ended = many::command_group(&self.hub, GroupAction::Destroy, business, group, 0).await?;
        Ok(Response::new(DestroyGroupResponse {
            count: ended.count,
            unsynced: ended.unsynced,
        }))
    }
}

fn numbers(outcomes: Vec<Outcome>) -> Vec<i32> {
    outcomes.into_iter().map(i32::from).collect()
}

fn peer(peers: &[Option<Arc<Peer>>], instance: InstanceIndex) -> Option<&Arc<Peer>> {
    peers.get(instance.0 as usize).and_then(Option::as_ref)
}

fn expires_ms(ttl_ms: u32) -> u64 {
    match ttl_ms {
        0 => 0,
        ttl => unix_ms() + u64::from(ttl),
    }
}

#[cfg(test)]
mod tests;
