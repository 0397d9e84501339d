//! All parts in this process: a thread with a runtime of its own for each, so that one that is busy doesn't slow the
//! others down. A part that fails here ends the cluster: there is nothing to restart it from.

use std::thread;

use anyhow::{Context, anyhow};
use imaccess_common::drain::Drain;
use tokio::sync::{mpsc, oneshot};

use super::plan::{Plan, Planned};
use super::{AFTER_DRAIN, Event, drain_of};
use crate::part::Kind;
use crate::run;

/// The running parts, in the order of the plan.
pub(super) struct Threads {
    parts: Vec<(Drain, Option<oneshot::Receiver<()>>)>,
}

/// Starts all parts, and returns when each has its addresses.
pub(super) async fn start(plan: &Plan, events: &mpsc::Sender<Event>) -> anyhow::Result<Threads> {
    let mut parts = Vec::with_capacity(plan.parts.len());
    for (index, part) in plan.parts.iter().enumerate() {
        let drain = drain_of(part);
        let ended = start_one(part, drain.clone(), events.clone()).await?;
        parts.push((drain, Some(ended)));
        let started = Event::Started {
            index,
            pid: std::process::id(),
            binary: None,
        };
        events.send(started).await.context("nobody listens any more")?;
    }
    Ok(Threads { parts })
}

impl Threads {
    /// Ends the parts of some kinds, and waits until they have.
    pub(super) async fn end(&mut self, plan: &Plan, of_wave: impl Fn(Kind) -> bool) {
        let mut ending = Vec::new();
        for ((drain, ended), part) in self.parts.iter_mut().zip(&plan.parts) {
            if of_wave(part.config.kind()) {
                drain.begin();
                ending.extend(ended.take().map(|ended| (part, ended)));
            }
        }
        for (part, ended) in ending {
            if tokio::time::timeout(part.config.drain() + AFTER_DRAIN, ended)
                .await
                .is_err()
            {
                tracing::error!(part = part.name, "didn't end in time");
            }
        }
    }
}

async fn start_one(
    part: &Planned,
    drain: Drain,
    events: mpsc::Sender<Event>,
) -> anyhow::Result<oneshot::Receiver<()>> {
    let (bound, is_bound) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let (name, config) = (part.name.clone(), part.config.clone());
    let body = move || {
        // Dropped with this thread, also by a panic.
        let _end = end;
        let mut bound = Some(bound);
        let served = run::runtime().and_then(|runtime| {
            let served = config.serve(drain.clone(), None, || {
                let _ = bound.take().map(|bound| bound.send(Ok(())));
            });
            runtime.block_on(served)
        });
        match (served, bound) {
            (Err(error), Some(bound)) => {
                let _ = bound.send(Err(error));
            }
            (served, _) if !drain.has_begun() => {
                let why = served
                    .err()
                    .map_or_else(|| "it ended by itself".to_owned(), |error| format!("{error:#}"));
                // A closed channel means that `up` is ending anyway.
                let _ = events.blocking_send(Event::Failed { name, why });
            }
            _ => {}
        }
    };
    let named = thread::Builder::new().name(part.name.clone());
    named
        .spawn(body)
        .with_context(|| format!("can't start a thread for {}", part.name))?;
    is_bound
        .await
        .unwrap_or_else(|_| Err(anyhow!("it panicked")))
        .with_context(|| format!("{} can't start", part.name))?;
    Ok(ended)
}
