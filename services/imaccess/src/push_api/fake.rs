//! A push API that does as its callers' names say, and remembers what it was asked.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use clap::Parser;
use imaccess_proto::v1::push_server::{Push, PushServer};
use imaccess_proto::v1::{
    BroadcastRequest, BroadcastResponse, ChangeMembersRequest, ChangeMembersResponse, DestroyGroupRequest,
    DestroyGroupResponse, KickRequest, KickResponse, ListMembersRequest, ListMembersResponse, Member,
    Outcome, Presence, PresenceStatus, PushDevicesRequest, PushDevicesResponse, PushGroupRequest,
    PushGroupResponse, QueryOnlineRequest, QueryOnlineResponse,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// What was asked, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Asked {
    Devices(PushDevicesRequest),
    Group(PushGroupRequest),
    All(BroadcastRequest),
    Online(QueryOnlineRequest),
    Kick(KickRequest),
    Create(ChangeMembersRequest),
    Join(ChangeMembersRequest),
    Leave(ChangeMembersRequest),
    Members(ListMembersRequest),
    Destroy(DestroyGroupRequest),
}

/// The server; clones are the same. Devices are offline, refused or not known if their names begin so; all others are fine.
#[derive(Clone, Default)]
pub(crate) struct FakePush {
    /// Locked for a moment only, never over an await.
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    /// How the next calls end, and after how many others.
    failures: VecDeque<(usize, Status)>,
    group: BTreeSet<String>,
    unsynced: u32,
}

impl FakePush {
    /// Serves on a free port; the second is its address.
    pub(crate) async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fake = Self::default();
        let server = PushServer::new(fake.clone());
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(server)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        (fake, url)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// The call after `after` more ends with `status`.
    pub(crate) fn fail(&self, after: usize, status: Status) {
        self.state.lock().unwrap().failures.push_back((after, status));
    }

    /// Gateways that are said to be out of sync.
    pub(crate) fn set_unsynced(&self, count: u32) {
        self.state.lock().unwrap().unsynced = count;
    }

    fn take(&self, asked: Asked) -> Result<u32, Status> {
        let mut state = self.state.lock().unwrap();
        state.asked.push(asked);
        if let Some((after, _)) = state.failures.front_mut() {
            if *after == 0 {
                return Err(state.failures.pop_front().unwrap().1);
            }
            *after -= 1;
        }
        Ok(state.unsynced)
    }

    fn change(&self, request: &ChangeMembersRequest, member: bool) -> Response<ChangeMembersResponse> {
        let mut state = self.state.lock().unwrap();
        let outcomes = outcomes(&request.devices, Outcome::Done);
        for (device, outcome) in request.devices.iter().zip(&outcomes) {
            if *outcome != i32::from(Outcome::Done) {
                continue;
            }
            if member {
                state.group.insert(device.clone());
            } else {
                state.group.remove(device);
            }
        }
        Response::new(ChangeMembersResponse { outcomes })
    }
}

fn outcomes(devices: &[String], fine: Outcome) -> Vec<i32> {
    let outcome = |device: &String| match device.split('-').next() {
        Some("offline") => Outcome::Offline,
        Some("refused") => Outcome::Refused,
        Some("retry") => Outcome::Retry,
        _ => fine,
    };
    devices.iter().map(|device| outcome(device).into()).collect()
}

#[tonic::async_trait]
impl Push for FakePush {
    async fn push_devices(
        &self,
        request: Request<PushDevicesRequest>,
    ) -> Result<Response<PushDevicesResponse>, Status> {
        let request = request.into_inner();
        let outcomes = outcomes(&request.devices, Outcome::Written);
        self.take(Asked::Devices(request))?;
        Ok(Response::new(PushDevicesResponse { outcomes }))
    }

    async fn push_group(
        &self,
        request: Request<PushGroupRequest>,
    ) -> Result<Response<PushGroupResponse>, Status> {
        let unsynced = self.take(Asked::Group(request.into_inner()))?;
        Ok(Response::new(PushGroupResponse {
            sequence: 1,
            instances: 2,
            unsynced,
            ..PushGroupResponse::default()
        }))
    }

    async fn broadcast(
        &self,
        request: Request<BroadcastRequest>,
    ) -> Result<Response<BroadcastResponse>, Status> {
        let unsynced = self.take(Asked::All(request.into_inner()))?;
        Ok(Response::new(BroadcastResponse {
            devices: 1_000,
            unknown: 3,
            instances: 2,
            unsynced,
        }))
    }

    async fn query_online(
        &self,
        request: Request<QueryOnlineRequest>,
    ) -> Result<Response<QueryOnlineResponse>, Status> {
        let request = request.into_inner();
        let presence = |outcome: i32| {
            let (status, gateway) = match Outcome::try_from(outcome) {
                Ok(Outcome::Done) => (PresenceStatus::Online, "gateway-0"),
                Ok(Outcome::Retry) => (PresenceStatus::Retry, ""),
                _ => (PresenceStatus::Offline, ""),
            };
            Presence {
                status: status.into(),
                gateway: gateway.to_owned(),
            }
        };
        let outcomes = outcomes(&request.devices, Outcome::Done);
        let presences = outcomes.into_iter().map(presence).collect();
        self.take(Asked::Online(request))?;
        Ok(Response::new(QueryOnlineResponse { presences }))
    }

    async fn kick(&self, request: Request<KickRequest>) -> Result<Response<KickResponse>, Status> {
        let request = request.into_inner();
        let outcomes = outcomes(&request.devices, Outcome::Done);
        self.take(Asked::Kick(request))?;
        Ok(Response::new(KickResponse { outcomes }))
    }

    async fn create_group(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        let request = request.into_inner();
        self.take(Asked::Create(request.clone()))?;
        if !self.state.lock().unwrap().group.is_empty() {
            return Err(Status::already_exists("the group has members"));
        }
        Ok(self.change(&request, true))
    }

    async fn join_group(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        let request = request.into_inner();
        self.take(Asked::Join(request.clone()))?;
        Ok(self.change(&request, true))
    }

    async fn leave_group(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        let request = request.into_inner();
        self.take(Asked::Leave(request.clone()))?;
        Ok(self.change(&request, false))
    }

    async fn list_members(
        &self,
        request: Request<ListMembersRequest>,
    ) -> Result<Response<ListMembersResponse>, Status> {
        let request = request.into_inner();
        let limit = request.limit as usize;
        let unsynced = self.take(Asked::Members(request))?;
        let state = self.state.lock().unwrap();
        let member = |device: &String| Member {
            app: "demo".to_owned(),
            device: device.clone(),
        };
        Ok(Response::new(ListMembersResponse {
            count: state.group.len() as u64,
            members: state.group.iter().take(limit).map(member).collect(),
            unsynced,
        }))
    }

    async fn destroy_group(
        &self,
        request: Request<DestroyGroupRequest>,
    ) -> Result<Response<DestroyGroupResponse>, Status> {
        let unsynced = self.take(Asked::Destroy(request.into_inner()))?;
        let count = std::mem::take(&mut self.state.lock().unwrap().group).len() as u64;
        Ok(Response::new(DestroyGroupResponse { count, unsynced }))
    }
}

/// A verb's arguments, as its words are understood.
pub(crate) fn parsed<A: clap::Args>(words: &[&str]) -> A {
    #[derive(Parser)]
    struct Only<A: clap::Args> {
        #[command(flatten)]
        arguments: A,
    }
    let words = std::iter::once("verb").chain(words.iter().copied());
    match Only::<A>::try_parse_from(words) {
        Ok(only) => only.arguments,
        Err(error) => panic!("{error}"),
    }
}

/// A group's name as it is asked for.
pub(crate) fn named(group: &str) -> Bytes {
    Bytes::copy_from_slice(group.as_bytes())
}
