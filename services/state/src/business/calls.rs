//! A stream that is made of calls: for businesses that are asked by a call per request, by gRPC or by HTTP. Their events have a stream of
//! their own ([`super::events`]).
//!
//! Rules:
//! - Calls run beside each other, a bounded number of them: the stream's part of the business's `concurrency`. What doesn't get its turn
//!   waits in the mailbox, and then in the machine, whose bounds and deadlines hold for it as for any stream.
//! - Every call ends with the deadline of its request. Whoever asked is told by the machine, which keeps the same deadline.
//! - What certainly didn't reach a server is tried once more at another place. Nothing else is: a request that was written may have
//!   been acted on, and only its client, which keeps its number, may repeat it ("[`Code::Retry`]").
//! - The stream is down when no server can be connected to. Servers that are there and fail are the machine's to judge.

use std::collections::VecDeque;
use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use imaccess_common::business::{BusinessConfig, Protocol};
use imaccess_proto::v1::{BusinessReply, BusinessRequest, EventBatch, FromAccess, FromBusiness};
use imaccess_wire::Code;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Fault, Outage, StreamContext, StreamEvent, StreamId};
use crate::session::link::Chain;
use crate::session::mailbox::mailbox;

/// Calls at a time by HTTP/1.1, where each has a connection of its own, however large the business's `concurrency`: more streams
/// (`connections`) have more.
const MOST_CONNECTIONS: usize = 256;

/// How often connections that nobody needs are let go.
const TIDY: Duration = Duration::from_secs(15);

/// Answers told to the worker at once.
const ANSWERS_PER_BATCH: usize = 256;

/// Why there is no answer from a server.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// Nothing of the request was written.
    #[error("the server can't be reached")]
    Unreached(#[source] Box<dyn Error + Send + Sync>),
    /// Whether the server has acted on it isn't known.
    #[error("the exchange broke")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
    /// The server says that it failed.
    #[error("the server failed: {0}")]
    Failed(String),
    /// It has something to say that is no answer.
    #[error("the server's answer can't be used: {0}")]
    Unusable(String),
}

impl CallError {
    /// What the client is told.
    fn code(&self) -> Code {
        match self {
            Self::Unreached(_) => Code::BusinessUnavailable,
            Self::Broken(_) => Code::Retry,
            Self::Failed(_) | Self::Unusable(_) => Code::BusinessFailed,
        }
    }
}

/// How calls are made.
pub(super) trait Caller: Sync {
    /// Makes sure that there is a connection.
    fn connect(&self) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Whether there is one.
    fn is_connected(&self) -> bool;

    /// Asks, and waits for the answer however long it takes; dropped, it gives the call up.
    fn ask(&self, request: BusinessRequest) -> impl Future<Output = Result<BusinessReply, CallError>> + Send;

    /// Tells events; whether a snapshot is wanted.
    fn tell(&self, batch: &EventBatch) -> impl Future<Output = Result<bool, CallError>> + Send;

    /// Lets go of what has been idle for long.
    fn tidy(&self);
}

/// How a call ended.
enum Ended {
    Answered(BusinessReply),
    Failed(BusinessReply, CallError),
    /// Nobody waits any more. What it was: the machine knows of requests, and not of sends.
    Late(u64),
}

/// Serves a stream from its first connection until none can be had.
pub(super) async fn serve<C: Caller>(
    caller: &C,
    config: &BusinessConfig,
    id: StreamId,
    context: &StreamContext,
    outage: &mut Outage,
) -> Result<(), Fault> {
    caller.connect().await?;
    let _up = outage.end_up();
    let (outgoing, batches) = mailbox(None, Arc::clone(&context.room));
    context.tell(id, StreamEvent::Up(outgoing)).await?;
    let ended = ask_all(caller, config, id, context, batches).await;
    context.tell(id, StreamEvent::Down).await?;
    ended
}

async fn ask_all<C: Caller>(
    caller: &C,
    config: &BusinessConfig,
    id: StreamId,
    context: &StreamContext,
    batches: impl futures_util::Stream<Item = FromAccess>,
) -> Result<(), Fault> {
    let most = calls_at_a_time(config);
    let mut batches = pin!(batches);
    let mut over = false;
    let mut waiting: VecDeque<(Instant, BusinessRequest)> = VecDeque::new();
    let mut calls = FuturesUnordered::new();
    let mut tidy = tokio::time::interval(TIDY);
    tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut complained = false;
    loop {
        while calls.len() < most
            && let Some((deadline, request)) = waiting.pop_front()
        {
            calls.push(one(caller, deadline, request));
        }
        if over && waiting.is_empty() && calls.is_empty() {
            return Ok(());
        }
        tokio::select! {
            Some(ended) = calls.next(), if !calls.is_empty() => {
                let mut all = vec![ended];
                while all.len() < ANSWERS_PER_BATCH
                    && let Some(Some(ended)) = calls.next().now_or_never()
                {
                    all.push(ended);
                }
                let fault = tell_ends(all, id, context, &config.name, &mut complained).await?;
                if let Some(fault) = fault
                    && !caller.is_connected()
                {
                    return Err(fault.into());
                }
            }
            // One batch at a time: the next one waits where it can still be counted and bounded.
            batch = batches.next(), if waiting.is_empty() && !over => {
                let Some(batch) = batch else {
                    over = true;
                    continue;
                };
                let now = Instant::now();
                let with_deadline = |request: BusinessRequest| {
                    let wait = match request.deadline_ms {
                        0 => config.timeout,
                        wanted => Duration::from_millis(u64::from(wanted)).min(config.timeout),
                    };
                    (now + wait, request)
                };
                waiting.extend(batch.requests.into_iter().map(with_deadline));
            }
            _ = tidy.tick() => caller.tidy(),
        }
    }
}

/// A stream's part of the calls that a worker may have in flight.
fn calls_at_a_time(config: &BusinessConfig) -> usize {
    let part = config.concurrency.div_ceil(config.least_streams().max(1)) as usize;
    match config.protocol {
        Protocol::Http => part.min(MOST_CONNECTIONS),
        Protocol::Grpc | Protocol::GrpcUnary => part,
    }
}

async fn one<C: Caller>(caller: &C, deadline: Instant, mut request: BusinessRequest) -> Ended {
    let id = request.id;
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ended::Late(id);
    }
    request.deadline_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
    match tokio::time::timeout_at(deadline, caller.ask(request)).await {
        Ok(Ok(reply)) => Ended::Answered(BusinessReply { id, ..reply }),
        Ok(Err(fault)) => {
            let reply = BusinessReply {
                id,
                code: fault.code() as u32,
                ..BusinessReply::default()
            };
            Ended::Failed(reply, fault)
        }
        Err(_) => Ended::Late(id),
    }
}

/// Tells the worker how calls ended; the last fault of those that found no server.
async fn tell_ends(
    all: Vec<Ended>,
    id: StreamId,
    context: &StreamContext,
    business: &str,
    complained: &mut bool,
) -> Result<Option<CallError>, Fault> {
    let (mut replies, mut failed, mut unreached) = (Vec::new(), Vec::new(), None);
    for ended in all {
        match ended {
            Ended::Answered(reply) => {
                *complained = false;
                replies.push(reply);
            }
            Ended::Failed(reply, fault) => {
                // Once, until one is answered: a business that fails would fill the log.
                if !std::mem::replace(complained, true) {
                    tracing::warn!(business, fault = %Chain(&fault), "a call to a business failed");
                }
                match fault {
                    CallError::Unusable(_) => replies.push(reply),
                    CallError::Unreached(_) => {
                        failed.push(reply);
                        unreached = Some(fault);
                    }
                    CallError::Broken(_) | CallError::Failed(_) => failed.push(reply),
                }
            }
            Ended::Late(0) => failed.push(BusinessReply::default()),
            Ended::Late(_) => {}
        }
    }
    if !replies.is_empty() {
        let batch = FromBusiness {
            replies,
            ..FromBusiness::default()
        };
        context.tell(id, StreamEvent::Batch(batch)).await?;
    }
    if !failed.is_empty() {
        context.tell(id, StreamEvent::Failed(failed)).await?;
    }
    Ok(unreached)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_share_the_calls_and_http_has_as_many_as_connections_are_sensible() {
        let with = |protocol, concurrency, connections| {
            let mut config = BusinessConfig::new(1, "b", "http://127.0.0.1:1");
            (config.protocol, config.concurrency, config.connections) = (protocol, concurrency, connections);
            calls_at_a_time(&config)
        };
        assert_eq!(with(Protocol::GrpcUnary, 1_024, 1), 1_024);
        assert_eq!(with(Protocol::GrpcUnary, 10, 4), 3);
        assert_eq!(with(Protocol::GrpcUnary, 1, 4), 1);
        assert_eq!(with(Protocol::Http, 1_024, 1), MOST_CONNECTIONS);
        assert_eq!(with(Protocol::Http, 100, 2), 50);
    }
}
