//! What stands before the push calls, whichever way they come: who may, was it made already, is it too much.
//!
//! ```text
//!   gRPC ──┐             ┌──────┐   ┌─────────────┐   ┌───────┐
//!          ├──▶ Front: ──│ gate │──▶│ idempotency │──▶│ rates │──▶ the call itself
//!   HTTP ──┘             └──────┘   └─────────────┘   └───────┘
//! ```
//!
//! In this order: nobody learns an answer who may not make the call; a repeated call costs nothing of the rate.
//!
//! A call with an idempotency key runs in a task of its own. Its caller may go away; what the call did is then known to whoever
//! repeats it. Such tasks are bounded by the `Bounds` of `idempotency`. A call without a key ends with its caller.

mod checks;

use std::future::Future;
use std::sync::Arc;

use imaccess_common::business::BusinessConfig;
use imaccess_proto::v1::push_server::Push;
use imaccess_proto::v1::{
    BroadcastRequest, BroadcastResponse, ChangeMembersRequest, ChangeMembersResponse, DestroyGroupRequest,
    DestroyGroupResponse, KickRequest, KickResponse, ListMembersRequest, ListMembersResponse,
    PushDevicesRequest, PushDevicesResponse, PushGroupRequest, PushGroupResponse, QueryOnlineRequest,
    QueryOnlineResponse,
};
use prost::Message;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status};

pub(crate) use self::checks::FrontMetrics;
use self::checks::{Checks, Made, PushCall, lost};
use super::access::Gate;
use super::idempotency::Answer;

/// Longest idempotency key in bytes: a UUID has 36.
pub(crate) const MAX_KEY: usize = 64;

/// Metadata of an answer: after how many milliseconds the call may be made again.
pub(crate) const RETRY_AFTER: &str = "retry-after-ms";

/// Metadata of an answer that is another call's, repeated: `true`.
pub(crate) const REPLAYED: &str = "idempotent-replayed";

/// A push API with what stands before it.
pub(crate) struct Front<P> {
    inner: Arc<P>,
    gate: Arc<Gate>,
    checks: Arc<Checks>,
}

// === impl Front ===

impl<P: Push> Front<P> {
    pub(crate) fn new(inner: P, gate: Arc<Gate>, metrics: FrontMetrics) -> Front<P> {
        Front {
            inner: Arc::new(inner),
            gate,
            checks: Arc::new(Checks::new(metrics)),
        }
    }

    /// Takes other businesses, with their rates, from the next call on.
    pub(crate) fn set_businesses(&self, businesses: &[BusinessConfig]) {
        self.checks.set_businesses(businesses);
    }

    async fn guarded<Q, A, F>(
        &self,
        mut request: Request<Q>,
        call: impl FnOnce(Arc<P>, Request<Q>) -> F + Send + 'static,
    ) -> Result<Response<A>, Status>
    where
        Q: PushCall,
        A: Message + Default + 'static,
        F: Future<Output = Result<Response<A>, Status>> + Send + 'static,
    {
        let business = request.get_ref().business();
        self.gate
            .admit(request.extensions(), request.metadata(), business)
            .await?;
        Gate::mark(request.extensions_mut(), business);
        let inner = Arc::clone(&self.inner);
        if request.get_ref().idempotency_key().is_empty() {
            let taken = self.checks.take(request.get_ref())?;
            return taken.settle(call(inner, request).await);
        }
        let ending = match self.checks.begin(request.get_ref())? {
            Made::Before(answer) => return again(answer),
            Made::Now(ending) => ending,
        };
        let taken = match self.checks.take(request.get_ref()) {
            Ok(taken) => taken,
            Err(refusal) => return ending.end(Err(refusal)),
        };
        let running = tokio::spawn(async move { ending.end(taken.settle(call(inner, request).await)) });
        running.await.unwrap_or_else(|_| Err(lost()))
    }
}

#[tonic::async_trait]
impl<P: Push> Push for Front<P> {
    async fn push_devices(
        &self,
        request: Request<PushDevicesRequest>,
    ) -> Result<Response<PushDevicesResponse>, Status> {
        self.guarded(request, |push, request| async move {
            push.push_devices(request).await
        })
        .await
    }

    async fn push_group(
        &self,
        request: Request<PushGroupRequest>,
    ) -> Result<Response<PushGroupResponse>, Status> {
        self.guarded(
            request,
            |push, request| async move { push.push_group(request).await },
        )
        .await
    }

    async fn broadcast(
        &self,
        request: Request<BroadcastRequest>,
    ) -> Result<Response<BroadcastResponse>, Status> {
        self.guarded(
            request,
            |push, request| async move { push.broadcast(request).await },
        )
        .await
    }

    async fn query_online(
        &self,
        request: Request<QueryOnlineRequest>,
    ) -> Result<Response<QueryOnlineResponse>, Status> {
        self.inner.query_online(request).await
    }

    async fn kick(&self, request: Request<KickRequest>) -> Result<Response<KickResponse>, Status> {
        self.inner.kick(request).await
    }

    async fn create_group(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        self.inner.create_group(request).await
    }

    async fn join_group(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        self.inner.join_group(request).await
    }

    async fn leave_group(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        self.inner.leave_group(request).await
    }

    async fn list_members(
        &self,
        request: Request<ListMembersRequest>,
    ) -> Result<Response<ListMembersResponse>, Status> {
        self.inner.list_members(request).await
    }

    async fn destroy_group(
        &self,
        request: Request<DestroyGroupRequest>,
    ) -> Result<Response<DestroyGroupResponse>, Status> {
        self.inner.destroy_group(request).await
    }
}

/// Says once more how a call was answered.
fn again<A: Message + Default>(answer: Answer) -> Result<Response<A>, Status> {
    let yes = MetadataValue::from_static("true");
    match answer {
        Answer::Done(message) => {
            let message = A::decode(message).map_err(|_| lost())?;
            let mut response = Response::new(message);
            response.metadata_mut().insert(REPLAYED, yes);
            Ok(response)
        }
        Answer::Failed(code, sentence) => {
            let mut metadata = MetadataMap::new();
            metadata.insert(REPLAYED, yes);
            Err(Status::with_metadata(code, sentence, metadata))
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
