//! The events of a business that is asked by calls: a stream of their own, one call at a time, in order, each repeated until it is
//! acknowledged.
//!
//! The next batch is taken from the mailbox when the one before is done, so what waits is where it is bounded: in the machine. Requests
//! have other streams, which don't wait for a business that is slow to take events, or for a long snapshot.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::StreamExt;
use imaccess_common::business::BusinessConfig;
use imaccess_proto::v1::{EventBatch, FromAccess, FromBusiness};

use super::calls::{CallError, Caller};
use super::{Fault, Outage, StreamContext, StreamEvent, StreamId, jittered};
use crate::session::link::Chain;
use crate::session::mailbox::mailbox;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A business that can't take events for a while is told within this time of its being well again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Serves the stream from its first connection until none can be had.
pub(super) async fn serve<C: Caller>(
    caller: &C,
    config: &BusinessConfig,
    id: StreamId,
    context: &StreamContext,
    outage: &mut Outage,
) -> Result<(), Fault> {
    caller.connect().await?;
    outage.end();
    let (outgoing, batches) = mailbox(None, Arc::clone(&context.room));
    context.tell(id, StreamEvent::Up(outgoing)).await?;
    let ended = tell_all(caller, config, id, context, batches).await;
    context.tell(id, StreamEvent::Down).await?;
    ended
}

async fn tell_all<C: Caller>(
    caller: &C,
    config: &BusinessConfig,
    id: StreamId,
    context: &StreamContext,
    batches: impl futures_util::Stream<Item = FromAccess>,
) -> Result<(), Fault> {
    let mut batches = pin!(batches);
    let mut reported = false;
    while let Some(batch) = batches.next().await {
        let batch = EventBatch {
            from: Some(context.hello(config, id)),
            events: batch.events,
            snapshot: batch.snapshot,
            snapshot_done: batch.snapshot_done,
        };
        if batch.events.is_empty() && batch.snapshot.is_empty() && !batch.snapshot_done {
            continue;
        }
        let answer = FromBusiness {
            event_ack: batch.events.last().map_or(0, |event| event.sequence),
            resync: tell_until_taken(caller, config, &batch, &mut reported).await?,
            ..FromBusiness::default()
        };
        context.tell(id, StreamEvent::Batch(answer)).await?;
    }
    Ok(())
}

/// Whether the business wants a snapshot, once it has taken them.
async fn tell_until_taken<C: Caller>(
    caller: &C,
    config: &BusinessConfig,
    batch: &EventBatch,
    reported: &mut bool,
) -> Result<bool, Fault> {
    let business = config.name.as_str();
    let mut pause = FIRST_PAUSE;
    loop {
        let fault = match tokio::time::timeout(config.timeout, caller.tell(batch)).await {
            Ok(Ok(wants_snapshot)) => {
                if std::mem::take(reported) {
                    tracing::info!(business, "events are taken again");
                }
                return Ok(wants_snapshot);
            }
            // It is to be dialled anew; the machine has what wasn't acknowledged.
            Ok(Err(fault @ CallError::Unreached(_))) if !caller.is_connected() => return Err(fault.into()),
            Ok(Err(fault)) => fault,
            Err(late) => CallError::Broken(Box::new(late)),
        };
        if !std::mem::replace(reported, true) {
            tracing::warn!(business, fault = %Chain(&fault), "events can't be told; they are kept");
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests;
