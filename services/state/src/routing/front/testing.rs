//! A push API that says what its devices are called, and remembers what it was asked.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use imaccess_common::business::BusinessConfig;
use imaccess_proto::v1::push_server::Push;
use imaccess_proto::v1::{
    BroadcastRequest, BroadcastResponse, ChangeMembersRequest, ChangeMembersResponse, DestroyGroupRequest,
    DestroyGroupResponse, KickRequest, KickResponse, ListMembersRequest, ListMembersResponse, Member,
    Outcome, Presence, PresenceStatus, PushDevicesRequest, PushDevicesResponse, PushGroupRequest,
    PushGroupResponse, QueryOnlineRequest, QueryOnlineResponse,
};
use prometheus::Registry;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::{Front, FrontMetrics};
use crate::routing::RoutingConfig;
use crate::routing::access::{Gate, GateMetrics};

/// What was asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Call {
    PushDevices(PushDevicesRequest),
    PushGroup(PushGroupRequest),
    Broadcast(BroadcastRequest),
    QueryOnline(QueryOnlineRequest),
    Kick(KickRequest),
    CreateGroup(ChangeMembersRequest),
    JoinGroup(ChangeMembersRequest),
    LeaveGroup(ChangeMembersRequest),
    ListMembers(ListMembersRequest),
    DestroyGroup(DestroyGroupRequest),
}

/// The API; clones are the same one.
#[derive(Clone)]
pub(crate) struct Fake(Arc<State>);

struct State {
    heard: Mutex<Vec<Call>>,
    refusal: Mutex<Option<Status>>,
    /// A call takes one, so that a test can hold calls up.
    permits: Semaphore,
}

impl Fake {
    pub(crate) fn new() -> Fake {
        Fake(Arc::new(State {
            heard: Mutex::default(),
            refusal: Mutex::default(),
            permits: Semaphore::new(Semaphore::MAX_PERMITS),
        }))
    }

    /// What was asked since this was last called.
    pub(crate) fn heard(&self) -> Vec<Call> {
        std::mem::take(&mut *self.0.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until something is asked, and forgets it.
    pub(crate) async fn is_asked(&self) {
        patiently(async {
            while self.heard().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Refuses all calls from now on, or none.
    pub(crate) fn refuse(&self, refusal: Option<Status>) {
        *self.0.refusal.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
    }

    /// Holds calls up until [`release`](Self::release).
    pub(crate) fn hold(&self) {
        self.0.permits.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Lets so many calls go on.
    pub(crate) fn release(&self, calls: usize) {
        self.0.permits.add_permits(calls);
    }

    async fn take(&self, call: Call) -> Result<(), Status> {
        self.0
            .heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(call);
        self.0
            .permits
            .acquire()
            .await
            .expect("the semaphore is never closed")
            .forget();
        let refusal = self.0.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        match &*refusal {
            Some(refusal) if refusal.message() == "panic" => panic!("as the test wants it"),
            Some(refusal) => Err(refusal.clone()),
            None => Ok(()),
        }
    }
}

/// A device is called as what becomes of it: `offline`, or `offline-2`; of others it is `well`.
fn outcomes(devices: &[String], well: Outcome) -> Vec<i32> {
    let outcome = |device: &String| match device.split('-').next() {
        Some("acknowledged") => Outcome::Acknowledged,
        Some("queued") => Outcome::Queued,
        Some("offline") => Outcome::Offline,
        Some("refused") => Outcome::Refused,
        Some("retry") => Outcome::Retry,
        Some("unknown") => Outcome::Unknown,
        _ => well,
    };
    devices.iter().map(|device| outcome(device).into()).collect()
}

#[tonic::async_trait]
impl Push for Fake {
    async fn push_devices(
        &self,
        request: Request<PushDevicesRequest>,
    ) -> Result<Response<PushDevicesResponse>, Status> {
        let outcomes = outcomes(&request.get_ref().devices, Outcome::Written);
        self.take(Call::PushDevices(request.into_inner())).await?;
        Ok(Response::new(PushDevicesResponse { outcomes }))
    }

    async fn push_group(
        &self,
        request: Request<PushGroupRequest>,
    ) -> Result<Response<PushGroupResponse>, Status> {
        self.take(Call::PushGroup(request.into_inner())).await?;
        Ok(Response::new(PushGroupResponse {
            group_epoch: u64::MAX,
            sequence: 1 << 53,
            instances: 2,
            unsynced: 1,
        }))
    }

    async fn broadcast(
        &self,
        request: Request<BroadcastRequest>,
    ) -> Result<Response<BroadcastResponse>, Status> {
        self.take(Call::Broadcast(request.into_inner())).await?;
        Ok(Response::new(BroadcastResponse {
            devices: 120_034,
            unknown: 5,
            instances: 4,
            unsynced: 0,
        }))
    }

    async fn query_online(
        &self,
        request: Request<QueryOnlineRequest>,
    ) -> Result<Response<QueryOnlineResponse>, Status> {
        let presence = |device: &String| {
            let (status, gateway) = match device.as_str() {
                "offline" => (PresenceStatus::Offline, ""),
                "retry" => (PresenceStatus::Retry, ""),
                _ => (PresenceStatus::Online, "gateway-0"),
            };
            Presence {
                status: status.into(),
                gateway: gateway.to_owned(),
            }
        };
        let presences = request.get_ref().devices.iter().map(presence).collect();
        self.take(Call::QueryOnline(request.into_inner())).await?;
        Ok(Response::new(QueryOnlineResponse { presences }))
    }

    async fn kick(&self, request: Request<KickRequest>) -> Result<Response<KickResponse>, Status> {
        let outcomes = outcomes(&request.get_ref().devices, Outcome::Done);
        self.take(Call::Kick(request.into_inner())).await?;
        Ok(Response::new(KickResponse { outcomes }))
    }

    async fn create_group(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        let outcomes = outcomes(&request.get_ref().devices, Outcome::Done);
        self.take(Call::CreateGroup(request.into_inner())).await?;
        Ok(Response::new(ChangeMembersResponse { outcomes }))
    }

    async fn join_group(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        let outcomes = outcomes(&request.get_ref().devices, Outcome::Done);
        self.take(Call::JoinGroup(request.into_inner())).await?;
        Ok(Response::new(ChangeMembersResponse { outcomes }))
    }

    async fn leave_group(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        let outcomes = outcomes(&request.get_ref().devices, Outcome::Done);
        self.take(Call::LeaveGroup(request.into_inner())).await?;
        Ok(Response::new(ChangeMembersResponse { outcomes }))
    }

    async fn list_members(
        &self,
        request: Request<ListMembersRequest>,
    ) -> Result<Response<ListMembersResponse>, Status> {
        self.take(Call::ListMembers(request.into_inner())).await?;
        Ok(Response::new(ListMembersResponse {
            count: 3,
            members: vec![Member {
                app: "app".to_owned(),
                device: "d-1".to_owned(),
            }],
            unsynced: 1,
        }))
    }

    async fn destroy_group(
        &self,
        request: Request<DestroyGroupRequest>,
    ) -> Result<Response<DestroyGroupResponse>, Status> {
        self.take(Call::DestroyGroup(request.into_inner())).await?;
        Ok(Response::new(DestroyGroupResponse {
            count: 15_000,
            unsynced: 0,
        }))
    }
}

/// What a test waits for must come within this.
pub(crate) async fn patiently<T>(awaited: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), awaited)
        .await
        .expect("what is waited for comes")
}

/// A gate as `config` has it, the fake behind its front, and what is counted.
pub(crate) fn fronted(config: &RoutingConfig) -> (Arc<Front<Fake>>, Fake, Arc<Gate>, Registry) {
    let registry = Registry::new();
    let gate = Arc::new(Gate::new(config, GateMetrics::register(&registry)));
    let fake = Fake::new();
    let metrics = FrontMetrics::register(&registry);
    let front = Front::new(fake.clone(), Arc::clone(&gate), metrics);
    (Arc::new(front), fake, gate, registry)
}

/// A business that may push to so many devices a second.
pub(crate) fn limited(id: u32, push_rate: u32) -> BusinessConfig {
    BusinessConfig {
        push_rate,
        ..BusinessConfig::new(id, &format!("b{id}"), "http://b:1")
    }
}
